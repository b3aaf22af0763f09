"""Values out of records of any form, or one line that says what is wrong with them."""

from collections.abc import Mapping
from typing import Any

from editing.edit import InvalidField, shown

Fields = Mapping[str, object]


def needed(fields: Fields, name: str, inside: str = "") -> object:
    value = fields.get(name)
    if value is None:
        raise InvalidField(f"field '{name}' is missing; give it", field=f"{inside}.{name}" if inside else name)
    return value


def object_of(value: object, name: str) -> Fields:
    if not isinstance(value, Mapping):
        raise wrong(name, "an object", value)
    return value


def list_of(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(name, "a list", value)
    return value


def wrong(name: str, wanted: str, value: object) -> InvalidField:
    return InvalidField(f"field '{name}' must be {wanted}, and is {type(value).__name__} {shown(value)}", field=name)


def first(value: Any, name: str) -> object:
    """A text, or the first of a list (of lists) of texts; None where there is none. Other types are refused later."""
    while isinstance(value, (list, tuple)):
        value = next((member for member in value if member not in (None, "", [])), None)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise wrong(name, "a text or a list of texts", value)
    return value


def flat(value: Any) -> list[Any]:
    """One value, a list, or lists in a list, without the absent ones; what lies deeper is refused as no text."""
    members = [
        inner
        for member in (value if isinstance(value, (list, tuple)) else [value])
        for inner in (member if isinstance(member, (list, tuple)) else [member])
    ]
    return [member for member in members if member not in (None, "")]


def texts(fields: Fields, name: str) -> list[Any]:
    """A field that holds one text or several, as a list without the absent ones."""
    value = fields.get(name)
    return [text for text in ([value] if isinstance(value, str) else list_of(value, name)) if text not in (None, "")]
