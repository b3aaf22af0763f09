"""The exceptions of Errata: every failure that a user can cause or mend is one of these, with a one-line message.

ErrataError
├── EditingError          the library of editing
│   ├── InvalidEdit       an edit that cannot be carried out as written
│   ├── ReadError         a file of edits that cannot be read
│   ├── ModelError        a model that cannot be loaded or has no layout
│   ├── StatisticsError   key statistics that are missing, broken or of another model
│   ├── HypernetworkError a hypernetwork that is missing, broken, of another model, or cannot be trained
│   ├── SearchError       a value search that became non-finite
│   └── SolveError        a singular or non-finite solve
├── StorageError          snapshots, HEAD and the lease of a line
│   ├── ObjectNotFound
│   ├── ObjectConflict    a compare-and-swap that lost
│   ├── DigestMismatch    bytes that are not what their address says
│   ├── LineBusy          another job holds the line
│   └── HeadMoved         HEAD is no longer what the caller saw
├── LedgerError           the table of events
├── TrackingError         MLflow
├── PolicyError           thresholds and settings
└── UsageError            a command or call that asks for something impossible
"""


class ErrataError(Exception):
    """Root of all errors that Errata raises on purpose."""


class EditingError(ErrataError):
    """Something in the library of editing failed; the model is as it was."""


class InvalidEdit(EditingError):
    """An edit cannot be carried out as written."""


class ReadError(EditingError):
    """A file of edits cannot be read."""


class ModelError(EditingError):
    """A model cannot be loaded, or its architecture has no layout."""


class StatisticsError(EditingError):
    """Key statistics are missing, broken or belong to another model or layer."""


class HypernetworkError(EditingError):
    """A hypernetwork is missing, broken, belongs to another model or other weights, or cannot be trained."""


class SearchError(EditingError):
    """The search for a value became non-finite."""


class SolveError(EditingError):
    """The linear system of a batch is singular or its solution is non-finite."""


class StorageError(ErrataError):
    """Snapshots, HEAD or the lease of a line."""


class ObjectNotFound(StorageError):
    """No object under this key."""


class ObjectConflict(StorageError):
    """A conditional write lost against another writer."""


class DigestMismatch(StorageError):
    """Stored bytes are not what their address says."""


class LineBusy(StorageError):
    """Another job holds the line."""


class HeadMoved(StorageError):
    """HEAD is no longer what the caller saw."""


class LedgerError(ErrataError):
    """The table of events cannot be read or written."""


class TrackingError(ErrataError):
    """MLflow cannot be reached or refuses."""


class PolicyError(ErrataError):
    """A policy or setting is out of its range."""


class UsageError(ErrataError):
    """A command or call asks for something impossible."""
