"""Every method by its name, and the functions that call the one that a configuration names.

A method is one file with a config class, its functions and a `Method`; it joins METHODS and AnyConfig here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from editing.config import MethodConfig, ValueSearchConfig, layers_for
from editing.edit import Edit, shown
from editing.errors import UsageError
from editing.layout import ModelLayout, check_layers
from editing.methods.alphaedit import ALPHAEDIT, AlphaEditConfig
from editing.methods.base import BatchUpdate, Method, Setting
from editing.methods.emmet import EMMET, EmmetConfig
from editing.methods.finetune import FINETUNE, FineTuneConfig
from editing.methods.lora import LORA, LoraConfig
from editing.methods.memit import MEMIT, MemitConfig
from editing.methods.mend.method import MEND, MendConfig
from editing.methods.restrain import Restraint
from editing.methods.rome import ROME, RomeConfig
from editing.methods.ultraedit import ULTRAEDIT, UltraEditConfig
from editing.tokens import check_edits
from editing.weights import WeightUpdate

METHODS: dict[str, Method[Any]] = {
    method.name: method for method in (MEMIT, ALPHAEDIT, EMMET, ROME, FINETUNE, ULTRAEDIT, LORA, MEND)
}
MODES = ("sequential", "independent", "rebase")
CANNOT = {"independent": "edits independently of each other", "rebase": "all facts together from the base"}
"""What a method that lacks a mode cannot do."""
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
]
"""The type of a stored config: read back as the class of its method."""


def method_config(name: str, fields: dict[str, Any] | None = None) -> AnyConfig:
    """The checked configuration of a method.

    Raises:
        UsageError: no such method, an unknown field, or a value out of its range.
    """
    config = find_method(name).config
    try:
        checked: AnyConfig = config.model_validate(fields or {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = ValueSearchConfig.model_fields if first["loc"][0] == "search" else config.model_fields
        hint = f"; fields are {', '.join(known)}" if first["type"] == "extra_forbidden" else ""
        value, problem = shown(first.get("input")), first["msg"].lower()
        raise UsageError(f"method {name}: {field} = {value}: {problem}{hint}") from None
    return checked


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


def compute_update(setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MethodConfig) -> BatchUpdate:
    """The update that writes `edits` as one batch by the method of `config`; the model is left as it is.

    Raises:
        SolveError: the linear system is singular.
        InvalidEdit: a subject is lost in tokenisation, or an edit is longer than the model reads.
        StatisticsError: the key statistics are those of other layers or of another model.
        EditingError: the method cannot work on these layers or statistics.
    """
    _check(setting, edits, config)
    setting = _configured(setting, config)
    made = find_method(config.method).compute_update(setting, edits, z_star_nm, config)
    return replace(made, update=_restrained(setting, made.update))


def compute_rebase(setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MethodConfig) -> BatchUpdate:
    """The one update that writes all facts together, on the model at its base and with an empty history.

    MEMIT and AlphaEdit solve once a layer over all keys: what batches in sequence with history come to, exactly so at
    one layer and one context (keys are means over contexts, residuals are the bare prompts'). EMMET puts all
    constraints into one solve, ROME writes its rank-one changes in their order. Memory is linear in the edits beside
    what the solve itself needs; z* may come from a cache.

    Raises:
        UsageError: the method cannot do this, the history holds facts, or there is not one z* for each edit.
        SolveError, InvalidEdit, EditingError: as `compute_update`.
    """
    check_mode(config.method, "rebase")
    if setting.history.count:
        raise UsageError(
            f"a rebase starts from the base, the history holds {setting.history.count} facts; put the base back and "
            "give an empty history with all facts as edits"
        )
    if len(edits) != len(z_star_nm):
        raise UsageError(f"{len(edits)} edits have {len(z_star_nm)} values z*; search one for each edit")
    return compute_update(setting, edits, z_star_nm, config) if edits else BatchUpdate({}, {})


def compute_independent_updates(
    setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MethodConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone; the model is left as it is.

    Raises:
        UsageError: the method cannot compute edits alone.
        SolveError, InvalidEdit, EditingError: as `compute_update`.
    """
    check_mode(config.method, "independent")
    _check(setting, edits, config)
    method = find_method(config.method)
    assert method.compute_independent_updates is not None
    setting = _configured(setting, config)
    updates = method.compute_independent_updates(setting, edits, z_star_nm, config)
    return [_restrained(setting, update) for update in updates]


def _configured(setting: Setting, config: MethodConfig) -> Setting:
    """The setting with what the configuration asks of every method."""
    setting = replace(setting, spread=config.spread)
    if config.norm_clamp is None and config.protect is None:
        return setting
    if setting.weights is None:
        raise UsageError("norm_clamp and protect need the original weights; make the Setting with its EditedWeights")
    return replace(setting, restrain=Restraint(setting.weights, config))


def _restrained(setting: Setting, update: WeightUpdate) -> WeightUpdate:
    return {name: setting.restrain(name, factors) for name, factors in update.items()}


def edited_layers(model: PreTrainedModel, layout: ModelLayout, config: MethodConfig) -> tuple[int, ...]:
    """The layers that a configuration edits in this model. Raises ModelError when it cannot."""
    count, hidden = len(layout.layer_list(model)), model.config.get_text_config().hidden_size
    layers = layers_for(config, model.config.model_type, count, hidden)
    check_layers(model, layout, layers, searched=find_method(config.method).searches)
    return layers


def _check(setting: Setting, edits: Sequence[Edit], config: MethodConfig) -> None:
    """Raises ModelError or InvalidEdit for layers or edits that this model cannot take."""
    searched = find_method(config.method).searches
    check_layers(setting.model, setting.layout, setting.layers, searched=searched)
    check_edits(setting.model, setting.tokenizer, edits, setting.prefixes)
