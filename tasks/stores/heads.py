"""HEAD of a line, its history, and the way back where it cannot be read.

lines/<line>/HEAD                         the version in service, moved by compare-and-swap
lines/<line>/heads/<8 digits>-<12>.json   every HEAD there was, created once
"""

import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from editing.digests import sha256
from editing.errors import UsageError
from tasks.names import check_line
from tasks.stores.errors import HeadMoved, NewerFormat, ObjectConflict, ObjectNotFound, RecordError, StorageError
from tasks.stores.manifest import Head, Version, head_bytes
from tasks.stores.objects import ObjectStore, at_once
from tasks.stores.records import read_record

REPAIR = "errata repair"
"""The command that makes a line's pointers again where they cannot be read."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Move:
    """What a decision makes of HEAD. To refuse what waits is a move, too, that leaves the version as it is."""

    version: Version | None
    """What is to be in service; None is the base."""
    action: Literal["promote", "rollback", "reject"]
    actor: str
    reason: str
    rejected: tuple[int, ...] = ()
    way: str = ""


class Heads:
    """The HEADs of all lines of one object store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._seen: dict[str, Head] = {}  # created once under their digest: never stale

    def head(self, line: str) -> Head | None:
        """HEAD of the line, or None where nothing was ever promoted.

        Raises:
            RecordError: HEAD is damaged or gone; the message says what `repair` would put back.
        """
        if (found := self._read(line)) is not None:
            return found
        if not self._keys(line) or (found := self._read(line)) is not None:
            return found  # the second look: it was created after the first
        raise RecordError(f"HEAD of line '{line}' in '{self.store.uri}' is gone: {self._way_back(line)}")

    def heads(self, line: str, since: int = 0) -> list[Head]:
        """Every HEAD the line has had from this sequence on, oldest first, the present one last.

        A record that is damaged is left out, with a warning. HEAD is read again after its history, and so on until it
        did not move in between: a move that came in the middle is neither missing nor out of its place.
        """
        head, past = self.head(line), self.recorded(line, since)
        while (now := self.head(line)) != head:
            head, past = now, self.recorded(line, since)
        before = {item.token: item for item in past if head is None or item.token != head.token}
        return [*before.values(), *([head] if head else [])]

    def move(self, line: str, expected: Head | None, move: Move) -> Head:
        """Move HEAD, if it is still the one expected. Raises HeadMoved.

        The HEAD that goes is kept in the history before the swap, and the new one after it. A kill between
        the two loses nothing: the next move keeps it first, and `heads` counts HEAD itself in any case.
        """
        version = move.version
        if version is not None and version.manifest.line != check_line(line):
            raise StorageError(f"version {version.number} belongs to line '{version.manifest.line}', not '{line}'")
        head = Head(
            line=check_line(line),
            sequence=expected.sequence + 1 if expected else 1,
            version=version.number if version else 0,
            snapshot=version.snapshot if version else None,
            previous=_previous(expected, move.action),
            action=move.action,
            rejected=move.rejected,
            actor=move.actor,
            reason=move.reason,
            way=move.way,
            moved=datetime.now(UTC),
            token=uuid.uuid4().hex,
        )
        if expected is not None:
            self._keep(expected)
        try:
            etag = self._replace(head, expected.etag if expected else "")
        except ObjectConflict as error:
            # Kept already: our swap took effect, its answer was lost, and somebody has moved HEAD on since.
            if not self.store.exists(past_key(head)):
                raise self._moved(line, expected) from error
            return head
        self._keep(head)
        return head.model_copy(update={"etag": etag})

    def repair(self, line: str, actor: str) -> Head:
        """Put the newest HEAD that is recorded back in the place of one that is damaged or gone.

        It is a move like every other, with a sequence of its own. A HEAD that can be read is left as it is.

        Raises:
            UsageError: nothing was ever in service.
            NewerFormat: HEAD is of a later release, and whole.
            HeadMoved: somebody else moved or repaired it in the meantime.
        """
        keys, etag = self._keys(line), ""
        try:
            _, etag = self.store.get(_head_key(check_line(line)))
            if (found := self._read(line)) is not None:
                return found
        except NewerFormat:
            raise
        except RecordError as error:
            _logger.warning("%s", error)
        except ObjectNotFound as error:
            if not keys:
                raise UsageError(f"line '{line}' never had a HEAD, so there is none to put back") from error
        last = self._newest(line)
        head = Head(
            line=line,
            sequence=1 + max((sequence_of(key) for key in keys), default=0),
            version=last.version if last else 0,
            snapshot=last.snapshot if last else None,
            previous=last.previous if last else None,
            action="rollback",
            rejected=last.rejected if last else (),
            actor=actor,
            reason="HEAD could not be read; this is the last one that was recorded",
            moved=datetime.now(UTC),
            token=uuid.uuid4().hex,
        )
        try:
            etag = self._replace(head, etag)
        except ObjectConflict as error:
            raise HeadMoved(f"HEAD of line '{line}' was repaired in the meantime: look at it") from error
        self._keep(head)
        return head.model_copy(update={"etag": etag})

    def _replace(self, head: Head, etag: str) -> str:
        """Put HEAD in the place of the one with this etag; of none where it is empty."""
        key, data = _head_key(head.line), head_bytes(head)
        return self.store.put_if_match(key, data, etag) if etag else self.store.put_if_absent(key, data)

    def recorded(self, line: str, since: int = 0) -> list[Head]:
        """The recorded HEADs that can be read, oldest first, from a sequence on; each is read once."""
        keys = [key for key in self._keys(line, since) if sequence_of(key) >= since]
        unknown = [key for key in keys if key not in self._seen]
        found = dict(zip(unknown, at_once(lambda key: self.store.get(key)[0], unknown), strict=True))
        for key, data in found.items():
            try:
                self._seen[key] = _own(line, read_record(Head, data, self._where(key)), self._where(key))
            except NewerFormat:
                raise
            except RecordError as error:
                _logger.warning("left out of the history of line '%s': %s", line, error)
        return [self._seen[key] for key in keys if key in self._seen]

    def _read(self, line: str) -> Head | None:
        key = _head_key(check_line(line))
        try:
            data, etag = self.store.get(key)
        except ObjectNotFound:
            return None
        try:
            return _own(line, read_record(Head, data, self._where(key)), self._where(key)).model_copy(
                update={"etag": etag}
            )
        except NewerFormat:
            raise
        except RecordError as error:
            raise RecordError(
                f"HEAD of line '{line}' in '{self.store.uri}' cannot be read, it is damaged: {self._way_back(line)}"
            ) from error

    def _newest(self, line: str) -> Head | None:
        return max(self.recorded(line), key=lambda head: head.sequence, default=None)

    def _way_back(self, line: str) -> str:
        last = self._newest(line)
        goal = (
            f"version {last.version}, which {last.actor} put in service at {last.moved:%Y-%m-%d %H:%M:%S} UTC"
            if last
            else "the base model, since no HEAD is recorded before it"
        )
        return f"'{REPAIR} {line}' puts back {goal}"

    def _moved(self, line: str, expected: Head | None) -> HeadMoved:
        now = self.head(line)
        seen = f"version {expected.version}" if expected else "no version"
        way = f" ({now.way})" if now and now.way else ""
        found = f"by {now.actor} to version {now.version} at {now.moved:%Y-%m-%d %H:%M:%S} UTC{way}" if now else "away"
        return HeadMoved(f"HEAD of line '{line}' was {seen} and was moved {found}: look at it and repeat")

    def _keep(self, head: Head) -> None:
        self.store.put(past_key(head), head_bytes(head))

    def _keys(self, line: str, since: int = 0) -> list[str]:
        folder = f"lines/{check_line(line)}/heads/"
        return self.store.list(folder, f"{folder}{since:08d}" if since else "")

    def _where(self, key: str) -> str:
        return f"'{key}' in '{self.store.uri}'"


def _own(line: str, head: Head, where: str) -> Head:
    """Raises RecordError where a HEAD is of another line: somebody has copied it here."""
    if head.line != line:
        raise RecordError(f"{where} is of line '{head.line}'")
    return head


def _head_key(line: str) -> str:
    return f"lines/{line}/HEAD"


def _previous(expected: Head | None, action: str) -> int | None:
    """The version that was in service before the present one."""
    if expected is None:
        return None
    return expected.previous if action == "reject" else expected.version


def past_key(head: Head) -> str:
    # The digest is part of the name so that a HEAD restored from a backup cannot overwrite another's entry.
    return f"lines/{head.line}/heads/{head.sequence:08d}-{sha256(head_bytes(head))[:12]}.json"


def sequence_of(key: str) -> int:
    digits = key.rpartition("/")[2].partition("-")[0]
    return int(digits) if digits.isdecimal() else 0
