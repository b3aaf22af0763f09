"""`errata doctor`: what is installed, reachable and writable."""

import sys

from rich.text import Text

from flows.cli.app import Json, app
from flows.cli.console import as_json, say, table


@app.command()
def doctor(json: Json = False) -> None:
    """What is installed, reachable and writable; exit code 1 if something that is needed is not.

    Example:

        errata doctor
    """
    from flows.cli.checks import all_checks

    found = all_checks()
    if json:
        as_json([{"check": name, "ok": ok, "found": what} for name, ok, what in found])
    else:
        rows = [[name, Text("ok", "green") if ok else Text("fails", "red"), what] for name, ok, what in found]
        table("errata doctor", ["check", "", "found"], rows)
    if not all(ok for _, ok, _ in found):
        if not json:
            say("what fails says what to do")
        sys.exit(1)
