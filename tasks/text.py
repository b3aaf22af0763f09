"""Text that comes from outside, made fit for every file and database.

A command's argument with a byte that is no UTF-8 reaches Python as half of a surrogate pair, which no UTF-8 file and
no database takes. It is stored as the text of its escape: `\\udcff`.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator


def storable(value: Any) -> Any:
    """The value with every text in it storable, in lists and mappings too."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


Text = Annotated[str, BeforeValidator(storable)]
"""A field that holds whatever a user wrote, as it can be stored."""
