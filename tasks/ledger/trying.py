"""What a trial tries: records in a text or a file, or what is queued."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from editing.edit import Edit
from editing.errors import UsageError
from editing.readers import good_and_bad
from editing.request import fact_of
from tasks.ledger.choosing import Line, take
from tasks.ledger.reading import Read, judged, left_out, read_requests, worth_saying
from tasks.ledger.table import Ledger


def to_try(
    ledger: Ledger, line: str, records: str = "", file: Path | None = None, limit: int | None = None
) -> tuple[list[Edit], list[str]]:
    """The corrections of JSON records, one a line, or of a file, or of the queue; and which are left out, and why.

    Raises:
        UsageError: there are none, or both records and a file.
        ReadError: the file cannot be read.
    """
    if records.strip() and file is not None:
        raise UsageError("give records or a file to try, not both")
    if records.strip():
        with tempfile.NamedTemporaryFile("wb", suffix=".jsonl") as written:
            written.write(records.encode("utf-8", "backslashreplace"))
            written.flush()
            return read_to_try([Path(written.name)], limit)
    if file is not None:
        return read_to_try([file], limit)
    queued = list(take(ledger.queued(line), Line(), limit).accepted)
    if not queued:
        raise UsageError(f"nothing to try: nothing is queued on line '{line}'; give a file, or submit corrections")
    return queued, []


def read_to_try(files: Sequence[Path], limit: int | None = None) -> tuple[list[Edit], list[str]]:
    """The good records of files, and what is left out of them and why. Raises as `to_try`."""
    read = Read()
    requests, bad = good_and_bad(judged(read_requests(files, limit, read)))
    edits = [*{request.id: fact_of(request) for request in requests}.values()]
    if not edits:
        raise UsageError(f"nothing to try: no record is good; {left_out(bad)[1] if bad else 'there is none'}")
    return edits, [*left_out(bad), *worth_saying(edits, read), *read.unused]


def as_records(edits: list[Edit]) -> str:
    """The same as records, one a line."""
    return "\n".join(edit.model_dump_json() for edit in edits)
