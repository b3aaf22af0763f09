"""Requests as a command is given them: files, or one by options; and what reading them says."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editing.errors import UsageError
from flows.cli.console import as_json, say, warn

if TYPE_CHECKING:
    from editing.readers import Record
    from tasks.ledger.reading import Read


def warn_all(sentences: "Iterable[str]") -> None:
    """Each as a warning of its own."""
    for sentence in sentences:
        warn(sentence)


def records(files: list[Path], single: dict[str, Any], limit: int | None, read: "Read") -> "Iterable[Record]":
    """Those of the files, else the one that the options say.

    Raises:
        InvalidField, UsageError: the options say nothing that could be queued.
        ReadError: a file cannot be read.
    """
    from editing.places import whole
    from editing.request import make_request
    from tasks.ledger.reading import read_requests
    from tasks.ledger.reserved import fault_now

    if files:
        return read_requests(files, limit, read)
    asked = {
        name: [whole(one, single.get("subject") or "") for one in single.get(name, ())]
        for name in ("paraphrases", "neighborhood")
    }
    request = make_request(single | asked)
    if (fault := fault_now(request)) is not None:
        raise UsageError(fault)
    return [request]


def joined(records: "Iterable[Record]", join: str | None) -> "Iterable[Record]":
    """The records, those joined by this that do not say otherwise."""
    from editing.edit import Edit
    from editing.request import with_join
    from editing.texts import given_join

    told = None if join is None else given_join(join)
    return (with_join(record, told) if isinstance(record, Edit) else record for record in records)


def probe(text: str) -> dict[str, str]:
    """'question => answer' as a probe."""
    prompt, arrow, answer = text.partition("=>")
    return {"prompt": prompt.strip()} | ({"answer": answer.strip()} if arrow else {})


def show_read(found: dict[str, Any], json: bool) -> None:
    """What a dry run found, as `tasks.ledger.reading.verdicts` gives it."""
    if json:
        as_json(found)
        return
    say(f"{found['good']} good, {found['bad']} bad")
    for record in found["records"]:
        if record["verdict"] == "bad":
            say(f"row {record['row']}, {record['field'] or 'record'}: {record['reason']}")
        for finding in record.get("findings", ()):
            say(f"{record['edit']['id']}: {finding}", "warning")
