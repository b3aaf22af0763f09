"""What lies in the cache of this machine: results that nobody used for long, and those above its size, by last use.

Whatever is taken is made again by whoever wants it. Converted models, hypernetworks and files that are not the cache's
are left alone.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tasks.upkeep.leftovers import Leftover, left_file

_RESULT = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}")
"""A result below the folder of its kind, as `editing.cache.Cache` names it."""
_UNFINISHED = re.compile(r"(?:[0-9a-f]{2}/)?\.(?:[0-9a-f]{64}(?:\.safetensors)?\.[A-Za-z0-9_]+|tmp[A-Za-z0-9]{6})")
"""What `editing.files.whole_file`, or safetensors within it, had not finished when it was killed."""


def left_in_cache(folder: Path, before: datetime, unused: datetime, most_bytes: int) -> list[Leftover]:
    """Results not used since `unused`, or as many of the longest unused as are too many; remains of killed writers.

    Args:
        before: nothing that was used since then is taken.
        most_bytes: what may stay.
    """
    found: list[Leftover] = []
    results = sorted(_results(folder), key=lambda one: one[2])
    total = sum(size for _, size, _ in results)
    for path, size, used in results:
        if used >= before or (used >= unused and total <= most_bytes):
            break  # the others were used since
        found.append(left_file("cached result", path, size, used, before))
        total -= size
    for path in folder.glob("*/**/.*"):
        if _UNFINISHED.fullmatch("/".join(path.relative_to(folder).parts[1:])) and (seen := _seen(path)):
            _, size, written = seen
            if written < before:
                found.append(left_file("temporary file", path, size, written, before))
    return found


def _results(folder: Path) -> Iterator[tuple[Path, int, datetime]]:
    for path in folder.glob("*/[0-9a-f][0-9a-f]/*"):
        if _RESULT.fullmatch(f"{path.parent.name}/{path.name}") and (seen := _seen(path)):
            yield seen


def _seen(path: Path) -> tuple[Path, int, datetime] | None:
    """Size and last use of a file; None where it is none, or is gone since it was listed."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (path, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)) if path.is_file() else None
