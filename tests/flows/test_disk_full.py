"""A disk that fills while a job writes to a store on it: one line, nothing half done, and the next job finishes."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tasks.ledger import intake
from tasks.ledger.errors import LedgerError
from tasks.ledger.table import Ledger
from tasks.review import decisions
from tests.costs import further
from tests.flows.command import check_one_line, ended, start
from tests.flows.conftest import POLICY, with_line
from tests.races.checker import Home, faults, unfinished
from tests.waiting import until

LINE = "full"
IMPATIENT = "from tasks import retries; retries.PAUSES = (0,) * 4; retries.RETRIES['retry_delay_seconds'] = [0] * 4; "


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "errata-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system, and not everywhere")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@dataclass(frozen=True)
class Place(Home):
    """Store and ledger on that disk, MLflow on another one."""

    mlflow: Path

    def aliases(self, line: str) -> dict[str, tuple[int, str]]:
        return Home(self.mlflow).aliases(line)


def fill(path: Path) -> None:
    """Write into a file until there is no space left."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


@pytest.mark.parametrize("begun", [False, True], ids=["new ledger", "ledger"])
def test_a_ledger_on_a_full_disk_says_it_in_one_line_and_takes_the_same_when_there_is_space(
    small_disk, good_edits, begun, capfd
):
    ledger = Ledger(str(small_disk / "ledger"))
    for edit in good_edits[:3] if begun else []:
        intake.submit(ledger, LINE, [edit], "tester")
    fill(small_disk / "what fills it")
    with pytest.raises(LedgerError, match=r"^[^\n]*No space left on device: 0 bytes are free[^\n]*: free some space"):
        intake.submit(ledger, LINE, good_edits[3:], "tester")
    if begun:
        with pytest.raises(LedgerError, match="No space left on device"):
            ledger.compact(more_than=1)
    assert capfd.readouterr() == ("", "")  # what Delta Lake would write itself
    (small_disk / "what fills it").unlink()
    assert len(intake.submit(ledger, LINE, good_edits[3:], "tester").queued) == len(good_edits) - 3
    assert not begun or ledger.compact(more_than=1)


@further
@pytest.mark.slow
def test_a_full_disk_ends_a_job_in_one_line_and_the_next_one_finishes(
    small_disk, shared_places, prefect_server, good_edits, monkeypatch
):
    home = small_disk / "home"
    workplace = with_line(monkeypatch, shared_places, prefect_server, home, LINE)
    place, edits = Place(home, Path(shared_places["ERRATA_ARTIFACTS"]).parent), good_edits[:6]
    intake.submit(workplace.ledger, LINE, edits, "tester")
    job = ("run", LINE, *(part for name, value in POLICY.model_dump().items() if name != "batch_size"
                          for part in ("--set", f"{name}={json.dumps(value)}")), "--set", "batch_size=1")  # fmt: skip

    process = start(job, os.environ, IMPATIENT)
    until(lambda: workplace.store.versions(LINE))
    fill(small_disk / "what fills it")
    said = ended(process)
    panic, error, rest = said.err.rpartition("error: ")
    assert not panic or "object_store" in panic  # Delta Lake's own, where the space went between a look and a commit
    check_one_line(replace(said, err=error + rest), 1, "No space left on device.*free some space")
    kept = len(workplace.store.versions(LINE))
    assert 0 < kept < len(edits)
    # The next job sets it, unless this one came to its end.
    assert set(faults(place, LINE)) <= {f"alias challenger is absent, it should be {kept}"}

    (small_disk / "what fills it").unlink()
    ran = ended(start(job, os.environ, IMPATIENT))
    assert ran.code == 0, ran.err
    assert len(workplace.store.versions(LINE)) > kept and faults(place, LINE) == []
    decisions.approve(workplace, LINE)
    assert faults(place, LINE) + unfinished(place, LINE, [edit.id for edit in edits]) == []
