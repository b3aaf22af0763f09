"""Where a line is promoted from, told without a look into it: a mistake is answered before anything large is loaded."""

from pathlib import Path

from editing.edit import shown
from editing.errors import UsageError
from tasks.names import check_line


def named_source(source: Path, line: str) -> tuple[Path, str]:
    """The home that a line is promoted from, and the line's name there: HOME, or HOME/LINE where it has another.

    Raises:
        UsageError: there is no such folder.
    """
    home, name = source.expanduser().absolute(), line
    is_home = any((home.parent / part).exists() for part in ("snapshots", "settings.toml"))
    if not home.is_dir() and is_home:
        home, name = home.parent, check_line(home.name)
    if not home.is_dir():
        raise UsageError(f"{shown(str(source))} is no folder: name the home in which the version was approved")
    return home, name
