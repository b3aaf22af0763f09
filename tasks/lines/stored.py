"""A line's definition as it is stored, for whoever only shows it: methods and models take seconds to import."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from editing.errors import UsageError
from tasks.names import check_line, unknown_line
from tasks.stores.errors import ObjectNotFound
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record
from tasks.text import Text

if TYPE_CHECKING:
    from tasks.ledger.table import Ledger
    from tasks.stores.snapshots import SnapshotStore


class StoredLine(BaseModel):
    """What a line is, without a look at its method's options."""

    model_config = ConfigDict(frozen=True)

    line: str
    model: Text
    dtype: Text = "float32"
    system: str | None = None
    config: dict[str, Any] = {}

    @property
    def method(self) -> str:
        return str(self.config.get("method", "memit"))


def spec_key(line: str) -> str:
    return f"lines/{check_line(line)}/line.json"


def definition(store: ObjectStore, line: str) -> bytes | None:
    """The stored definition, or None when the line does not exist yet."""
    try:
        return store.get(spec_key(line))[0]
    except ObjectNotFound:
        return None


def where(store: ObjectStore, line: str) -> str:
    """How messages call a definition."""
    return f"the definition '{spec_key(line)}' of line '{line}' in '{store.uri}'"


def stored_line(store: ObjectStore, line: str) -> StoredLine | None:
    """The line as it is stored, or None when it does not exist yet."""
    data = definition(store, line)
    return None if data is None else read_record(StoredLine, data, where(store, line))


def known_lines(store: "SnapshotStore", ledger: "Ledger") -> list[str]:
    """The lines of which anything is stored, and those that the ledger alone knows of."""
    return sorted({*store.lines(), *ledger.look()})


def lines_instead(store: "SnapshotStore", ledger: "Ledger", line: str) -> list[str] | None:
    """The lines that there are, where nobody knows this one; None where it is known, be its definition damaged."""
    if definition(store.store, line) is not None or line in ledger.look(line):
        return None
    known = known_lines(store, ledger)
    return None if line in known else known


def check_made(store: "SnapshotStore", ledger: "Ledger", line: str) -> None:
    """Raises UsageError where nobody knows the line, or no job has made it yet."""
    if definition(store.store, line) is None:
        raise not_made(store, ledger, line)


def not_made(store: "SnapshotStore", ledger: "Ledger", line: str) -> UsageError:
    """What is said of a line without a definition."""
    if (others := lines_instead(store, ledger, line)) is not None:
        return unknown_line(line, others)
    return UsageError(f"line '{line}' has no version yet; `errata run {line}` makes its first")


def check_known(store: "SnapshotStore", ledger: "Ledger", line: str) -> None:
    """Raises UsageError for a line that nobody knows."""
    if (others := lines_instead(store, ledger, line)) is not None:
        raise unknown_line(line, others)
