"""A calibration from its first question to its record in the store."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

from editing.cache import Cache
from editing.config import layers_for
from editing.edit import Edit
from editing.layout import layout_of
from editing.methods.memit import MemitConfig
from editing.models import LoadedModel
from tasks.base_model import loaded_base
from tasks.calibrating.facts import RELATIONS, Relation, ask_relation, make_facts, read_relations, told
from tasks.calibrating.search import (
    SEARCH_VERSION,
    CalibrationPlan,
    Search,
    every_layer,
    layers_tried,
    read_strings_by_name,
)
from tasks.lines.calibrations import Calibration, save_calibration
from tasks.lines.specs import LineSpec
from tasks.meter import Meter
from tasks.settings import Settings
from tasks.stores.opening import open_store
from tasks.update.prepared import dump_json
from tasks.update.session import MEASURED_VERSION, session_on


def calibrate(
    settings: Settings, model: str, dtype: str, plan: CalibrationPlan, relations: Path = RELATIONS
) -> Calibration:
    """Find what suits a base, and store it for its new lines.

    Killed at any point it can be started again: what was asked, searched and tried is in the cache.

    Raises:
        ModelError: the model cannot be loaded, or not be edited.
        UsageError: it knows too few facts to try on.
        StorageError: the store cannot be written.
    """
    store = open_store(settings.store_uri, endpoint_url=settings.s3_endpoint_url, create=True)
    loaded = loaded_base(model, dtype, settings)
    facts = known_facts(loaded, read_relations(relations), Cache(settings.cache_folder), plan)
    layout, config = layout_of(loaded.model), MemitConfig(statistics_tokens=plan.statistics_tokens)
    count, text = len(layout.layer_list(loaded.model)), loaded.model.config.get_text_config()
    rule = layers_for(config, loaded.model.config.model_type, count, text.hidden_size)
    windows = layers_tried(rule, count, layout.key_size(loaded.model), plan)
    every = every_layer(windows)
    spec = LineSpec(line="calibration", model=model, dtype=dtype, config=config.model_copy(update={"layers": every}))
    search = Search(session_on(loaded, spec, settings), facts, plan, rule)
    trials, first, best = search.run()
    found = Calibration(
        base_digest=loaded.digest,
        model=model,
        release=importlib.metadata.version("errata-lm"),
        plan=plan.model_dump(mode="json") | {"version": SEARCH_VERSION},
        facts=tuple(map(told, facts)),
        trials=tuple(trials),
        rule=first,
        chosen=best,
    )
    save_calibration(store, found)
    return found


def known_facts(loaded: LoadedModel, relations: Sequence[Relation], cache: Cache, plan: CalibrationPlan) -> list[Edit]:
    """What to try on; what the model was asked is kept, relation by relation."""

    def ask(missing: list[int]) -> Iterator[dict[str, str]]:
        with Meter("what the model knows", len(missing)) as meter:
            for number in missing:
                part = meter.part(1)
                yield ask_relation(loaded, relations[number])
                part(1, 1)

    abouts = [
        [loaded.digest, MEASURED_VERSION, SEARCH_VERSION, relation.model_dump(mode="json")] for relation in relations
    ]
    said = cache.get_all("known", abouts, ask, dump_json, read_strings_by_name)
    return make_facts(list(zip(relations, said, strict=True)), plan.facts, plan.seed)
