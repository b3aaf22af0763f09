"""Read edits from .json, .jsonl, .csv and .parquet files, one record at a time.

A bad record never stops the others: it comes out as a BadRecord that names its row and field. What keeps a file from
being read on (missing, empty, too large, a JSON list with broken syntax) is a ReadError. The forms of records are
told apart by their fields (see editing.readers.forms), the kinds of files by their ending.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from editing.edit import Edit, InvalidField, shown
from editing.errors import ReadError, UsageError
from editing.readers.csv_rows import csv_rows
from editing.readers.forms import edit_from, own_from_text
from editing.readers.json_values import json_lines, json_values
from editing.readers.lines import Broken, Found, Source, check_file
from editing.readers.mquake import is_mquake, mquake_edits

RAW_LENGTH: Final = 2_000
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

ParquetRows = Callable[[Path], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no edit: its row (from 1), the field at fault where one is, the reason, and what it said."""

    row: int
    field: str | None
    reason: str
    raw: str


Record = Edit | BadRecord


def read_edits(
    path: Path, *, limit: int | None = None, parquet_rows: ParquetRows | None = None, unused: set[str] | None = None
) -> Iterator[Record]:
    """The records of one file, in its order.

    Args:
        limit: read at most so many records, good and bad together.
        parquet_rows: gives the rows of a Parquet file as mappings, for example tasks.parquet.parquet_rows.
        unused: takes the names of the fields that nobody reads, while the records are read.

    Raises:
        ReadError: at once where the file cannot be opened, on the way where it cannot be read on.
        UsageError: limit is negative.
    """
    if limit is not None and limit < 0:
        raise UsageError(f"limit is {limit}; give 0 or more, or None for all records")
    return islice(chain.from_iterable(read_cases(path, parquet_rows=parquet_rows, unused=unused)), limit)


def read_cases(
    path: Path, *, parquet_rows: ParquetRows | None = None, unused: set[str] | None = None
) -> Iterator[list[Record]]:
    """The same by the record of the file that they stand in: MQuAKE's hold several facts that belong together.

    Raises:
        ReadError: as read_edits.
    """
    path = Path(path)
    check_file(path)
    return _records(_source(path, parquet_rows), path, unused)


def read_all(path: Path, *, limit: int | None = None, parquet_rows: ParquetRows | None = None) -> list[Edit]:
    """All edits of a file in which each record is to be good.

    Raises:
        ReadError: as read_edits, and at the first bad record, which it names.
    """
    edits = []
    for record in read_edits(path, limit=limit, parquet_rows=parquet_rows):
        if isinstance(record, BadRecord):
            raise ReadError(f"{str(path)!r} row {record.row}: {record.reason}")
        edits.append(record)
    return edits


def record_from(value: object, row: int, raw: str | None = None) -> Record:
    """The first of `records_from`: all there is of every form but MQuAKE's."""
    return records_from(value, row, raw)[0]


def records_from(value: object, row: int, raw: str | None = None, unused: set[str] | None = None) -> list[Record]:
    """The facts of one parsed record of any known form as edits, or one BadRecord that says why not."""
    try:
        if isinstance(value, Mapping):
            return [*mquake_edits(value, unused)] if is_mquake(value) else [edit_from(value, unused)]
        reason, field = f"the record must be an object with fields, and is {type(value).__name__} {shown(value)}", None
    except InvalidField as error:
        reason, field = str(error), error.field
    return [BadRecord(row, field, reason, printable(_written(value) if raw is None else raw))]


def printable(text: str) -> str:
    """At most RAW_LENGTH characters that any store takes: no half surrogate pairs, NUL or control characters."""
    text = text[:RAW_LENGTH].encode("utf-8", "backslashreplace").decode("utf-8")
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)[:RAW_LENGTH]


def _source(path: Path, parquet_rows: ParquetRows | None) -> Source:
    match path.suffix.lower():
        case ".json":
            return json_values(path)
        case ".jsonl":
            return json_lines(path)
        case ".csv":
            return _csv(path)
        case ".parquet" if parquet_rows is not None:
            return (Found(row, value) for row, value in enumerate(parquet_rows(path), start=1))
        case ".parquet":
            raise ReadError(f"{str(path)!r} is Parquet; pass parquet_rows=tasks.parquet.parquet_rows to read it")
        case other:
            raise ReadError(f"{str(path)!r} ends in {other!r}; the endings read are .json, .jsonl, .csv and .parquet")


def good_and_bad(records: Iterable[Record]) -> tuple[list[Edit], list[BadRecord]]:
    """The records that are edits, and those that are none, each in its order."""
    found = list(records)
    good = [record for record in found if isinstance(record, Edit)]
    return good, [record for record in found if isinstance(record, BadRecord)]


def _csv(path: Path) -> Source:
    for found in csv_rows(path):
        if isinstance(found, Found) and isinstance(found.value, dict):
            yield found._replace(value=own_from_text(found.value))
        else:
            yield found


def _records(source: Source, path: Path, unused: set[str] | None) -> Iterator[list[Record]]:
    empty = True
    try:
        for found in source:
            empty = False
            if isinstance(found, Broken):
                yield [BadRecord(found.row, None, found.reason, printable(found.raw))]
            else:
                yield records_from(found.value, found.row, found.raw, unused)
    except OSError as error:
        raise ReadError(f"cannot read {str(path)!r}: {error}") from error
    if empty:
        raise ReadError(f"{str(path)!r} holds no record; give a file with at least one")


def _written(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError, ValueError):
        return f"<{type(value).__name__}>"
