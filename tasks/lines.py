"""A line: one served model, made of a base and a method's configuration; fixed when it is created."""

from typing import Any

from pydantic import ValidationError

from editing.config import Config
from editing.errors import ObjectConflict, ObjectNotFound, StorageError, UsageError
from editing.methods import method_config
from editing.methods.memit import MemitConfig
from tasks.objects import ObjectStore
from tasks.settings import Settings
from tasks.snapshots import check_line


class LineSpec(Config):
    """What a version of the line is a function of, besides its facts."""

    line: str
    model: str
    dtype: str = "float32"
    config: MemitConfig = MemitConfig()


def spec_key(line: str) -> str:
    return f"lines/{check_line(line)}/line.json"


def read_line(store: ObjectStore, line: str) -> LineSpec | None:
    """The line's definition, or None when it does not exist yet."""
    try:
        data, _ = store.get(spec_key(line))
    except ObjectNotFound:
        return None
    try:
        return LineSpec.model_validate_json(data)
    except ValidationError as error:
        raise StorageError(
            f"{store.uri}/{spec_key(line)} is not a line's definition: {error.errors()[0]['msg']}"
        ) from None


def ensure_line(
    store: ObjectStore,
    settings: Settings,
    line: str,
    *,
    model: str | None = None,
    dtype: str | None = None,
    method: str | None = None,
    fields: dict[str, Any] | None = None,
) -> LineSpec:
    """The line, created on first use from the settings and what is given.

    Raises:
        UsageError: the line exists and is defined otherwise than asked.
    """
    found = read_line(store, line)
    if found is None:
        spec = LineSpec(
            line=line,
            model=model or settings.model,
            dtype=dtype or settings.dtype,
            config=method_config(method or "memit", fields),
        )
        try:
            store.put_if_absent(spec_key(line), spec.model_dump_json(indent=1).encode())
            return spec
        except ObjectConflict:
            found = read_line(store, line)
            assert found is not None
    asked = {"model": model, "dtype": dtype, "method": method}
    fixed = {"model": found.model, "dtype": found.dtype, "method": found.config.method}
    for name, value in asked.items():
        if value is not None and value != fixed[name]:
            raise UsageError(
                f"line '{line}' has {name} '{fixed[name]}', not '{value}'; leave --{name} out or choose another line"
            )
    if fields and method_config(found.config.method, fields) != found.config:
        raise UsageError(
            f"line '{line}' is configured otherwise; leave the method's options out or choose another line"
        )
    return found
