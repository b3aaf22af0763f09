"""What each command loads: the large packages that it cannot do without, and no other. Loading is most of its time.

Every command runs for real, in a process of its own, on the home of an earlier release: what jobs and decisions left.
Those that load none at all need no process of their own to show it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import app
from tests.costs import further
from tests.flows.command import environment
from tests.homes.archive import unpack

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests" / "homes" / "home-0.1.tar.gz"
COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)
LARGE = {
    *("torch", "transformers", "mlflow", "prefect", "pyarrow", "deltalake", "duckdb", "pandas", "numpy", "scipy"),
    *("matplotlib", "sklearn", "boto3", "botocore", "fastapi", "sqlalchemy"),
}
"""What takes some tenth of a second to import, or several."""
LEDGER = {"deltalake", "duckdb"}
"""For whoever looks, and for whoever writes."""
DECIDES = LEDGER | {"mlflow", "scipy", "sqlalchemy", "fastapi", "pyarrow", "pandas", "numpy"}
"""MLflow has the aliases, and imports what it could need for models."""
WATCHED = f"""
import json, sys, traceback
from flows.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["errata", *arguments]
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 70
    print("loaded", code or 0, *sorted({LARGE!r} & set(sys.modules)), file=sys.stderr)
"""
SUBMIT = ("submit", "--subject", "Ivy", "--prompt", "{} was born in", "--target", "Rome")
HELPS: list[tuple[str, ...]] = [("--help",), *((command, "--help") for command in COMMANDS)]
ALLOWED: dict[tuple[str, ...], set[str]] = {
    SUBMIT: LEDGER,
    (*SUBMIT, "--json"): LEDGER,
    (*SUBMIT, "--dry-run"): set(),
    ("submit", "requests.jsonl"): LEDGER,
    ("submit", "requests.jsonl", "--dry-run", "--json"): set(),
    ("status",): LEDGER,
    ("status", "--json"): LEDGER,
    ("review",): LEDGER,
    ("review", "--json"): LEDGER,
    ("history",): LEDGER,
    ("history", "fact-1"): LEDGER,
    ("history", "--version", "2", "--json"): LEDGER,
    ("history", "main", "--served"): LEDGER,
    ("repair",): LEDGER,
    ("repair", "--json"): LEDGER,
    ("backup", "copy", "--json"): LEDGER,
    ("maintain",): LEDGER | {"pyarrow", "pandas", "numpy"},  # it joins the ledger's files
    ("maintain", "--dry-run", "--json"): LEDGER,
    ("watch", "--no-ask"): DECIDES | {"prefect"},
    ("rules",): LEDGER,
    ("rules", "--set", "expires_after_hours=24", "--json"): LEDGER,
    ("freeze", "--reason", "an audit"): LEDGER,
    ("unfreeze", "--json"): LEDGER,
    ("approve",): DECIDES,
    ("reject", "--reason", "wrong", "--json"): DECIDES,
    ("rollback", "--to", "0", "--json"): DECIDES,
}
MISTAKES: dict[tuple[str, ...], set[str]] = {
    ("--colour",): set(),
    ("status", "--colour"): set(),
    ("run", "--limit", "0"): set(),
    ("submit",): set(),
    ("submit", "none.jsonl", "--dry-run"): set(),
    ("status", "nowhere"): LEDGER,
    ("serve", "nowhere"): LEDGER,
    ("ask", "Ivy was born in", "--line", "nowhere"): LEDGER,
    ("rebase", "nowhere"): LEDGER,
    ("judge", "nowhere"): LEDGER,
    ("export", "nowhere", "--out", "new"): LEDGER,
    ("verify", "nowhere", "--url", "http://127.0.0.1:9/v1", "--model", "m"): LEDGER,
    ("migrate", "nowhere", "--model", "m"): LEDGER,
    ("trial", "--line", "nowhere"): LEDGER,
    ("watch", "--set", "colour=1"): set(),
    ("watch", "nowhere"): LEDGER | {"prefect"},
    ("history", "nobody"): LEDGER,
    ("restore", "nowhere"): LEDGER,
    ("forget", "nobody", "--reason", "x"): LEDGER,
    ("forget", "--reason", "x"): LEDGER,
    ("promote",): set(),
    ("audit", "main", "--checkpoint", "nowhere"): set(),
    ("promote", "--from", "nowhere"): set(),
    ("history", "--at", "2026-12-01"): set(),
    ("approve", "--version", "7"): LEDGER,
    ("reject",): LEDGER,
    ("rollback", "--to", "9"): LEDGER,
    ("rules", "--set", "reviewers=2"): LEDGER,
    ("freeze",): LEDGER,
    ("ui", "--host", "127.0.0.1", "--mlflow-port", "0"): set(),
}


Loaded = tuple[int, set[str]]


def all_loaded(folder: Path, *commands: tuple[str, ...]) -> list[Loaded]:
    """Exit code of each command, one after the other on a copy of the home, and what the process had then loaded."""
    home = unpack(ARCHIVE, folder / "old")
    (folder / "requests.jsonl").write_text('{"subject": "Ivy", "prompt": "{} lives in", "target_new": "Rome"}\n')
    settings = {**environment(home.home), **home.settings, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", WATCHED, json.dumps(commands)]
    ran = subprocess.run(run, cwd=folder, env=settings, capture_output=True, text=True)
    assert "Traceback" not in ran.stderr, ran.stderr
    lines = [line.split()[1:] for line in ran.stderr.splitlines() if line.startswith("loaded ")]
    assert len(lines) == len(commands), ran.stderr
    return [(int(code), set(found)) for code, *found in lines]


def loaded(folder: Path, *arguments: str) -> Loaded:
    [found] = all_loaded(folder, arguments)
    return found


@pytest.fixture(scope="module")
def helps(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Loaded]:
    """The commands that say how they are called."""
    return dict(zip(HELPS, all_loaded(tmp_path_factory.mktemp("helps"), *HELPS), strict=True))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Loaded]:
    """The commands that may load nothing, and those that may load the ledger: each kind in one process and home."""
    found: dict[tuple[str, ...], Loaded] = {}
    for commands in (ALLOWED, MISTAKES):
        for allowed in (set(), LEDGER):
            group = [arguments for arguments, may in commands.items() if may == allowed]
            found |= zip(group, all_loaded(tmp_path_factory.mktemp("seen"), *group), strict=True)
    return found


def _case(arguments: tuple[str, ...]) -> Any:
    """What loads MLflow takes seconds: of decisions one is tried, where it is thorough all."""
    marks = [pytest.mark.slow] if ALLOWED[arguments] >= DECIDES else []
    marks += [further] if arguments[0] in ("reject", "rollback") else []
    return pytest.param(arguments, id=" ".join(arguments), marks=marks)


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_loads_no_large_package(helps, arguments):
    assert helps[arguments] == (0, set())


@pytest.mark.parametrize("arguments", map(_case, ALLOWED))
def test_a_command_loads_no_large_package_that_it_can_do_without(seen, tmp_path, arguments):
    code, found = seen.get(arguments) or loaded(tmp_path, *arguments)
    assert (code, found - ALLOWED[arguments]) == (0, set())


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_answered_before_anything_large_is_loaded(seen, tmp_path, arguments):
    code, found = seen.get(arguments) or loaded(tmp_path, *arguments)
    assert code in (1, 2) and found - MISTAKES[arguments] == set()


@pytest.mark.slow
def test_doctor_looks_at_what_there_is_without_what_it_only_names(tmp_path):
    _, found = loaded(tmp_path, "doctor", "--json")  # its code speaks of the whole installation
    assert found & {"transformers", "matplotlib", "sklearn", "boto3"} == set()


def test_what_a_worker_runs_without_a_model_loads_none():
    said = _said("import sys, flows.decide, flows.maintain, flows.review, flows.watch; print(*sys.modules)")
    assert {"torch", "transformers", "mlflow", "pandas", "matplotlib"} & {*said.split()} == set()


def test_whatever_begins_a_run_looks_for_garbage_rarely_before_it_imports_much():
    """A worker's process begins with a flow, and not with a command."""
    seen = (
        "import gc, sys; import flows; print(gc.get_threshold()[0], 'torch' in sys.modules, 'prefect' in sys.modules)"
    )
    assert _said(seen) == "100000 False False"


def test_a_job_draws_nothing_before_its_report():
    assert _said("import sys; import flows.knowledge_update; print('matplotlib' in sys.modules)") == "False"


def _said(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return ran.stdout.strip()
