"""Records as they are stored: canonical JSON, proven to be readable before anything is written."""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from editing.digests import canonical_json
from editing.errors import UsageError
from tasks.stores.errors import NewerFormat, RecordError

Record = TypeVar("Record", bound=BaseModel)


def record_bytes(record: BaseModel) -> bytes:
    """What is stored of a record. It was read back, and came out equal.

    Raises:
        RecordError: a field holds what JSON or UTF-8 cannot.
    """
    kind, again = type(record), None
    try:
        data = canonical_json(record.model_dump(mode="json"))
        again = canonical_json(kind.model_validate_json(data).model_dump(mode="json"))
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{_shown(kind)} cannot be stored: {_reason(error)}; nothing was written") from error
    if again != data:
        raise RecordError(f"{_shown(kind)} would be read back as another one; nothing was written")
    return data


RESTORE = "restore it from a copy of the store"


def read_record(kind: type[Record], data: bytes, where: str, remedy: str = RESTORE) -> Record:
    """The record in stored bytes. `where` (the key and the store) and `remedy` are for messages.

    Read by way of plain values: texts with half a surrogate pair, which release 0.1 could write and then not read,
    come out as they would be stored today.

    Raises:
        NewerFormat: a later release wrote it.
        RecordError: it is damaged.
    """
    try:
        values = json.loads(data)
        if isinstance(values, dict):
            _check_format(values.get("format", 1), getattr(kind, "FORMAT", 1), where)
        return kind.model_validate(values)
    except (ValueError, TypeError, RecursionError, UsageError) as error:
        raise RecordError(f"{where} cannot be read, it is damaged ({_reason(error)}): {remedy}") from error


def _check_format(found: object, known: int, where: str) -> None:
    if isinstance(found, int) and found > known:
        raise NewerFormat(f"{where} was written by a newer Errata (format {found}, this one reads {known}): update")


def _shown(kind: type[BaseModel]) -> str:
    return f"a record of the kind {kind.__name__}"


def _reason(error: Exception) -> str:
    """The first thing that is wrong, on one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else first["msg"]
    return " ".join(str(error).split())[:200] or type(error).__name__
