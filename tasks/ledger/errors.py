"""What can go wrong with the table of events."""

import re

import duckdb
from deltalake.exceptions import DeltaError

from editing.errors import ErrataError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class LedgerError(ErrataError):
    """The table of events cannot be read or written."""


class IllegalStep(LedgerError):
    """A request cannot take this step from where it stands; to try again does not help."""


def what_libraries_raise() -> tuple[type[Exception], ...]:
    """What Delta Lake, DuckDB and Arrow may raise where a table cannot be read or written."""
    # Arrow's, where something has failed: it takes a while to import, and most looks do without.
    from pyarrow import ArrowException

    return (DeltaError, OSError, duckdb.Error, ArrowException, ValueError)


def one_line(error: Exception) -> str:
    """The beginning of a report, without the colours, the tree and the server's own answer that come with it."""
    text = _COLOURS.sub("", str(error)).partition("<?xml")[0]
    return " ".join(text.replace("↳", " ").split())[:200]
