"""`errata ARGUMENTS` in the process of a test, and what may be said of a mistake."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from flows.cli.main import main


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


def single(subject: str = "Ada", prompt: str = "{} was born in", target: str = "Rome", *more: str) -> tuple[str, ...]:
    return ("submit", "--subject", subject, "--prompt", prompt, "--target", target, *more)


def check_one_line(ran: Ran, code: int, says: str) -> None:
    assert "Traceback" not in ran.out + ran.err
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1 and len(ran.err) < 700, ran.err
    assert re.search(says, ran.err), ran.err
    assert ran.code == code
