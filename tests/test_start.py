"""The benchmark of the demo's start reads what it hears rightly."""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.benchmarks import start
from tests.benchmarks.start import Attempt, Place, Stage, killed, rows, stages_of


def test_a_stage_goes_from_its_first_word_to_its_last_and_begins_anew_at_nothing(tmp_path):
    told = [(1, "values", 0, 4), (2, "edits", 0, 9), (3, "values", 4, 4), (5, "values", 0, 2), (6, "values", 1, 2)]
    told += [(8, "values", 0, 2), (9, "values", 2, 2)]
    written = tmp_path / "stages.jsonl"
    written.write_text("".join(json.dumps(line) + "\n" for line in told))
    assert stages_of(written) == [Stage("values", 1, 3), Stage("values", 5, 6), Stage("values", 8, 9)]


def test_processor_time_is_of_the_command_and_of_the_stages_in_it():
    looks = [(float(moment), 2.0 * moment) for moment in range(0, 11)]
    attempt = Attempt(looks=looks, lines=[(2.0, "$ errata submit"), (3.5, "queued"), (4.0, "$ errata run")])
    found = list(rows(attempt, [Stage("values", 4.5, 6.0), Stage("values", 7.0, 8.0)]))
    assert found == [
        ("before the first command", 2.0, 4.0),
        ("errata submit", 2.0, 4.0),
        ("errata run", 6.0, 12.0),
        ("    values (2)", 2.5, 5.0),
    ]


def test_a_process_is_heard_without_its_knowing(tmp_path):
    place = Place(tmp_path, (), 1, {})
    code = "from tasks.progress import progress; progress('work', 0, 3)"
    subprocess.run([sys.executable, "-c", code], env=place.environment(), cwd=tmp_path, check=True)
    [line] = place.stages.read_text().splitlines()
    assert json.loads(line)[1:] == ["work", 0, 3]


def test_processor_time_is_that_of_a_process_and_its_children():
    code = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'while True: pass']); "
        "print('on', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        spent: dict[int, float] = {}
        while start._processor(process.pid, spent) < 0.5:
            pass
        assert len(spent) == 2
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


def test_it_is_started_again_until_it_ends_and_what_failed_is_said(tmp_path, monkeypatch, capsys):
    waits: list[float | None] = []

    def run(self, kill_after=None):
        waits.append(kill_after)
        return Attempt(looks=[(0.0, 0.0), (3.0, 1.0)], lines=[(1.0, "what it said")], code=None if kill_after else 1)

    monkeypatch.setattr(Place, "run", run)
    whole = Attempt(looks=[(0.0, 0.0), (10.0, 5.0)])
    with pytest.raises(SystemExit, match=r"what it said\nthe demo failed"):
        killed(Place(tmp_path, (), 1, {}), whole, 3, random.Random(0))
    assert len(waits) == 4 and waits[-1] is None and sum(wait for wait in waits if wait) <= 10
    assert "killed 3 times: 12.0 s and 4.0 s of processor, 1.20 and 0.80 times" in capsys.readouterr().out
