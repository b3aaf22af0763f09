"""Ends all services of a folder, and removes it, when the process that started this one is gone, however it went.

python -m tests.services.keeper FOLDER
"""

import shutil
import signal
import sys
from pathlib import Path

from deployments.services import daemons


def main() -> None:
    folder = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent alone says when
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    if folder.exists():
        for path in (folder / "run").glob("*.pid"):
            daemons.stop(path, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
