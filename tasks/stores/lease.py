"""The lease of a line: at most one job works on it, and a job that is gone does not block it.

A lease saves work, it is not what keeps a line consistent: a job that lost its lease unnoticed (it slept, its
clock is wrong) still cannot overwrite anything, since versions are created once and HEAD moves by comparison.

On one machine it counts whether the holder lives: the line of a process that is gone is free at once, and that of one
that lives is not, however long it was silent. From another machine only the time of expiry counts.
"""

import logging
import os
import socket
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from editing.errors import ErrataError
from tasks.names import check_line
from tasks.stores.errors import LineBusy, NewerFormat, ObjectConflict, ObjectNotFound, RecordError, StorageError
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes
from tasks.text import Text

_logger = logging.getLogger(__name__)
_START_TOLERANCE_SECONDS = 2.0  # the start time of a process shifts a little when the clock is corrected
_TRIES = 5
_RENEWALS_PER_TTL = 3


class LeaseRecord(BaseModel):
    """Who works on a line, as stored in `lines/<line>/job.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: str
    owner: str
    host: Text
    machine: Text = Field(description="Boot and process namespace: only where it is ours does a pid mean anything.")
    pid: int
    process_started: float = Field(description="Seconds since 1970.")
    started: datetime
    renewed: datetime
    ttl_seconds: float
    flow_run_id: Text | None
    released: bool = False
    unsettled: tuple[Text, ...] = Field(
        (), description="Flow runs that were killed or failed, until a later one has looked after what they left."
    )

    @model_serializer(mode="wrap")
    def _as_before_where_it_can(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `unsettled` where nothing is: as release 0.1 reads it."""
        fields: dict[str, Any] = serialize(self)
        return {name: fields[name] for name in fields if name != "unsettled" or self.unsettled}

    @property
    def left(self) -> tuple[str, ...]:
        """The flow runs that whoever takes the line over from this holder has to look after."""
        own = () if self.released or self.flow_run_id is None else (self.flow_run_id,)
        return tuple(dict.fromkeys((*self.unsettled, *own)))

    @property
    def expires(self) -> datetime:
        """When others may take the line over unless it is renewed before."""
        return self.renewed + timedelta(seconds=self.ttl_seconds)

    @property
    def is_here(self) -> bool:
        """True where its pid means a process of this machine."""
        return self.machine == _machine()

    def is_free(self) -> bool:
        """Released, or held by a process that is gone: seen on its own machine, or expired as others see it."""
        if self.released or (self.is_here and not _is_alive(self.pid, self.process_started)):
            return True
        # A job of this very process renews as long as it lasts: one that expired has ended without a release.
        is_trusted = self.is_here and self.pid != os.getpid()
        return not is_trusted and datetime.now(UTC) >= self.expires


class Lease:
    """A line that this process holds. A context manager: inside, a thread renews it; at the end it is released.

    Without `with`, it is held until it expires unless `renew` is called.
    """

    def __init__(self, store: ObjectStore, record: LeaseRecord, etag: str) -> None:
        self.store = store
        self.record = record
        self._etag = etag
        self._lock = threading.Lock()  # of record and etag: the thread renews while the job renews or releases
        self._lost: LineBusy | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Raise LineBusy when a renewal found that another job has taken the line over; asks the store nothing."""
        if self._lost is not None:
            raise self._lost

    def renew(self) -> None:
        """Hold the line for another ttl. Raises LineBusy when another job has taken it over."""
        with self._lock:
            self.check()
            self._write(self.record.model_copy(update={"renewed": datetime.now(UTC)}))

    def settle(self) -> None:
        """What earlier flow runs left is looked after. Raises LineBusy when another job has taken the line over."""
        with self._lock:
            self.check()
            if self.record.unsettled:
                self._write(self.record.model_copy(update={"unsettled": ()}))

    def release(self, *, failed: bool = False) -> None:
        """Free the line; a lease that was taken over already is left alone. `failed`: the next job looks after it."""
        with self._lock:
            if self.record.released or self._lost is not None:
                return
            unsettled = self.record.left if failed else self.record.unsettled
            try:
                self._write(self.record.model_copy(update={"released": True, "unsettled": unsettled}))
            except LineBusy as error:
                _logger.warning("lease not released: %s", error)

    def __enter__(self) -> "Lease":
        self._thread = threading.Thread(target=self._keep_renewing, name=f"lease of {self.record.line}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        try:
            self.release(failed=kind is not None)
        except StorageError as failure:
            # The lease ends by itself; the outcome of the job must not be hidden behind this, nor said twice.
            level = logging.INFO if isinstance(error, ErrataError) else logging.WARNING
            _logger.log(level, "lease not released: %s", failure)
        if self._thread is not None:
            self._thread.join()

    def _keep_renewing(self) -> None:
        """Renew until the `with` ends or the line is lost; what storage refuses now is tried at the next turn."""
        pause = self.record.ttl_seconds / _RENEWALS_PER_TTL
        while not self._ended.wait(pause):
            try:
                self.renew()
            except LineBusy as error:
                if not self._ended.is_set():
                    _logger.warning("%s", error)
                return
            except StorageError as error:
                _logger.warning("lease of line '%s' not renewed, tried again soon: %s", self.record.line, error)

    def _write(self, record: LeaseRecord) -> None:
        if self.record.released:
            raise LineBusy(f"the lease of line '{self.record.line}' was released by this job: acquire it again")
        data = record_bytes(record)
        try:
            self._etag = self.store.put_if_match(_key(record.line), data, self._etag)
        except ObjectConflict as error:
            found, etag = self._found()
            if found is None or found.owner != record.owner:
                self._lost = self._taken_over_by(found)
                raise self._lost from error
            # Ours: an earlier renewal took effect, though storage answered with an error.
            self._etag = self.store.put_if_match(_key(record.line), data, etag)
        self.record = record

    def _found(self) -> tuple[LeaseRecord | None, str]:
        try:
            data, etag = self.store.get(_key(self.record.line))
        except ObjectNotFound:
            return None, ""
        return _parse(self.store, self.record.line, data), etag

    def _taken_over_by(self, other: LeaseRecord | None) -> LineBusy:
        who = _name(other) if other else "nobody (its object was removed)"
        return LineBusy(
            f"line '{self.record.line}' was taken over by {who}: this job was silent for more than "
            f"{self.record.ttl_seconds:g} s; it stops here and commits nothing more"
        )


def acquire(store: ObjectStore, line: str, ttl_seconds: float = 900.0, flow_run_id: str | None = None) -> Lease:
    """Hold the line, if nobody alive does; a run that repeats the call holds it anew. Raises LineBusy, by whom.

    `ttl_seconds`: how long the holder may stay silent (`renew`) before others, on other machines too, take over.
    """
    record = _new_record(check_line(line), ttl_seconds, flow_run_id)
    for _ in range(_TRIES):
        try:
            data, etag = store.get(_key(line))
        except ObjectNotFound:
            data, etag = b"", ""
        try:
            if not data:
                return Lease(store, record, store.put_if_absent(_key(line), record_bytes(record)))
            current = _parse(store, line, data)
            again = _is_of_same_run(current, record)
            if not again and not current.is_free():
                raise _busy(current)
            record = record.model_copy(update={"unsettled": current.unsettled if again else current.left})
            return Lease(store, record, store.put_if_match(_key(line), record_bytes(record), etag))
        except ObjectConflict:
            continue  # somebody was faster: look at who it is
    raise LineBusy(f"line '{line}': many jobs want it at once; try again in a minute")


def _is_of_same_run(current: LeaseRecord, record: LeaseRecord) -> bool:
    """Whether this very run holds the line: it was given to it, and the answer was lost."""
    is_own = current.is_here and current.pid == record.pid
    return is_own and record.flow_run_id is not None and current.flow_run_id == record.flow_run_id


def holder(store: ObjectStore, line: str) -> LeaseRecord | None:
    """The last job that held the line, alive or not; None where there was none."""
    try:
        return _parse(store, line, store.get(_key(check_line(line)))[0])
    except ObjectNotFound:
        return None


def _new_record(line: str, ttl_seconds: float, flow_run_id: str | None) -> LeaseRecord:
    now = datetime.now(UTC)
    return LeaseRecord(
        line=line,
        owner=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        process_started=psutil.Process().create_time(),
        started=now,
        renewed=now,
        ttl_seconds=ttl_seconds,
        flow_run_id=flow_run_id,
    )


def _machine() -> str:
    """Host name, boot and pid namespace: two containers may share the first two and still not see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux: one name is one machine
        boot, namespace = "", ""
    return f"{socket.gethostname()} {boot} {namespace}".strip()


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - started) <= _START_TOLERANCE_SECONDS
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _busy(record: LeaseRecord) -> LineBusy:
    until = (
        ""
        if record.is_here
        else f"; if that machine is gone, the line is free at {record.expires:%Y-%m-%d %H:%M:%S} UTC"
    )
    return LineBusy(f"line '{record.line}' is held by {_name(record)}: wait for that job or end it{until}")


def _name(record: LeaseRecord) -> str:
    run = f", flow run {record.flow_run_id}" if record.flow_run_id else ""
    return f"process {record.pid} on '{record.host}'{run} since {record.started:%Y-%m-%d %H:%M:%S} UTC"


def _parse(store: ObjectStore, line: str, data: bytes) -> LeaseRecord:
    try:
        return read_record(LeaseRecord, data, f"the lease '{_key(line)}' in '{store.uri}'")
    except NewerFormat:
        raise
    except RecordError as error:
        raise RecordError(
            f"the lease '{_key(line)}' in '{store.uri}' cannot be read: make sure that no job runs, then remove it"
        ) from error


def _key(line: str) -> str:
    return f"lines/{line}/job.json"
