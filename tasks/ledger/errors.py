"""What can go wrong with the table of events."""

from editing.errors import ErrataError


class LedgerError(ErrataError):
    """The table of events cannot be read or written."""


class IllegalStep(LedgerError):
    """A request cannot take this step from where it stands; to try again does not help."""
