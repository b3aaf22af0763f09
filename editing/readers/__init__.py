"""Read edits from files of many kinds, one record at a time.

A bad record never stops the others: it comes out as a BadRecord that names its row and field. What keeps a file from
being read on (missing, empty, too large, a JSON list with broken syntax) is a ReadError. The forms of records are
told apart by their fields (see editing.readers.forms), the kinds of files by what stands in them
(editing.readers.containers). What has no place, and what was left out of a record, is said in `Told`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from editing.edit import Edit, InvalidField, shown
from editing.errors import ReadError, UsageError
from editing.readers.containers import Foreign, as_it_is, records_in
from editing.readers.flat import edit_of
from editing.readers.forms import form_of
from editing.readers.lines import Broken, Found, check_file
from editing.readers.literals import not_written_out
from editing.readers.names import check_names
from editing.readers.nested import Fact
from editing.readers.told import Told
from editing.request import named_by_content
from editing.texts import kind_of

__all__ = [
    "BadRecord", "Foreign", "Record", "Told", "good_and_bad", "printable", "read_all", "read_cases", "read_edits",
    "record_from", "records_from",
]  # fmt: skip
RAW_LENGTH: Final = 2_000
HOPELESS: Final = 100_000
"""Bad records without a good one before them, after which a file is read no further: it is something else."""
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
NOTHING: Final = Foreign()
MADE: Final = ("e-", "cf-")
"""How ids begin that are made of content."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no edit: its row (from 1), the field at fault where one is, the reason, and what it said."""

    row: int
    field: str | None
    reason: str
    raw: str


Record = Edit | BadRecord


def read_edits(
    path: Path, *, limit: int | None = None, foreign: Foreign = NOTHING, told: Told | None = None
) -> Iterator[Record]:
    """The records of one file, in its order.

    Args:
        limit: read at most so many records, good and bad together.
        foreign: reads what needs other libraries, for example tasks.parquet.FOREIGN.
        told: takes what is said beside the records, while they are read.

    Raises:
        ReadError: at once where the file cannot be opened, on the way where it cannot be read on.
        UsageError: limit is negative.
    """
    if limit is not None and limit < 0:
        raise UsageError(f"limit is {limit}; give 0 or more, or None for all records")
    return islice(chain.from_iterable(read_cases(path, foreign=foreign, told=told)), limit)


def read_cases(path: Path, *, foreign: Foreign = NOTHING, told: Told | None = None) -> Iterator[list[Record]]:
    """The same by the record of the file that they stand in: MQuAKE's hold several facts that belong together.

    Raises:
        ReadError: as read_edits.
    """
    path = Path(path)
    check_file(path)
    return _records(path, foreign, Told() if told is None else told)


def read_all(path: Path, *, limit: int | None = None, foreign: Foreign = NOTHING) -> list[Edit]:
    """All edits of a file in which each record is to be good.

    Raises:
        ReadError: as read_edits, and at the first bad record, which it names.
    """
    edits = []
    for record in read_edits(path, limit=limit, foreign=foreign):
        if isinstance(record, BadRecord):
            raise ReadError(f"{str(path)!r} row {record.row}: {record.reason}")
        edits.append(record)
    return edits


def record_from(value: object, row: int, raw: str | None = None) -> Record:
    """The first of `records_from`: all there is of every form but MQuAKE's and those of several languages."""
    return records_from(value, row, raw)[0]


def records_from(value: object, row: int, raw: str | None = None, told: Told | None = None) -> list[Record]:
    """The facts of one parsed record of any known form as edits, or one BadRecord that says why not."""
    told = Told() if told is None else told
    if not isinstance(value, Mapping):
        reason = f"the record must be an object with fields, and is {kind_of(value)} {shown(value)}"
        return [_bad(row, None, reason, value, raw)]
    try:
        value = not_written_out(value)
        form = form_of(value)
        facts = form.facts(value)
        beside = _beside(value, facts) if form.apart else value
        check_names(beside, form.tiers, form.left, told)
        for fact in facts:
            if fact.where:
                check_names(fact.fields, form.within, form.left, told)
        if form.apart:
            return [_alone(value, fact, told, row, raw) for fact in facts]
        return [edit_of(value, fact, form, told) for fact in facts]
    except InvalidField as error:
        return [_bad(row, error.field, str(error), value, raw)]


def _beside(value: Mapping[str, object], facts: list[Fact]) -> dict[str, object]:
    where = {fact.where for fact in facts}
    return {name: one for name, one in value.items() if name not in where}


def _alone(value: Mapping[str, object], fact: Fact, told: Told, row: int, raw: str | None) -> Record:
    """A fact whose neighbors in the record are good without it."""
    try:
        return edit_of(value, fact, form_of(fact.fields), told)
    except InvalidField as error:
        inside = str(error.field).startswith(f"{fact.where}.")
        name = error.field if inside else f"{fact.where}.{error.field}"
        return _bad(row, name, f"{fact.where}: {error}", value, raw)


def _bad(row: int, field: str | None, reason: str, value: object, raw: str | None) -> BadRecord:
    return BadRecord(row, field, reason, printable(_written(value) if raw is None else raw))


def printable(text: str) -> str:
    """At most RAW_LENGTH characters that any store takes: no half surrogate pairs, NUL or control characters."""
    text = text[:RAW_LENGTH].encode("utf-8", "backslashreplace").decode("utf-8")
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)[:RAW_LENGTH]


def good_and_bad(records: Iterable[Record]) -> tuple[list[Edit], list[BadRecord]]:
    """The records that are edits, and those that are none, each in its order."""
    found = list(records)
    good = [record for record in found if isinstance(record, Edit)]
    return good, [record for record in found if isinstance(record, BadRecord)]


def _records(path: Path, foreign: Foreign, told: Told) -> Iterator[list[Record]]:
    count, hopeless = 0, True
    try:
        with as_it_is(path, foreign) as plain:
            for count, found in enumerate(records_in(plain, path, foreign, told), start=1):
                records = _of_one(found, told)
                hopeless = hopeless and isinstance(records[0], BadRecord)
                if hopeless and count == HOPELESS:
                    raise ReadError(f"{str(path)!r}: none of its first {count:,} records can be read; look at the file")
                yield records
    except OSError as error:
        raise ReadError(f"cannot read {str(path)!r}: {error}") from error
    if not count:
        raise ReadError(f"{str(path)!r} holds no record; give a file with at least one")


def _of_one(found: Found | Broken, told: Told) -> list[Record]:
    if isinstance(found, Broken):
        return [BadRecord(found.row, None, found.reason, printable(found.raw))]
    made = records_from(found.value, found.row, found.raw, told)
    return [_named_once(record, found, told) for record in made]


def _named_once(record: Record, found: Found, told: Told) -> Record:
    """One name is one request: another content under a name that somebody gave is refused."""
    if isinstance(record, BadRecord) or (record.id.startswith(MADE) and named_by_content(record)):
        return record
    content = hash(record)
    if told.named.setdefault(record.id, content) == content:
        return record
    reason = f"request '{record.id}' was read before with other content; give this one another id"
    return _bad(found.row, "id", reason, found.value, found.raw)


def _written(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError, ValueError):
        return f"<{type(value).__name__}>"
