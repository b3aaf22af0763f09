"""The demo: true corrections in a real language model, from submission to rollback, with the commands shown.

    python -m deployments.demo [--home FOLDER] [--model MODEL] [--changes]

It works in a folder of its own. Killed or stopped at any moment, the same command goes on where it was; a demo that is
finished begins anew. Models, key statistics and searched values are cached in ERRATA_CACHE.
"""

import argparse
import os
import sys
from pathlib import Path

from editing.errors import ErrataError, UsageError
from flows.cli.app import Stopped, set_defaults

OWN_PLACES = ("ERRATA_STORE", "ERRATA_LEDGER", "ERRATA_TRACKING_URI", "ERRATA_ARTIFACTS", "ERRATA_LINE")
"""Settings of the user's own installation, which the demo leaves alone."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deployments.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder of the demo; default: %(default)s")
    parser.add_argument("--model", default="embedded", help="base: embedded, a folder, a hub id or a GGUF file")
    parser.add_argument("--changes", action="store_true", help="then one fact changes again and another is taken out")
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    for name in OWN_PLACES:
        os.environ.pop(name, None)
    os.environ["ERRATA_HOME"] = str(home)
    set_defaults()

    # Only now, since what it imports reads the environment.
    from deployments.demo.begin import begin
    from flows.cli.console import errors, replace_what_cannot_be_shown, say

    replace_what_cannot_be_shown()
    say("the demo: true corrections in a real language model, and all of it taken back", style="bold")
    try:
        begin(home, arguments.model, changes=arguments.changes)
    except (ErrataError, OSError) as error:
        say(f"error: {error}", to=errors)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except (KeyboardInterrupt, Stopped):
        say("stopped; the same command goes on where it was", to=errors)
        sys.exit(130)


if __name__ == "__main__":
    main()
