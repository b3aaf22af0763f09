"""What others may read of values: secrets masked, nested names joined."""

import re
from collections.abc import Mapping
from typing import Any

SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)|secret|credential|api_?key|access_?key|^((auth|access|bearer|session|hf)_?)?token$",
    re.IGNORECASE,
)
URI_SECRET = re.compile(
    # A password may hold what an address would write otherwise: it ends at the last @. A port is none.
    r"(?<=://)([^/\s:@]*:)(?!\d+[/?#])(?:(?!://)\S)+(?=@)"
    r"|((?:(?<=http://)|(?<=https://)))[^/\s:@]+(?=@)"
    r"|([?&][\w-]*(?:password|secret|token|signature)=)[^&\s]+",
    re.IGNORECASE,
)


def masked(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without secrets: values under a telling name and passwords inside URIs become `***`."""

    def mask(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return masked(value)
        if isinstance(value, list | tuple):
            return [mask(name, item) for item in value]
        if value is not None and SECRET_NAME.search(name):
            return "***"
        return without_secrets(value) if isinstance(value, str) else value

    return {name: mask(name, value) for name, value in values.items()}


def without_secrets(text: str) -> str:
    """`text` with the passwords of the URIs in it masked."""
    return URI_SECRET.sub(r"\1\2\3***", text)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
