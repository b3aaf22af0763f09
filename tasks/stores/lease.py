"""The lease of a line: at most one job works on it, and a job that is gone does not block it.

A lease saves work, it is not what keeps a line consistent: a job that lost its lease unnoticed (it slept, its
clock is wrong) still cannot overwrite anything, since versions are created once and HEAD moves by comparison.
"""

import logging
import os
import socket
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.stores.errors import LineBusy, ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.objects import ObjectStore, canonical_json, check_line

_logger = logging.getLogger(__name__)
_START_TOLERANCE_SECONDS = 2.0  # the start time of a process shifts a little when the clock is corrected
_TRIES = 5


class LeaseRecord(BaseModel):
    """Who works on a line, as stored in `lines/<line>/job.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: str
    owner: str
    host: str
    machine: str = Field(description="Boot and process namespace: only where it is ours does a pid mean anything.")
    pid: int
    process_started: float = Field(description="Seconds since 1970.")
    started: datetime
    renewed: datetime
    ttl_seconds: float
    flow_run_id: str | None
    released: bool = False

    @property
    def expires(self) -> datetime:
        """When others may take the line over unless it is renewed before."""
        return self.renewed + timedelta(seconds=self.ttl_seconds)

    def is_free(self) -> bool:
        """Released, expired, or held by a process of this machine that is gone."""
        if self.released or datetime.now(UTC) >= self.expires:
            return True
        return self.machine == _machine() and not _is_alive(self.pid, self.process_started)


class Lease:
    """A line that this process holds; a context manager that releases it."""

    def __init__(self, store: ObjectStore, record: LeaseRecord, etag: str) -> None:
        self.store = store
        self.record = record
        self._etag = etag
        self._lock = threading.Lock()  # a heartbeat thread may renew while the job releases

    def renew(self) -> None:
        """Hold the line for another ttl. Raises LineBusy when another job has taken it over."""
        with self._lock:
            self._write(self.record.model_copy(update={"renewed": datetime.now(UTC)}))

    def release(self) -> None:
        """Free the line; a lease that was taken over already is left alone."""
        with self._lock:
            if self.record.released:
                return
            try:
                self._write(self.record.model_copy(update={"released": True}))
            except LineBusy as error:
                _logger.warning("lease not released: %s", error)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except StorageError as failure:
            # The lease ends by itself; the outcome of the job must not be hidden behind this.
            _logger.warning("lease not released: %s", failure)

    def _write(self, record: LeaseRecord) -> None:
        if self.record.released:
            raise LineBusy(f"the lease of line '{self.record.line}' was released by this job: acquire it again")
        try:
            self._etag = self.store.put_if_match(_key(record.line), _bytes(record), self._etag)
        except ObjectConflict as error:
            other = holder(self.store, record.line)
            who = _name(other) if other else "nobody (its object was removed)"
            raise LineBusy(
                f"line '{record.line}' was taken over by {who}: this job was silent for more than "
                f"{record.ttl_seconds:g} s; it stops here and commits nothing more"
            ) from error
        self.record = record


def acquire(store: ObjectStore, line: str, ttl_seconds: float = 900.0, flow_run_id: str | None = None) -> Lease:
    """Hold the line, if nobody alive does. Raises LineBusy that names the holder.

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
                return Lease(store, record, store.put_if_absent(_key(line), _bytes(record)))
            current = _parse(store, line, data)
            if not current.is_free():
                raise _busy(current)
            return Lease(store, record, store.put_if_match(_key(line), _bytes(record), etag))
        except ObjectConflict:
            continue  # somebody was faster: look at who it is
    raise LineBusy(f"line '{line}': many jobs want it at once; try again in a minute")


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
    return LineBusy(
        f"line '{record.line}' is held by {_name(record)}: wait for that job or end it; "
        f"if that machine is gone, the line is free at {record.expires:%Y-%m-%d %H:%M:%S} UTC"
    )


def _name(record: LeaseRecord) -> str:
    run = f", flow run {record.flow_run_id}" if record.flow_run_id else ""
    return f"process {record.pid} on '{record.host}'{run} since {record.started:%Y-%m-%d %H:%M:%S} UTC"


def _parse(store: ObjectStore, line: str, data: bytes) -> LeaseRecord:
    try:
        return LeaseRecord.model_validate_json(data)
    except ValidationError as error:
        raise StorageError(
            f"the lease '{_key(line)}' in '{store.uri}' cannot be read: make sure that no job runs, then remove it"
        ) from error


def _bytes(record: LeaseRecord) -> bytes:
    return canonical_json(record.model_dump(mode="json"))


def _key(line: str) -> str:
    return f"lines/{line}/job.json"
