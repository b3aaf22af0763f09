"""Tables in folders whose path Delta Lake takes for another one: with `%20`, brackets, a backslash and the like.

Of the path it makes a URL, with all links followed, and one of its parts decodes that once more than the other does: no
way of writing such a path satisfies both. So it is given a folder with a plain name, which holds a link to the log
alone, and when the table is open, and its URL made, that folder becomes a link to the table. Only a checkpoint is not
made through it, since that follows links anew: it needs the log alone, and has the plain folder again.
"""

import os
import re
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from deltalake import DeltaTable, PostCommitHookProperties

from tasks.ledger.errors import LedgerError

_LOG = "_delta_log"
_MISREAD = re.compile(r"[][\\|^\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")
_CHECKPOINT_EVERY = 100
"""Commits, as Delta Lake does by itself."""
_NO_CHECKPOINT = PostCommitHookProperties(create_checkpoint=False)
Opening = Callable[[str], DeltaTable]


def misread(uri: str) -> bool:
    """Whether Delta Lake takes this local path for another one."""
    return not uri.startswith("s3://") and bool(_MISREAD.search(uri))


def opened(uri: str, opening: Opening) -> DeltaTable:
    """The table that `opening` makes of an address that Delta Lake understands.

    Raises:
        LedgerError: the folder for temporary files has such a path itself.
    """
    if not misread(uri):
        return opening(uri)
    folder = _with_the_log_alone(uri)
    try:
        table = opening(str(folder))
        (folder / _LOG).unlink()
        folder.rmdir()
        folder.symlink_to(uri)
    except BaseException:
        _remove(folder)
        raise
    weakref.finalize(table, _remove, folder)
    return table


def hooks(table: DeltaTable) -> dict[str, Any]:
    """Arguments of every commit: no checkpoint follows where Delta Lake could not make one by itself."""
    return {} if _alias(table) is None else {"post_commithook_properties": _NO_CHECKPOINT}


def checkpoint(table: DeltaTable) -> None:
    """Make a checkpoint of the table as it is now."""
    if (alias := _alias(table)) is None:
        table.create_checkpoint()
        return
    folder = _with_the_log_alone(str(alias.readlink()))
    try:
        DeltaTable(str(folder)).create_checkpoint()
    finally:
        _remove(folder)


def follow(table: DeltaTable) -> None:
    """Make the checkpoint that is due after a commit, where Delta Lake does not by itself."""
    if (table.version() + 1) % _CHECKPOINT_EVERY == 0 and _alias(table) is not None:
        checkpoint(table)


def _alias(table: DeltaTable) -> Path | None:
    """The link by which the table was opened; Delta Lake itself would have followed it."""
    address = urlsplit(table.table_uri)
    folder = Path(unquote(address.path))
    return folder if address.scheme == "file" and folder.is_symlink() else None


def _with_the_log_alone(uri: str) -> Path:
    above = tempfile.mkdtemp(prefix="errata-ledger-")
    folder = Path(above, "table")
    if misread(str(folder.resolve())):
        os.rmdir(above)
        raise LedgerError(
            f"Delta Lake takes the path of the ledger '{uri}' for another one, and that of the folder for temporary "
            f"files '{tempfile.gettempdir()}', by which it could be reached, too: set TMPDIR to a plain path"
        )
    folder.mkdir()
    (folder / _LOG).symlink_to(Path(uri, _LOG))
    return folder


def _remove(folder: Path) -> None:
    """Take away the links, and never what they lead to."""
    for link in (folder / _LOG, folder):
        if link.is_symlink():
            link.unlink()
    for made in (folder, folder.parent):
        if made.is_dir():
            made.rmdir()
