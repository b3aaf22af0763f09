"""Every method by its name, and the functions that call the one that a configuration names.

A method is one file with a config class, its functions and a `Method`; it joins METHODS and AnyConfig here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, ValidationError
from torch import Tensor

from editing.config import MethodConfig, ValueSearchConfig
from editing.edit import Edit, shown
from editing.errors import UsageError
from editing.methods.alphaedit import ALPHAEDIT, AlphaEditConfig
from editing.methods.base import BatchUpdate, Method, Setting
from editing.methods.emmet import EMMET, EmmetConfig
from editing.methods.finetune import FINETUNE, FineTuneConfig
from editing.methods.lora import LORA, LoraConfig
from editing.methods.memit import MEMIT, MemitConfig
from editing.methods.rome import ROME, RomeConfig
from editing.methods.ultraedit import ULTRAEDIT, UltraEditConfig
from editing.restrain import Restraint
from editing.weights import WeightUpdate

METHODS: dict[str, Method[Any]] = {
    method.name: method for method in (MEMIT, ALPHAEDIT, EMMET, ROME, FINETUNE, ULTRAEDIT, LORA)
}
AnyConfig = Annotated[
    MemitConfig | AlphaEditConfig | EmmetConfig | RomeConfig | FineTuneConfig | UltraEditConfig | LoraConfig,
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


def compute_update(setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MethodConfig) -> BatchUpdate:
    """The update that writes `edits` as one batch by the method of `config`; the model is left as it is.

    Raises:
        SolveError: the linear system is singular.
        InvalidEdit: a subject is lost in tokenisation.
        EditingError: the method cannot work on these layers or statistics.
    """
    setting = _configured(setting, config)
    made = find_method(config.method).compute_update(setting, edits, z_star_nm, config)
    return replace(made, update=_restrained(setting, made.update))


def compute_independent_updates(
    setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MethodConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone; the model is left as it is.

    Raises:
        UsageError: the method cannot compute edits alone.
        SolveError, InvalidEdit, EditingError: as `compute_update`.
    """
    method = find_method(config.method)
    if method.compute_independent_updates is None:
        able = [one.name for one in METHODS.values() if one.compute_independent_updates is not None]
        raise UsageError(
            f"method '{method.name}' cannot write edits independently of each other; use sequential mode, or one of "
            f"{', '.join(able)}"
        )
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
