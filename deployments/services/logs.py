"""Keeps the logs of the services small, since they append to theirs for months.

    python -m deployments.services.logs FOLDER

A log that has become too long is copied to NAME.log.1, in the place of the one before, and begins anew.
"""

import os
import shutil
import sys
import time
from pathlib import Path

MOST_BYTES = 10 << 20
LOOK_SECONDS = 30.0


def rotate(log: Path) -> None:
    """Put a log aside at the start of its service, which then has a new one."""
    if log.exists():
        os.replace(log, log.with_suffix(".log.1"))


def shorten(folder: Path, most: int = MOST_BYTES) -> None:
    """Services go on appending to the same file, so it is emptied rather than replaced."""
    for log in folder.glob("*.log"):
        if log.stat().st_size > most:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def main() -> None:
    folder = Path(sys.argv[1])
    while folder.is_dir():
        shorten(folder)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
