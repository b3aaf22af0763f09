"""Values that people give for the fields of a model, checked with one line that helps."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from editing.edit import shown
from editing.errors import ErrataError, PolicyError
from editing.readers.names import ALIKE

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
        known = _known(kind, place) if first["type"] == "extra_forbidden" else ""
        raise PolicyError(f"{name} {field} = {shown(first.get('input'))}: {said.lower()}{known}") from error


def nested(values: Mapping[str, Any], kind: str, error: type[ErrataError] = PolicyError) -> dict[str, Any]:
    """Values whose names may have dots, as mappings in mappings; of a name given twice the later value holds.

    Raises `error` that begins with `kind` where a name has a value and, by dots, others inside.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        *outer, last = name.split(".")
        below = {last: value}
        for part in reversed(outer):
            below = {part: below}
        if clash := _clash(found, below):
            place, first = clash
            raise error(f"{kind} {name} = {shown(value)}: {place} = {shown(first)} was given too; leave one out")
        found = merged(found, below)
    return found


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values of two sources, inner ones too; those of `above` win."""
    found = dict(below)
    for name, value in above.items():
        under = found.get(name)
        found[name] = merged(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
    return found


def _clash(below: Mapping[str, Any], above: Mapping[str, Any], place: str = "") -> tuple[str, Any] | None:
    """Where one of two has a mapping and the other has not, and what the first has there."""
    for name in below.keys() & above.keys():
        one, other = below[name], above[name]
        if isinstance(one, dict) != isinstance(other, dict):
            return f"{place}{name}", one
        if isinstance(one, dict) and (found := _clash(one, other, f"{place}{name}.")):
            return found
    return None


def _known(kind: type[BaseModel], place: Sequence[str]) -> str:
    """Which fields there are where one was given that is none, those first that were meant, perhaps."""
    *outer, name = place
    for part in outer:
        if not part.isdecimal():  # a place in a list, whose annotation names the model already
            kind = next(_inside(kind, part))
    within = [
        f"{field}.{name}" for field in kind.model_fields for one in _inside(kind, field) if name in one.model_fields
    ]
    near = within or get_close_matches(name, kind.model_fields, n=1, cutoff=ALIKE)
    meant = " or ".join(shown(".".join([*outer, one])) for one in near)
    return f"; {f'did you mean {meant}? ' if near else ''}fields are {', '.join(kind.model_fields)}"


def _inside(kind: type[BaseModel], field: str) -> Iterator[type[BaseModel]]:
    """The models that a field may hold."""
    annotation = kind.model_fields[field].annotation
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one
