"""Values that people give for the fields of a model, checked with one line that helps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

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
        place = [str(part) for part in first["loc"]]
        field, said = ".".join(place), first["msg"].removeprefix("Value error, ")
        # What contradicts itself is told by whoever found it, in its own words.
        if first["type"] == "value_error" and not isinstance(first.get("input"), str | int | float):
            raise PolicyError(f"{name} {f'{field}: ' if field else ''}{said}") from error
        known = f"; fields are {', '.join(_fields(kind, place[:-1]))}" if first["type"] == "extra_forbidden" else ""
        raise PolicyError(f"{name} {field} = {shown(first.get('input'))}: {said.lower()}{known}") from error


def _fields(kind: type[BaseModel], place: Sequence[str]) -> Iterable[str]:
    """The fields at a place within a model."""
    for part in place:
        if part.isdecimal():  # a place in a list, whose annotation names the model already
            continue
        field = kind.model_fields[part].annotation
        models = [one for one in (field, *get_args(field)) if isinstance(one, type) and issubclass(one, BaseModel)]
        kind = models[0]
    return kind.model_fields
