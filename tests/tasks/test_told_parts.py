"""What reads versions, writes them elsewhere, or looks through a store tells how far it is, part by part."""

import sqlite3
from contextlib import closing

import pytest

from tasks.audit.auditing import audit
from tasks.carrying.exporting import export
from tasks.keeping.databases import sweep
from tasks.keeping.needles import needles_of
from tasks.lines.stored import stored_line
from tasks.progress import Silent, listening
from tasks.review.asking import load_base
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.stores.batches import Travelling
from tests.tasks.carried import LINE, RANK, WEIGHTS, CarriedLine

VERSIONS = 4


class Heard(Silent):
    """How far each stage was, from its beginning to its end."""

    def __init__(self) -> None:
        self.told: dict[str, list[tuple[int, int]]] = {}

    def progress(self, what: str, done: int, total: int) -> None:
        self.told.setdefault(what, []).append((done, total))

    def rose(self, what: str, total: int) -> None:
        """It rose part by part to all of so much."""
        assert self.told[what] == [(done, total) for done in range(total + 1)], self.told


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> CarriedLine:
    made = CarriedLine(tmp_path_factory.mktemp("carried"))
    for _ in range(VERSIONS):
        made.make(strength=0.02)
    made.serve(made.workplace.store.version(LINE, VERSIONS))
    return made


def by_pointer(line: CarriedLine) -> None:
    store = line.workplace.store
    version, told = store.version(LINE, VERSIONS), stored_line(store.store, LINE)
    load_version(pointer(line.workplace, version, told), line.settings)


def by_travelling(line: CarriedLine) -> None:
    model = Travelling(load_base(line.workplace, line.spec), line.workplace.store)
    model.to(line.workplace.store.version(LINE, VERSIONS).snapshot)


@pytest.mark.parametrize("load", [by_pointer, by_travelling])
def test_loading_a_version_tells_of_base_chain_and_sum(line, load):
    heard = Heard()
    with listening(heard):
        load(line)
    ranks = len(WEIGHTS) * RANK * VERSIONS
    assert heard.told["model"][-1] == (100, 100)
    heard.rose("versions read", VERSIONS)
    done = [done for done, _ in heard.told["weights"]]
    assert {total for _, total in heard.told["weights"]} == {ranks}
    assert done == sorted(done) and len(WEIGHTS) <= len({*done} - {0}) and done[-1] == ranks


def test_an_export_tells_of_its_factors_its_adapter_and_its_files(tmp_path):
    line, heard = CarriedLine(tmp_path), Heard()
    line.make(root=True)
    with listening(heard):
        export(line.workplace, LINE, "lora", tmp_path / "out", "1", 8)
    for what in ("changes as factors", "weights of the adapter"):
        heard.rose(what, len(WEIGHTS))
    assert heard.told["MiB of files"][0][0] == 0


def test_files_of_an_export_are_checked_one_by_one(tmp_path, monkeypatch, line):
    monkeypatch.setattr("tasks.carrying.card.UNIT", 1)
    heard = Heard()
    with listening(heard):
        told = export(line.workplace, LINE, "merged", tmp_path / "out", "1")
    sizes = [one["bytes"] for name, one in told["files"].items() if name != "README.md"]
    assert heard.told["MiB of files"] == [(sum(sizes[:count]), sum(sizes)) for count in range(len(sizes) + 1)]


def test_an_audit_tells_of_versions_and_of_the_ledgers_commits(line):
    heard = Heard()
    with listening(heard):
        assert audit(line.workplace, LINE, mlflow=False).looked_at["versions"] == VERSIONS
    counted = [(number, VERSIONS) for number in range(1, VERSIONS + 1)]
    assert heard.told[f"objects of line {LINE}"] == [(0, 1), *counted, (1, 1)]
    commits = heard.told["events of the ledger"][1:-1]
    assert len(commits) > VERSIONS and commits == sorted(commits) and {of for _, of in commits} == {commits[-1][0]}


def test_a_database_is_swept_table_by_table(tmp_path):
    path, told = tmp_path / "some.db", list[tuple[int, int]]()
    with closing(sqlite3.connect(path)) as database, database:
        for name in "abc":
            database.execute(f"CREATE TABLE {name} (message TEXT)")
    needles, _ = needles_of([{"id": "a", "subject": "Ada Lovelace"}], [])
    sweep(path, needles, lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4)]
