"""What can go wrong with the table of events."""

from editing.errors import ErrataError


class LedgerError(ErrataError):
    """The table of events cannot be read or written."""
