"""Laws of the lease: one holder at a time, none for ever, and who lost it is told."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.stores.errors import LineBusy, StorageError
from tasks.stores.lease import LeaseRecord, acquire, holder
from tests.waiting import until

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


def test_a_run_whose_answer_was_lost_holds_the_line_by_asking_again_and_another_one_does_not(folder):
    first = acquire(folder, LINE, flow_run_id="run-1")
    with acquire(folder, LINE, flow_run_id="run-1") as lease:
        assert lease.record.unsettled == ()
        with pytest.raises(LineBusy, match="taken over"):
            first.renew()
        for other in ("run-2", None):
            with pytest.raises(LineBusy, match="is held by"):
                acquire(folder, LINE, flow_run_id=other)
    assert holder(folder, LINE).released


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


CHILD = """
import sys, tasks.stores.opening as o, tasks.stores.lease as l
with l.acquire(o.open_store({uri!r}), {line!r}, ttl_seconds={ttl}):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def child(folder):
    """A job in a process of its own, which holds the line with a ttl of 0.6 s until its input is closed."""
    code = CHILD.format(uri=folder.uri, line=LINE, ttl=0.6)
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def seen_from_elsewhere(store):
    return holder(store, LINE).model_copy(update={"machine": "elsewhere"})


def test_a_job_that_says_nothing_keeps_its_line_on_every_machine(folder, child):
    first = holder(folder, LINE).renewed
    until(lambda: holder(folder, LINE).renewed - first > timedelta(seconds=1.5))  # more than two ttl
    assert not holder(folder, LINE).is_free() and not seen_from_elsewhere(folder).is_free()
    child.communicate()  # its input ends, and so does its `with`
    assert holder(folder, LINE).released
    acquire(folder, LINE).release()


def test_a_process_that_lives_keeps_its_line_however_long_it_is_silent(folder, child):
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: seen_from_elsewhere(folder).is_free())  # expired
    with pytest.raises(LineBusy, match=f"process {child.pid}.*: wait for that job or end it$"):
        acquire(folder, LINE)
    os.kill(child.pid, signal.SIGCONT)
    child.communicate()
    acquire(folder, LINE).release()


def test_a_process_that_was_stopped_while_another_machine_took_over_learns_it(folder, child):
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: seen_from_elsewhere(folder).is_free())
    held_by(folder, owner="another", machine="elsewhere", pid=1, renewed=datetime.now(UTC), ttl_seconds=900.0)
    os.kill(child.pid, signal.SIGCONT)
    child.communicate()
    assert holder(folder, LINE).owner == "another" and not holder(folder, LINE).released


def test_the_thread_ends_with_the_lease_and_renews_nothing_after(folder):
    with acquire(folder, LINE, ttl_seconds=0.03) as lease:
        until(lambda: lease.record.renewed > lease.record.started)
    assert not [thread for thread in threading.enumerate() if thread.name == f"lease of {LINE}"]
    assert holder(folder, LINE).released


def test_who_lost_the_line_between_learns_it_at_the_next_check_and_at_the_next_renewal(folder, caplog):
    with acquire(folder, LINE, ttl_seconds=0.06) as lease:
        lease.check()
        held_by(folder, owner="another", machine="elsewhere", flow_run_id="run-2")
        until(lambda: "taken over" in caplog.text)
        for ask in (lease.check, lease.renew):
            with pytest.raises(LineBusy, match=r"taken over by process .*run-2"):
                ask()
    assert holder(folder, LINE).owner == "another"


@pytest.mark.parametrize("how", ["refused", "written, and the answer was lost"])
def test_a_renewal_that_storage_fails_is_logged_and_tried_again(folder, monkeypatch, caplog, how):
    caplog.set_level(logging.WARNING)
    put, left = folder.put_if_match, [2]

    def fail(*args):
        if left[0]:
            left[0] -= 1
            if how != "refused":
                put(*args)
            raise StorageError("the network is gone")
        return put(*args)

    with acquire(folder, LINE, ttl_seconds=0.06) as lease:
        monkeypatch.setattr(folder, "put_if_match", fail)
        until(lambda: not left[0] and lease.record.renewed > lease.record.started)
        lease.check()
        assert "not renewed, tried again soon: the network is gone" in caplog.text
    assert holder(folder, LINE).owner == lease.record.owner and holder(folder, LINE).released


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


def test_what_a_killed_or_failed_job_left_is_named_to_the_next_ones_until_one_has_looked_after_it(folder):
    with acquire(folder, LINE, flow_run_id="well") as lease:
        assert lease.record.unsettled == ()
    with pytest.raises(ValueError, match="oops"), acquire(folder, LINE, flow_run_id="failed") as lease:
        assert lease.record.unsettled == ()
        raise ValueError("oops")
    acquire(folder, LINE, flow_run_id="killed")
    held_by(folder, pid=2**22, machine=holder(folder, LINE).machine)
    acquire(folder, LINE, flow_run_id="killed as it began")
    held_by(folder, pid=2**22)
    with acquire(folder, LINE, flow_run_id="unsettled") as lease:
        assert lease.record.unsettled == ("failed", "killed", "killed as it began")
    with acquire(folder, LINE, flow_run_id="settled") as lease:
        assert lease.record.unsettled == ("failed", "killed", "killed as it began")
        lease.settle()
        assert b'"unsettled"' not in folder.get(f"lines/{LINE}/job.json")[0]
    with acquire(folder, LINE) as lease:
        assert lease.record.unsettled == ()
