"""A data set of the hub is read by its name where `datasets` is installed, and refused in one line where not."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from editing.errors import ReadError
from tasks.ledger.reading import read_requests
from tests.flows.command import check_one_line, ended, environment, start

ROWS = [{"subject": name, "prompt": "{} lives in", "target_new": "Rome"} for name in ("Ada", "Bo")]


def test_without_the_package_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ReadError, match=r"'hub:owner/name' is read by the package datasets, .* 'errata\[hub\]'"):
        [*read_requests([Path("hub:owner/name")])]


installed = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")


@pytest.mark.slow
@installed
def test_without_a_network_it_is_one_line(tmp_path):
    env = environment(tmp_path / "home", HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    ran = ended(start(("submit", "hub:owner/name", "--dry-run", "--json"), env), 120)
    errors = "".join(line for line in ran.err.splitlines(keepends=True) if " s so far" not in line)
    check_one_line(replace(ran, err=errors), 1, "cannot read the data set 'hub:owner/name': Couldn't reach")


@installed
def test_a_data_set_is_read_by_its_name_and_split(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    assert [edit.subject for edit in read_requests([Path(f"hub:{tmp_path}:test")])] == ["Ada", "Bo"]
    for given, says in (
        (f"hub:{tmp_path}", "has the splits train, test: name one"),
        ("hub:", "names no data set"),
        ("hub:./none", "cannot read"),
    ):
        with pytest.raises(ReadError, match=says):
            [*read_requests([Path(given)])]
