"""Upkeep as a command and as a flow, on the home of an earlier release: leftovers go, every version still loads."""

import os
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from flows.maintain import maintain
from tasks.names import artifact_key
from tasks.stores.opening import open_store
from tests.flows.test_homes import ARCHIVES
from tests.homes.archive import unpack
from tests.tasks.test_upkeep import all_versions_load


@pytest.fixture
def old_home(tmp_path, monkeypatch) -> Path:
    """Everything in it was written in 1970; one file of tensors leads nowhere."""
    home = unpack(ARCHIVES[0], tmp_path / "old")
    for name in ("ERRATA_HOME", "ERRATA_CACHE"):
        monkeypatch.setenv(name, home.settings[name])
    (home.home / "snapshots" / "blobs" / f"{'a' * 64}.safetensors").write_bytes(b"left by a killed job")
    for path in home.home.rglob("*"):
        os.utime(path, (0, 0))
    return home.home


def left(home: Path) -> bool:
    return (home / "snapshots" / "blobs" / f"{'a' * 64}.safetensors").exists()


def test_the_command_lists_first_and_takes_when_it_is_told_to(old_home, errata, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(old_home))
    count = all_versions_load(open_store(str(old_home / "snapshots")))
    listed = errata("maintain", "--dry-run", "--json").json
    assert [row["name"] for row in listed["rows"]] == [f"blobs/{'a' * 64}.safetensors"] and left(old_home)
    ran = errata("maintain")
    assert ran.code == 0 and "took 1 leftover," in ran.out and not left(old_home)
    assert all_versions_load(open_store(str(old_home / "snapshots"))) == count > 1
    assert errata("maintain", "--json").json["rows"] == []


def test_where_a_version_cannot_be_read_nothing_is_taken_and_the_exit_code_says_so(old_home, errata, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(old_home))
    next((old_home / "snapshots" / "lines").glob("*/versions/00000001.json")).write_bytes(b"{")
    ran = errata("maintain")
    assert ran.code == 1 and "errata repair" in ran.err and ran.err.count("\n") == 1 and left(old_home)


def test_the_flow_shows_on_its_page_what_it_took(old_home, place, monkeypatch):
    place("upkeep")
    monkeypatch.setenv("ERRATA_HOME", str(old_home))
    assert maintain(dry_run=True).in_short.startswith("would take 1 ") and left(old_home)
    assert [row.kind for row in maintain().gone] == ["tensors"] and not left(old_home)
    page = Artifact.get(artifact_key("errata", "upkeep"))
    assert page is not None and "took 1 leftover," in str(page.data) and "| tensors | 1 |" in str(page.data)
