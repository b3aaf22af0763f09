"""A data set of the hub, by its name: `hub:OWNER/NAME`, or `hub:OWNER/NAME:SPLIT`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from editing.errors import EditingError, ReadError

MARK: Final = "hub:"


def is_of_hub(file: Path) -> bool:
    return str(file).startswith(MARK)


@contextmanager
def on_disk(file: Path) -> Iterator[Path]:
    """The data set as a Parquet file, for the time being.

    Raises:
        ReadError: the package `datasets` is not installed, or finds no such data set.
        EditingError: the hub cannot be reached.
    """
    name, _, split = str(file).removeprefix(MARK).partition(":")
    try:
        from datasets import (  # type: ignore[import-not-found, unused-ignore]  # an extra
            DatasetDict,
            disable_progress_bars,
            load_dataset,
        )

        from editing.models import quiet_transformers  # it takes seconds, and reading a file does without
    except ImportError as error:
        raise ReadError(
            f"'{file}' is read by the package datasets, which is not installed: pip install 'errata[hub]', or give "
            "a file"
        ) from error
    if not name:
        raise ReadError(f"'{file}' names no data set: give {MARK}OWNER/NAME, or {MARK}OWNER/NAME:SPLIT")
    disable_progress_bars()
    try:
        with quiet_transformers():  # the hub's client writes two lines for each of its further tries
            found: Any = load_dataset(name, split=split or None)
    except Exception as error:  # of a network, a server, a file: whatever its many libraries raise
        # That a server is away is no mistake of whoever named it.
        kind = EditingError if isinstance(error, (ConnectionError, TimeoutError)) else ReadError
        raise kind(f"cannot read the data set '{file}': {' '.join(str(error).split())[:300]}") from error
    if isinstance(found, DatasetDict):
        if len(found) != 1:
            raise ReadError(f"the data set '{file}' has the splits {', '.join(found)}: name one, {MARK}{name}:SPLIT")
        [found] = found.values()
    with tempfile.TemporaryDirectory(prefix="errata-") as folder:
        copy = Path(folder, "data.parquet")
        found.to_parquet(copy)
        yield copy
