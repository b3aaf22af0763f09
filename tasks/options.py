"""Values that people give for the fields of a model, checked with one line that helps."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from editing.edit import shown
from editing.errors import PolicyError

Model = TypeVar("Model", bound=BaseModel)


def checked(kind: type[Model], name: str, fields: Mapping[str, Any]) -> Model:
    """The model with these fields. Raises PolicyError that names the field, its value and what is allowed."""
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = f"; fields are {', '.join(kind.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise PolicyError(f"{name} {field} = {shown(first.get('input'))}: {first['msg'].lower()}{known}") from error
