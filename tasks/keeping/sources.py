"""Where a line is promoted from, told without a look into it: a mistake is answered before anything large is loaded."""

from pathlib import Path

from editing.errors import UsageError
from tasks.names import check_line
from tasks.text import visible

_PARTS = ("settings.toml", "mlflow.db", "ledger/_delta_log", "snapshots/lines")
"""Of these a home has one as soon as anything was done in it."""


def named_source(source: Path, line: str) -> tuple[Path, str]:
    """The home that a line is promoted from, and the line's name there: HOME, or HOME/LINE where it has another.

    Raises:
        UsageError: there is no such folder, or it is no home.
    """
    home, name = source.expanduser().absolute(), line
    if not home.is_dir() and _is_home(home.parent):
        home, name = home.parent, check_line(home.name)
    if not home.is_dir():
        raise UsageError(f"'{visible(str(source))}' is no folder: name the home in which the version was approved")
    if not _is_home(home):
        raise UsageError(
            f"'{visible(str(source))}' is no home of Errata (no settings.toml, ledger or versions in it): name the "
            "home in which the version was approved"
        )
    return home, name


def _is_home(folder: Path) -> bool:
    return any((folder / part).exists() for part in _PARTS)
