"""Every method by its name: a config class, and functions that compute updates from it."""

from typing import Any

from pydantic import ValidationError

from editing.config import ValueSearchConfig
from editing.edit import shown
from editing.errors import UsageError
from editing.methods.memit import MemitConfig

METHODS: dict[str, type[MemitConfig]] = {"memit": MemitConfig}


def method_config(name: str, fields: dict[str, Any] | None = None) -> MemitConfig:
    """The checked configuration of a method.

    Raises:
        UsageError: no such method, an unknown field, or a value out of its range.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'; known are {', '.join(sorted(METHODS))}")
    try:
        return METHODS[name].model_validate(fields or {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = ValueSearchConfig.model_fields if first["loc"][0] == "search" else METHODS[name].model_fields
        hint = f"; fields are {', '.join(known)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(
            f"method {name}: {field} = {shown(first.get('input'))}: {first['msg'].lower()}{hint}"
        ) from None
