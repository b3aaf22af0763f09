"""The form of a flow's parameters, as Prefect's pages show it and as its server checks what is filled in."""

from collections.abc import Mapping
from typing import Any


def form_of(flow: Any) -> dict[str, Any]:
    """The schema of a flow's parameters, plain where it can be."""
    schema: dict[str, Any] = flow.parameters.model_dump_for_openapi()
    return {name: _plain(value) for name, value in schema.items()}


def _plain(value: Any) -> Any:
    """Without the alternative of null: a field that may be left empty is a plain one without a default.

    Prefect's server takes null for such a field, too. With the alternative its page asks for a kind of value first.
    """
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {name: _plain(item) for name, item in value.items()}
    offered = [one for one in found.get("anyOf", []) if one != {"type": "null"}]
    if "anyOf" in found and len(offered) == 1:
        del found["anyOf"]
        if found.get("default") is None:
            found.pop("default", None)
        found = offered[0] | found
    return found
