"""`errata`, and `python -m flows.cli` where no `errata` is on the path."""

import atexit
import os
import sys

from flows.cli.main import main


def _open_what_is_closed() -> None:
    """What a shell closed (`>&-`) is nowhere: no file that is opened later stands in its place, and gets its output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # the lowest number is free


def run() -> None:
    """Run a command and end at once: to take half a million objects of MLflow apart first lasts half a second.

    What is registered first is called last at exit, after the threads have ended and all libraries have tidied up.
    """
    _open_what_is_closed()
    ended: list[int] = []

    @atexit.register
    def end() -> None:
        if not ended:  # by a fault of ours: Python ends as it does
            return
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # nobody reads any more: Python has its own exit code for that
            return
        os._exit(ended[0])

    try:
        main()
    except SystemExit as over:
        ended.append(over.code if isinstance(over.code, int) else int(over.code is not None))
        raise


if __name__ == "__main__":
    run()
