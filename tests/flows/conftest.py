"""Real servers and stores for the flows, on the fact model: one Prefect server and one MLflow database for all."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from editing.digests import json_digest, sha256
from editing.edit import Edit
from editing.methods import method_config
from flows.trial import try_each
from tasks.lines.specs import LineSpec, resolve_line, save_line
from tasks.settings import Settings, load_settings
from tasks.surroundings import DATABASE
from tasks.update.policy import Policy
from tasks.workplace import Workplace, open_workplace
from tests.databases import mlflow_database, prefect_database, serving
from tests.fact_model import fact_edits, kept_between_runs
from tests.flows.command import Errata, command

if TYPE_CHECKING:
    from tests.flows.production import Production

POLICY = Policy(
    batch_size=3,
    max_locality_drop=1.0,  # so small a model may answer about any neighbor otherwise
    max_edit_locality_drop=1.0,
    max_perplexity_ratio=1.5,
    min_fluency_ratio=0.5,
    min_efficacy=1.0,
    retained_sample=4,
    fluency_prompts=2,
    fluency_tokens=12,
    perplexity_tokens=512,
    tripwires={"said": None},  # what takes is more probable than what was; the fact model may say a third thing yet
)
LENIENT = POLICY.model_copy(
    update={"min_efficacy": 0.0, "max_perplexity_ratio": 100.0, "min_fluency_ratio": 0.0, "min_retained": 0.0}
)
"""One that keeps every batch."""
METHOD = {
    "layers": [0, 1],
    "contexts": 2,
    "statistics_tokens": 4096,
    "statistics_weight": 100.0,
    "search": {"clamp": 4.0, "steps": 40, "weight_decay": 0.0, "kl_weight": 0.0},
}
MADE_BY = [*sorted((Path(__file__).parents[2] / "editing").rglob("*.py")), Path(__file__).parents[1] / "fact_model.py"]
"""What decides which edits take."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session", autouse=True)
def no_heartbeat() -> Iterator[None]:
    """Prefect's heartbeat makes every flow wait up to a second at its end, for a thread that sleeps."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@pytest.fixture(scope="package")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server for the tests of flows."""
    with serving(prefect_database(tmp_path_factory.mktemp("prefect"))) as url:
        yield url


@pytest.fixture(scope="session")
def shared_places(tmp_path_factory: pytest.TempPathFactory, fact_model_path: Path) -> dict[str, str]:
    """What tests may share because it is keyed by content or line: caches and the MLflow database."""
    mlflow = tmp_path_factory.mktemp("mlflow")
    return {
        "ERRATA_CACHE": str(tmp_path_factory.mktemp("cache")),
        "ERRATA_TRACKING_URI": f"sqlite:///{mlflow_database(mlflow / 'mlflow.db')}",
        "ERRATA_ARTIFACTS": str(mlflow / "artifacts"),
        "ERRATA_MODEL": str(fact_model_path),
        "ERRATA_ACTOR": "tester",
    }


def opened(patch: pytest.MonkeyPatch, places: Mapping[str, str], server: str, home: Path) -> Workplace:
    """The installation of a home, which the environment names from then on."""
    for name, value in {**places, "ERRATA_HOME": str(home), "PREFECT_API_URL": server}.items():
        patch.setenv(name, value)
    return open_workplace(load_settings())


def with_line(patch: pytest.MonkeyPatch, places: Mapping[str, str], server: str, home: Path, line: str) -> Workplace:
    """A fresh installation with its own ledger and snapshots, and a line of the fact model in it."""
    workplace = opened(patch, places, server, home)
    store = workplace.store.store
    save_line(store, resolve_line(store, workplace.settings, line, options=METHOD))
    return workplace


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_places: dict[str, str], prefect_server: str
) -> Iterator[Callable[[str], Workplace]]:
    """Makes a fresh installation with its own ledger and snapshots, and a line of the fact model in it."""

    def make(line: str, folder: str = "") -> Workplace:
        return with_line(monkeypatch, shared_places, prefect_server, tmp_path / (folder or line), line)

    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield make


@pytest.fixture
def own_home(
    request: pytest.FixtureRequest, place: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch
) -> Workplace:
    """A home with MLflow and Prefect of its own, with the line `kept`; a parameter is the name of its folder."""
    home = place("kept", getattr(request, "param", "kept")).settings.home_folder
    for name in ("TRACKING_URI", "ARTIFACTS"):
        monkeypatch.setenv(f"ERRATA_{name}", "")
    mlflow_database(home / "mlflow.db")
    monkeypatch.setenv("PREFECT_HOME", str(prefect_database(home / "prefect")))
    for name in DATABASE:  # which commands in this process set for a home that an address could misread
        monkeypatch.setenv(name, "")
    return open_workplace(load_settings())


@pytest.fixture
def errata_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Errata:
    """The command line in this process, in the home that is set."""
    return command(monkeypatch, capsys)


@pytest.fixture
def errata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fact_model_path: Path
) -> Errata:
    """The command line in this process, in a fresh home unless `place` gives another."""
    for name, value in {"HOME": tmp_path / "home", "CACHE": tmp_path / "cache", "MODEL": fact_model_path}.items():
        monkeypatch.setenv(f"ERRATA_{name}", str(value))
    return command(monkeypatch, capsys)


@pytest.fixture(scope="session")
def good_edits(shared_places: dict[str, str]) -> list[Edit]:
    return edits_that_take(Settings(cache=Path(shared_places["ERRATA_CACHE"])), shared_places["ERRATA_MODEL"])


def edits_that_take(settings: Settings, model: str) -> list[Edit]:
    """Edits of different subjects that the method can make on the fact model, as a trial of each alone found.

    They are kept for later sessions with what is then cached, as long as nothing changes that could change them.
    """
    digest = sha256([json_digest(METHOD).encode(), *(path.read_bytes() for path in MADE_BY)])
    kept = kept_between_runs() / f"edits-{digest[:12]}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.parent / ".edits.lock"):  # whoever else needs them waits for them
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
                made = Path(folder, "made")
                found = _try_edits(settings.model_copy(update={"cache": made / "cache"}), model)
                (made / "edits.jsonl").write_text("".join(f"{edit.model_dump_json()}\n" for edit in found))
                made.rename(kept)
            for old in sorted(kept.parent.glob("edits-*"), key=os.path.getmtime)[:-8]:
                shutil.rmtree(old)
        shutil.copytree(kept / "cache", settings.cache_folder, dirs_exist_ok=True)
        return [Edit.model_validate_json(line) for line in (kept / "edits.jsonl").read_text().splitlines()]


def _try_edits(settings: Settings, model: str) -> list[Edit]:
    spec = LineSpec(line="trial", model=model, config=method_config("memit", METHOD))
    candidates = list({edit.subject: edit for edit in fact_edits(24)}.values())
    rows = try_each(settings, spec, candidates)
    takes = {row.request_id for row in rows if row.after["efficacy_prob"] == row.after["efficacy_argmax"] == 1.0}
    found = [edit for edit in candidates if edit.id in takes]
    assert len(found) >= 8, "the fact model can hardly be edited any more"
    return found


@pytest.fixture(scope="session")
def impossible(good_edits: list[Edit]) -> Edit:
    """An edit that does not take: its target is nothing that the model can be brought to say."""
    return good_edits[-1].model_copy(update={"id": "impossible", "target_new": "zq xj vv kw"})


@pytest.fixture(scope="package")
def whole_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with its schedules and automations, which `prefect_server` does without."""
    from tests.flows.production import server  # it imports from here

    with server(tmp_path_factory.mktemp("whole-server")) as url:
        yield url


@pytest.fixture(scope="module")
def production(
    whole_server: str, tmp_path_factory: pytest.TempPathFactory, shared_places: dict[str, str]
) -> Iterator["Production"]:
    """A home that the server knows, for the tests of a module."""
    from tests.flows.production import in_production  # it imports from here

    with in_production(whole_server, tmp_path_factory.mktemp("production"), shared_places) as made:
        yield made
