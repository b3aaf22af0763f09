"""Laws of the lease: one holder at a time, none for ever, and who lost it is told."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.stores.errors import LineBusy, StorageError
from tasks.stores.lease import LeaseRecord, acquire, holder

LINE = "smollm2"


def held_by(store, **changes):
    """Make the lease of the line look as if somebody else held it."""
    record = holder(store, LINE).model_copy(update=changes)
    store.put(f"lines/{LINE}/job.json", record.model_dump_json().encode())


def test_a_held_line_is_busy_and_says_who_since_when_and_what_to_do(folder):
    with acquire(folder, LINE, flow_run_id="run-1") as lease:
        with pytest.raises(LineBusy) as caught:
            acquire(folder, LINE)
        message = str(caught.value)
        for part in (
            str(lease.record.pid),
            socket.gethostname(),
            "run-1",
            f"since {lease.record.started:%Y-%m-%d}",
            "wait",
        ):
            assert part in message
        assert "\n" not in message


def test_of_eight_one_gets_the_line(store):
    leases, busy, gate = [], [], threading.Barrier(8)

    def work():
        gate.wait()
        try:
            leases.append(acquire(store, LINE))
        except LineBusy:
            busy.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(leases), len(busy)) == (1, 7)
    leases[0].renew()
    leases[0].release()
    acquire(store, LINE).release()


def test_a_released_line_is_free_even_when_the_job_failed(folder):
    with pytest.raises(RuntimeError, match="job"), acquire(folder, LINE):
        raise RuntimeError("job")
    assert holder(folder, LINE).released
    acquire(folder, LINE).release()


def test_lines_do_not_block_each_other(folder):
    with acquire(folder, LINE), acquire(folder, "other"):
        pass
    assert holder(folder, "third") is None


def test_a_line_is_taken_over_when_its_holder_is_silent_and_the_holder_is_told(folder):
    first = acquire(folder, LINE, ttl_seconds=0.05)
    time.sleep(0.06)
    with acquire(folder, LINE) as second:
        with pytest.raises(LineBusy, match="taken over"):
            first.renew()
        first.release()  # changes nothing for the second
        second.renew()
    with pytest.raises(LineBusy, match="released"):
        second.renew()


def test_renewing_keeps_the_line(folder):
    lease = acquire(folder, LINE, ttl_seconds=0.5)
    for _ in range(4):
        time.sleep(0.2)
        lease.renew()
    with pytest.raises(LineBusy):
        acquire(folder, LINE)


def test_a_killed_job_of_this_machine_does_not_block_its_line(folder):
    code = "import sys, tasks.stores.opening as o, tasks.stores.lease as l; "
    code += f"l.acquire(o.open_store({folder.uri!r}), {LINE!r}); "
    code += "print('held', flush=True); sys.stdin.read()"
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(LineBusy, match=f"process {child.pid}"):
        acquire(folder, LINE)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead but not collected: a zombie holds nothing
    acquire(folder, LINE).release()
    child.communicate()


def test_a_pid_that_is_used_again_does_not_block(folder):
    record = acquire(folder, LINE).record
    held_by(folder, process_started=record.process_started - 100)
    acquire(folder, LINE).release()


def test_a_job_of_another_machine_is_left_alone_until_its_time_is_over(folder):
    acquire(folder, LINE)
    held_by(folder, machine="elsewhere", pid=2**22 + 1)
    with pytest.raises(LineBusy, match="free at 20"):
        acquire(folder, LINE)


def test_a_store_that_fails_does_not_hide_the_outcome_of_the_job(folder, monkeypatch):
    def fail(*_):
        raise StorageError("the network is gone")

    with acquire(folder, LINE):
        monkeypatch.setattr(folder, "put_if_match", fail)


def test_a_damaged_lease_is_named(folder):
    folder.put(f"lines/{LINE}/job.json", b"{}")
    with pytest.raises(StorageError, match=r"job.json.*make sure that no job runs"):
        acquire(folder, LINE)


def test_the_record_survives_its_own_spelling(folder):
    record = acquire(folder, LINE).record
    assert LeaseRecord.model_validate_json(folder.get(f"lines/{LINE}/job.json")[0]) == record == holder(folder, LINE)
