"""`errata ARGUMENTS` in the process of a test or in one of its own, and what may be said of a mistake."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from tasks.surroundings import DATABASE

# A shell starts what runs in the background with Ctrl-C ignored, and the command would inherit that.
HEARD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
RUN = "from flows.cli.__main__ import run; run()"
COMMAND = [sys.executable, "-c", HEARD + RUN]
INHERITED = ("PREFECT_API_URL", "PREFECT_HOME", *DATABASE, "NO_PROXY", "no_proxy")
"""What a test session sets for itself, and a user has not set."""


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Errata = Callable[..., Ran]


def here(*arguments: object) -> Ran:
    """The command line in this process, outside a test's own fixtures."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["errata", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Errata:
    """A function that runs the command line with its arguments."""

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["errata", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return call


def environment(home: Path, **more: str) -> dict[str, str]:
    """That of a user who has set nothing but the home."""
    kept = {name: value for name, value in os.environ.items() if name not in INHERITED}
    return kept | {"ERRATA_HOME": str(home), "ERRATA_CACHE": str(home / "cache"), "HOME": str(home / "user")} | more


def start(arguments: tuple[str, ...], env: Mapping[str, str], first: str = "") -> "subprocess.Popen[str]":
    """The command line as a process of its own; `first`: what Python does there before."""
    command = [sys.executable, "-c", HEARD + first + RUN, *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]", seconds: float = 300) -> Ran:
    """What it left behind, once it has ended by itself."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return Ran(process.returncode, out, err)


def single(subject: str = "Ada", prompt: str = "{} was born in", target: str = "Rome", *more: str) -> tuple[str, ...]:
    return ("submit", "--subject", subject, "--prompt", prompt, "--target", target, *more)


def check_one_line(ran: Ran, code: int, says: str) -> None:
    assert "Traceback" not in ran.out + ran.err
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1 and len(ran.err) < 700, ran.err
    assert re.search(says, ran.err), ran.err
    assert ran.code == code
