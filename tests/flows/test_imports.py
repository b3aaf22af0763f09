"""What each command loads: the large packages that it cannot do without, and no other. Loading is most of its time.

Every command runs for real, in a process of its own, on the home of an earlier release: what jobs and decisions left.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import app
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
import sys
from flows.cli.main import main
try:
    main()
finally:
    print("loaded", *sorted({LARGE!r} & set(sys.modules)), file=sys.stderr)
"""
SUBMIT = ("submit", "--subject", "Ivy", "--prompt", "{} was born in", "--target", "Rome")
ALLOWED: dict[tuple[str, ...], set[str]] = {
    ("--help",): set(),
    **{(command, "--help"): set() for command in COMMANDS},
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
    ("repair",): LEDGER,
    ("repair", "--json"): LEDGER,
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
    ("watch", "--set", "colour=1"): set(),
    ("watch", "nowhere"): LEDGER | {"prefect"},
    ("history", "nobody"): LEDGER,
    ("approve", "--version", "7"): LEDGER,
    ("reject",): LEDGER,
    ("rollback", "--to", "9"): LEDGER,
    ("rules", "--set", "reviewers=2"): LEDGER,
    ("freeze",): LEDGER,
    ("ui", "--host", "127.0.0.1", "--mlflow-port", "0"): set(),
}


def loaded(folder: Path, *arguments: str) -> tuple[int, set[str]]:
    """Exit code of a command on a copy of the home, and which of the large packages it had loaded at its end."""
    home = unpack(ARCHIVE, folder / "old")
    (folder / "requests.jsonl").write_text('{"subject": "Ivy", "prompt": "{} lives in", "target_new": "Rome"}\n')
    settings = {**environment(home.home), **home.settings, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WATCHED, *arguments]
    ran = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    name, *found = ran.stderr.splitlines()[-1].split()
    assert name == "loaded" and "Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, set(found)


def _case(arguments: tuple[str, ...]) -> Any:
    """What loads MLflow takes seconds."""
    marks = [pytest.mark.slow] if ALLOWED[arguments] >= DECIDES else []
    return pytest.param(arguments, id=" ".join(arguments), marks=marks)


@pytest.mark.parametrize("arguments", map(_case, ALLOWED))
def test_a_command_loads_no_large_package_that_it_can_do_without(tmp_path, arguments):
    code, found = loaded(tmp_path, *arguments)
    assert (code, found - ALLOWED[arguments]) == (0, set())


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_answered_before_anything_large_is_loaded(tmp_path, arguments):
    code, found = loaded(tmp_path, *arguments)
    assert code in (1, 2) and found - MISTAKES[arguments] == set()


@pytest.mark.slow
def test_doctor_looks_at_what_there_is_without_what_it_only_names(tmp_path):
    _, found = loaded(tmp_path, "doctor", "--json")  # its code speaks of the whole installation
    assert found & {"transformers", "matplotlib", "sklearn", "boto3"} == set()
