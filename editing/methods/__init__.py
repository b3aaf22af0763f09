"""Every method by its name, and the functions that call the one that a configuration names.

A method is one file with a config class, its functions and a `Method`; it joins METHODS and AnyConfig here. Below this
folder stand `mend/`, then `gradients/` (what methods that learn by gradients share), then `shared/` (what all share);
none of them imports what stands here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from editing.chat import check_conversations
from editing.config import BEFORE_SHRINKAGE, Config, MethodConfig, SpreadingConfig, layers_for
from editing.edit import Edit, shown
from editing.errors import UsageError
from editing.groups import KeyGroup, KeyNames, canonical_order
from editing.layout import ModelLayout, check_layer_numbers, check_layers
from editing.methods.alphaedit import ALPHAEDIT, AlphaEditConfig
from editing.methods.emmet import EMMET, EmmetConfig
from editing.methods.finetune import FINETUNE, FineTuneConfig
from editing.methods.lora import LORA, LoraConfig, check_in_place
from editing.methods.memit import MEMIT, MemitConfig
from editing.methods.mend.method import MEND, MendConfig
from editing.methods.restrain import Restraint
from editing.methods.rome import ROME, RomeConfig
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput, edited_weights
from editing.methods.ultraedit import ULTRAEDIT, UltraEditConfig
from editing.progress import part_of
from editing.shortage import BATCH, within_memory
from editing.tokens import check_edits
from editing.weights import EditedWeights, WeightUpdate, concatenate

METHODS: dict[str, Method[Any]] = {
    method.name: method for method in (MEMIT, ALPHAEDIT, EMMET, ROME, FINETUNE, ULTRAEDIT, LORA, MEND)
}
MODES = ("sequential", "independent", "rebase")
REPLAYED_AT_ONCE = 10
CANNOT = {"independent": "edits independently of each other", "rebase": "all facts together from the base"}
"""What a method that lacks a mode cannot do."""
ONCE_IN_EVERY_CONFIG = ("contexts", "context_tokens", "statistics_tokens", "search", "spread")
"""Fields that a config of every method had in release 0.1, whether the method looked at them or not."""


def _as_it_was_meant(stored: Any) -> Any:
    """A stored config of an earlier release, with what it did not say and without what its method did not look at.

    So the definition of a line is read as what it meant: one without the field `shrink` as BEFORE_SHRINKAGE says, one
    without `compensate` as a filter, one with fields of ONCE_IN_EVERY_CONFIG that its method does not have as if they
    were not there (`statistics_tokens` also moved the text of perplexity, which is now the same for all). Any other
    unknown field is refused.
    """
    name = stored.get("method") if isinstance(stored, dict) else None
    if not isinstance(name, str) or name not in METHODS:
        return stored
    fields = METHODS[name].config.model_fields
    if "shrink" in fields and "shrink" not in stored:
        stored = before_shrinkage(name) | stored
    stored = {"compensate": False} | stored
    return {name: value for name, value in stored.items() if name in fields or name not in ONCE_IN_EVERY_CONFIG}


def before_shrinkage(name: str) -> dict[str, Any]:
    """BEFORE_SHRINKAGE as far as the method has these fields."""
    return {field: value for field, value in BEFORE_SHRINKAGE.items() if field in find_method(name).config.model_fields}


AnyConfig = Annotated[
    MemitConfig
    | AlphaEditConfig
    | EmmetConfig
    | RomeConfig
    | FineTuneConfig
    | UltraEditConfig
    | LoraConfig
    | MendConfig,
    Field(discriminator="method"),
    BeforeValidator(_as_it_was_meant),
]
"""The type of a stored config: read back as the class of its method, those of earlier releases included."""


def method_config(name: str, fields: dict[str, Any] | None = None) -> AnyConfig:
    """The checked configuration of a method.

    Raises:
        UsageError: no such method, an unknown field, or a value out of its range.
    """
    config = find_method(name).config
    try:
        checked: AnyConfig = config.model_validate(fields or {})
    except ValidationError as error:
        raise UsageError(f"method {name}: {_explained(config, error.errors()[0])}") from error
    return checked


def _explained(config: type[MethodConfig], first: ErrorDetails) -> str:
    """What is wrong with a field; of one that the method does not have, which it has."""
    path = [str(part) for part in first["loc"]]
    value = f"{'.'.join(path)} = {shown(first['input'])}"
    if first["type"] != "extra_forbidden":
        return f"{value}: {first['msg'].lower()}"
    known: type[Config] = config
    for part in path[:-1]:
        inner = known.model_fields[part].annotation
        assert isinstance(inner, type) and issubclass(inner, Config)
        known = inner
    takes = [field for field in known.model_fields if field != "method"]
    return f"{value}: there is no such field; fields are {', '.join(takes)}"


def find_method(name: str) -> Method[Any]:
    """Raises UsageError when there is no such method."""
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'; known are {', '.join(METHODS)}")
    return METHODS[name]


def check_mode(name: str, mode: str) -> None:
    """Raises UsageError when there is no such mode, or the method cannot work in it."""
    if mode not in MODES:
        raise UsageError(f"mode is '{mode}'; choose one of {', '.join(MODES)}")
    able = [method.name for method in METHODS.values() if mode in method.modes]
    if mode not in find_method(name).modes:
        raise UsageError(
            f"method '{name}' cannot write {CANNOT[mode]}; use sequential mode, or one of {', '.join(able)}"
        )


@within_memory(BATCH)
def compute_update(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: MethodConfig, *, live: Sequence[Edit] = ()
) -> BatchUpdate:
    """The update that writes `edits` as one batch by the method of `config`; the model is left as it is.

    Args:
        z_star_nm: of each edit, those that share a key the same (editing/groups.py), as `search_values` gives them.
        live: facts that stand in the weights and share a key with one of `edits`: their value was searched again with
            these, so that what they wrote is taken out first (editing/methods/locate.py).

    Raises:
        SolveError: the linear system is singular.
        UsageError: there are such facts, and the model's edited weights are not given.
        InvalidEdit: a subject is lost in tokenisation, or an edit is longer than the model reads.
        StatisticsError: the key statistics are those of other layers or of another model.
        EditingError: the method cannot work on these layers or statistics.
    """
    _check(given, edits, config)
    given, method = _configured(given, config), find_method(config.method)
    if not method.searches:
        made = method.compute_update(given, edits, z_star_nm, config)
        return replace(made, update=_restrained(given, made.update))
    given, groups = _grouped(given, edits, live)
    first = [numbers[0] for numbers in groups]
    made = method.compute_update(given, [edits[i] for i in first], z_star_nm[first], config)
    return replace(made, update=_restrained(given, made.update))


def _grouped(
    given: MethodInput, edits: Sequence[Edit], live: Sequence[Edit] = ()
) -> tuple[MethodInput, list[tuple[int, ...]]]:
    """What a method is given with the groups of the edits, and the numbers of the edits of each."""
    keys = KeyNames(given.tokenizer, given.prefixes)
    groups = keys.groups(edits)
    members = [tuple(edits[i] for i in numbers) for numbers in groups]
    made = tuple(KeyGroup(some, tuple(keys.sharing(some[:1], live))) for some in members)
    return replace(given, groups=made), groups


def compute_rebase(given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: MethodConfig) -> BatchUpdate:
    """The one update that writes all facts together, on the model at its base and with an empty history.

    Facts enter in one canonical order (`editing.groups.canonical_order`), so that equal facts with equal values give
    equal bits, whatever order they are given in; keys are in that order. Products of numbers differ in their last bits
    between processors and numbers of threads, and so do then the bits.

    MEMIT and AlphaEdit solve once a layer over all keys: what batches in sequence with history come to, exactly so at
    one layer and one context (keys are means over contexts, residuals are the bare prompts'). EMMET puts all
    constraints into one solve, ROME writes its rank-one changes in their order. Memory is linear in the edits.

    Raises:
        UsageError: the method cannot do this, the history holds facts, or there is not one z* for each edit.
        SolveError, InvalidEdit, EditingError: as `compute_update`.
    """
    check_mode(config.method, "rebase")
    _check_at_base(given)
    if len(edits) != len(z_star_nm):
        raise UsageError(f"{len(edits)} edits have {len(z_star_nm)} values z*; search one for each edit")
    order = canonical_order(edits)
    return compute_update(given, [edits[i] for i in order], z_star_nm[order], config) if edits else BatchUpdate({}, {})


def compute_replay(
    given: MethodInput, weights: EditedWeights, edits: Sequence[Edit], config: MethodConfig
) -> BatchUpdate:
    """The update that writes facts anew from the base where a method has no values to solve from: batch by batch.

    Batches are of REPLAYED_AT_ONCE in the given order, each on what those before it wrote, so that equal facts in equal
    order give equal bits. The model is at its base, and is then.

    Raises:
        UsageError: the history holds facts.
        SolveError, InvalidEdit, EditingError: as `compute_update`.
    """
    _check_at_base(given)
    given, tell = replace(given, history=KeyHistory()), given.on_progress
    made: list[BatchUpdate] = []
    try:
        for start in range(0, len(edits), REPLAYED_AT_ONCE):
            some = edits[start : start + REPLAYED_AT_ONCE]
            part = replace(given, on_progress=part_of(tell, start, len(some), len(edits)))
            batch = compute_update(part, some, torch.zeros(len(some), 0), config)
            weights.apply(batch.update)
            given.history.add(batch.keys, batch.moments)
            made.append(batch)
    finally:
        weights.to_base()
    keys = {layer: torch.cat([one.keys[layer] for one in made]) for layer in (made[0].keys if made else ())}
    return BatchUpdate(concatenate([one.update for one in made]), keys, given.history.moments)


def _check_at_base(given: MethodInput) -> None:
    if given.history.count:
        raise UsageError(
            f"a rebase starts from the base, the history holds {given.history.count} facts; put the base back and "
            "give an empty history with all facts as edits"
        )


@within_memory(BATCH)
def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: MethodConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone, with those that share its key; the model is left as it is.

    Raises:
        UsageError: the method cannot compute edits alone.
        SolveError, InvalidEdit, EditingError: as `compute_update`.
    """
    check_mode(config.method, "independent")
    _check(given, edits, config)
    method = find_method(config.method)
    assert method.compute_independent_updates is not None
    given = _configured(given, config)
    if not method.searches:
        updates = method.compute_independent_updates(given, edits, z_star_nm, config)
        return [_restrained(given, update) for update in updates]
    given, groups = _grouped(given, edits)
    first = [numbers[0] for numbers in groups]
    updates = method.compute_independent_updates(given, [edits[i] for i in first], z_star_nm[first], config)
    restrained = [_restrained(given, update) for update in updates]
    of = {number: update for numbers, update in zip(groups, restrained, strict=True) for number in numbers}
    return [of[number] for number in range(len(edits))]


def _configured(given: MethodInput, config: MethodConfig) -> MethodInput:
    """What the method is given, with what the configuration asks of the parts that methods share."""
    if isinstance(config, SpreadingConfig):
        given = replace(given, spread=config.spread)
    if config.norm_clamp is None and config.protect is None:
        return given
    weights = edited_weights(given, "norm_clamp or protect")
    return replace(given, restrain=Restraint(weights, config))


def _restrained(given: MethodInput, update: WeightUpdate) -> WeightUpdate:
    return {name: given.restrain(name, factors) for name, factors in update.items()}


def edited_layers(model: PreTrainedModel, layout: ModelLayout, config: MethodConfig) -> tuple[int, ...]:
    """The layers that a configuration edits in this model. Raises ModelError when it cannot."""
    if config.method == LORA.name:
        check_in_place(model)
    return _layers_of(config, model.config, len(layout.layer_list(model)))


def layers_of(config: MethodConfig, base: PreTrainedConfig) -> tuple[int, ...]:
    """The same of a model that is not loaded yet, by its config."""
    return _layers_of(config, base, base.get_text_config().num_hidden_layers)


def _layers_of(config: MethodConfig, base: PreTrainedConfig, count: int) -> tuple[int, ...]:
    layers = layers_for(config, base.model_type, count, base.get_text_config().hidden_size)
    check_layer_numbers(count, layers, searched=find_method(config.method).searches)
    return layers


def _check(given: MethodInput, edits: Sequence[Edit], config: MethodConfig) -> None:
    """Raises ModelError or InvalidEdit for layers or edits that this model cannot take."""
    searched = find_method(config.method).searches
    check_layers(given.model, given.layout, given.layers, searched=searched)
    check_edits(given.model, given.tokenizer, edits, given.prefixes)
    check_conversations(given.model, edits, given.chat)
