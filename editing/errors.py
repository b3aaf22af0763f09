"""The exceptions of Errata: every failure that a user can cause or mend is one of these, with a one-line message.

Those of storage, ledger and tracking stand in tasks/stores, tasks/ledger and tasks/tracking.

ErrataError
├── EditingError          the library of editing
│   ├── InvalidEdit       an edit that cannot be carried out as written
│   ├── ReadError         a file of edits that cannot be read
│   ├── ModelError        a model that cannot be loaded or has no layout
│   │   └── NoSuchModel   a model, dtype, device or layer is named that there is not; a UsageError, too
│   ├── StatisticsError   key statistics that are missing, broken or of another model
│   ├── HypernetworkError a hypernetwork that is missing, broken, of another model, or cannot be trained
│   │   └── NoSuchHypernetwork  one is named that there is not; a UsageError, too
│   ├── SearchError       a value search that became non-finite
│   └── SolveError        a singular or non-finite solve
├── OutOfMemory           the memory of a device that did not suffice
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


class OutOfMemory(ErrataError):
    """The memory of a device did not suffice; the model is as it was."""


class PolicyError(ErrataError):
    """A policy or setting is out of its range."""


class UsageError(ErrataError):
    """A command or call asks for something impossible."""


class NoSuchModel(ModelError, UsageError):
    """A model, dtype, device or layer is named that there is not."""


class NoSuchHypernetwork(HypernetworkError, UsageError):
    """A hypernetwork is named that there is not."""
