"""What stands behind `--set` and `--option`: names and values, held against the models that they go to."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from editing.errors import ErrataError
from editing.methods import METHODS, method_config
from editing.methods.mend.options import MendTraining
from flows.cli.app import method_options, pairs
from tasks.calibrating.search import CalibrationPlan
from tasks.lines.rules import set_rules
from tasks.stores.folder import FolderStore
from tasks.update.policy_file import given_policy
from tasks.watch.policy import make_watch_policy

Values = dict[str, Any]
REFUSALS = (ErrataError, ValidationError)
FLAGS = ("-o", "--option", "-s", "--set")


def _policy(values: Values) -> None:
    given_policy(None, values)


def _rules(values: Values) -> None:
    with tempfile.TemporaryDirectory() as folder:
        set_rules(FolderStore(Path(folder)), "main", values)


SETTERS: dict[str, tuple[str, Callable[[Values], object]]] = {
    "run": ("policy", _policy),
    "rebase": ("policy", _policy),
    "migrate": ("policy", _policy),
    "watch": ("policy", lambda values: make_watch_policy(**values)),
    "rules": ("values", _rules),
    "calibrate": ("plan", CalibrationPlan.model_validate),
    "train-mend": ("option", MendTraining.model_validate),
}
"""By command the parameter with values of a model, and what checks them; every other `option` is of a method."""


def check_values(command: str, given: Mapping[str, Any]) -> None:
    """Raises one of REFUSALS where the command would refuse these values; `given` are its parameters, as parsed."""
    name, check = SETTERS.get(command, ("", None))
    if check is not None:
        check(pairs(given[name], "--set", ""))
    if name != "option" and given.get("option"):
        options = method_options(given["option"], given.get("hypernetwork"))
        method_config(given.get("method") or "memit", options)


def commands_with(words: Sequence[str], method: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """What `-o NAME=VALUE -o ...` or `--set NAME=VALUE`, without its command, may belong to; of a method, if named."""
    values = [word for word in words if word not in FLAGS]
    if words[0] in ("-s", "--set"):
        yield from ((command, {name: values}) for command, (name, _) in SETTERS.items() if name != "option")
        return
    yield from (("trial", {"method": name, "option": values}) for name in ([method] if method else METHODS))
    if not method:
        yield "train-mend", {"option": values}
