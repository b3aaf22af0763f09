"""Requests in files: what submit, its dry run, a trial and a benchmark read, all of them by this."""

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from editing.edit import SLOT, Edit
from editing.errors import ReadError
from editing.readers import BadRecord, Record, Told, read_cases
from editing.readers.containers import ENDINGS, kind_of
from tasks.ledger.hub import is_of_hub, on_disk
from tasks.ledger.reserved import fault_now
from tasks.parquet import FOREIGN
from tasks.progress import progress

STANDARD_INPUT: Final = "-"
TELL_EVERY: Final = 500
"""Records between two reports of how far the reading is."""
SHOWN_REASONS: Final = 20


@dataclass
class Read:
    """What is said of files beside their records, while they are read."""

    files: dict[str, Told] = field(default_factory=dict)
    """By their names, in the order in which they are read."""

    @property
    def unused(self) -> list[str]:
        """A sentence for each file of which not every field was used."""
        several = len(self.files) > 1
        found = [(name, told.unused_fields) for name, told in self.files.items()]
        return [f"{name}: {sentence}" if several else sentence for name, sentence in found if sentence]

    def findings(self, request: str) -> tuple[str, ...]:
        """What was left out of a request, or should be looked at."""
        return tuple(dict.fromkeys(chain.from_iterable(told.findings.get(request, ()) for told in self.files.values())))


def read_requests(paths: Sequence[Path], limit: int | None = None, read: Read | None = None) -> Iterator[Record]:
    """The records of files, of all files of a folder, or of standard input (`-`), in their order.

    Raises:
        ReadError: at once where one cannot be opened, on the way where one cannot be read on.
    """
    return islice(chain.from_iterable(read_cases_of(paths, read)), limit)


def read_cases_of(paths: Sequence[Path], read: Read | None = None) -> Iterator[list[Record]]:
    """The same by the record of the file that they stand in. Raises as `read_requests`."""
    files = [file for path in paths for file in _files_in(path)]
    return _cases(files, Read() if read is None else read)


def _files_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # A name that begins with a dot is of a program, as the ._a.csv that macOS writes beside an a.csv.
    files = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    found = sorted(file for file in files if kind_of(file) in ENDINGS[:-1])
    if not found:
        raise ReadError(f"the folder {str(path)!r} holds no file of requests ({', '.join(ENDINGS[:-1])})")
    return found


def _cases(files: Sequence[Path], read: Read) -> Iterator[list[Record]]:
    named: dict[str, int] = {}
    for file in files:
        name = file.name if str(file) != STANDARD_INPUT else "standard input"
        told = Told(named=named)
        read.files[name if name not in read.files else str(file)] = told
        with as_file(file) as path:
            for case in _shown(read_cases(path, foreign=FOREIGN, told=told), told):
                yield [_of_file(record, name) for record in case] if len(files) > 1 else case


@contextmanager
def as_file(file: Path) -> Iterator[Path]:
    """The file; of standard input, and of a data set of the hub, a copy for the time being.

    Inside, what a ReadError says of the copy is said of what was given.
    """
    if is_of_hub(file):
        with on_disk(file) as copy, _called(f"the data set '{file}'", copy):
            yield copy
        return
    if str(file) != STANDARD_INPUT:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="errata-") as folder:
        copy = Path(folder) / "standard input"
        with copy.open("wb") as written:
            shutil.copyfileobj(sys.stdin.buffer, written)
        with _called("standard input", copy):
            yield copy


@contextmanager
def _called(name: str, copy: Path) -> Iterator[None]:
    try:
        yield
    except ReadError as error:
        raise ReadError(str(error).replace(repr(str(copy)), name)) from error


def _shown(cases: Iterable[list[Record]], told: Told) -> Iterator[list[Record]]:
    """The same, with how far the reading is told to whoever listens."""
    progress("reading", 0, 1)
    try:
        for number, case in enumerate(cases, start=1):
            yield case
            if number % TELL_EVERY == 0 and told.size:
                progress("reading", min(told.at, told.size - 1), told.size)
    finally:
        progress("reading", 1, 1)


def _of_file(record: Record, name: str) -> Record:
    return replace(record, reason=f"{name}: {record.reason}") if isinstance(record, BadRecord) else record


def judged(records: Iterable[Record]) -> Iterator[Record]:
    """The records, without those that could not be queued now."""
    for row, record in enumerate(records, start=1):
        fault = fault_now(record) if isinstance(record, Edit) else None
        yield record if fault is None else BadRecord(row, None, fault, "")


def left_out(bad: Sequence[BadRecord]) -> list[str]:
    """How many records are left out, and why: one sentence each, the first so many."""
    if not bad:
        return []
    count = f"{len(bad)} {'record is' if len(bad) == 1 else 'records are'} left out"
    return [count, *shortened([f"row {one.row}: {one.reason}" for one in bad])]


def shortened(sentences: Sequence[str]) -> list[str]:
    """The first so many, and how many more there are."""
    more = [f"and {len(sentences) - SHOWN_REASONS} more"] if len(sentences) > SHOWN_REASONS else []
    return [*sentences[:SHOWN_REASONS], *more]


def worth_saying(edits: Iterable[Edit], read: Read) -> list[str]:
    """What was left out of requests, or should be looked at: one sentence for each request."""
    return [f"{edit.id}: {'; '.join(findings)}" for edit in edits if (findings := read.findings(edit.id))]


def verdicts(records: Iterable[Record], read: Read, whole: bool = True) -> dict[str, Any]:
    """What reading yields, as `errata submit --dry-run --json` prints it; not `whole`: only records to speak of."""
    good, bad, rows = 0, 0, []
    for row, record in enumerate(records, start=1):
        is_good = isinstance(record, Edit)
        good, bad = good + is_good, bad + (not is_good)
        if whole or isinstance(record, BadRecord) or read.findings(record.id):
            rows.append(_verdict(row, record, read))
    found: dict[str, Any] = {"good": good, "bad": bad, "records": rows}
    return found | ({"not_used": read.unused} if read.unused else {})


def _verdict(row: int, record: Record, read: Read) -> dict[str, Any]:
    if isinstance(record, BadRecord):
        return {"row": record.row, "verdict": "bad", "field": record.field, "reason": record.reason}
    edit = record.model_dump(mode="json")
    if record.question is not None:  # as a person asks, and as it may be submitted
        edit["question"] = record.question.replace(SLOT, record.subject)
    found = {"row": row, "verdict": "good", "edit": edit, "taught": record.taught}
    findings = read.findings(record.id)
    return found | {"findings": list(findings)} if findings else found
