"""What can go wrong with objects, versions, HEAD and the lease of a line; each is one line for a person.

StorageError          the store cannot be reached or refuses; trying again may help
├── ObjectNotFound
├── Forgotten         what was stored was taken away, since a fact was forgotten
├── ObjectConflict    a compare-and-swap that lost
├── DigestMismatch    bytes that are not what their address says
├── RecordError       a record that cannot be stored as it is, or not be read
│   └── NewerFormat   a record of a later release
├── LineBusy          another job holds the line
└── HeadMoved         HEAD is no longer what the caller saw
"""

from editing.errors import ErrataError


class StorageError(ErrataError):
    """Snapshots, HEAD or the lease of a line."""


class ObjectNotFound(StorageError):
    """No object under this key."""


class Forgotten(StorageError):
    """What was stored was taken away, since a fact was forgotten."""


class ObjectConflict(StorageError):
    """A conditional write lost against another writer."""


class DigestMismatch(StorageError):
    """Stored bytes are not what their address says."""


class RecordError(StorageError):
    """A record cannot be stored as it is, or what is stored cannot be read."""


class NewerFormat(RecordError):
    """A record was written by a later release; it is whole, and this program must not touch it."""


class LineBusy(StorageError):
    """Another job holds the line."""


class HeadMoved(StorageError):
    """HEAD is no longer what the caller saw."""
