"""Start, end and look at the services on this machine.

python -m deployments.services up
python -m deployments.services status
python -m deployments.services down
"""

import argparse
import sys
from pathlib import Path

from deployments.services import commands
from deployments.services.place import PORTS
from editing.errors import ErrataError, PolicyError, UsageError
from flows.cli.console import errors, plain, replace_what_cannot_be_shown, say


def main() -> None:
    replace_what_cannot_be_shown()
    arguments = _parser().parse_args()
    folder: Path = arguments.folder
    try:
        if arguments.command == "up":
            commands.up(folder, dict(arguments.port), arguments.free_ports, arguments.auth)
        elif arguments.command == "down":
            commands.down(folder)
        elif not commands.status(folder):
            sys.exit(1)
    except (UsageError, PolicyError) as error:
        _fail(error, 2)
    except ErrataError as error:
        _fail(error, 1)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        say("stopped; the same command goes on where this one was", to=errors)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deployments.services", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("up", "start what does not run, and say where everything is"),
        ("down", "end all services; their data stay"),
        ("status", "how each service is; exit code 1 where one is not well"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("--folder", type=Path, default=Path(".services"), help="their data; default: %(default)s")
        if name == "up":
            command.add_argument(
                "--port", type=_port, action="append", default=[], metavar="NAME=NUMBER",
                help=f"another port than usual, kept from now on; names are {', '.join(PORTS)}",
            )  # fmt: skip
            command.add_argument("--free-ports", action="store_true", help="in a new folder: any ports that are free")
            command.add_argument(
                "--auth", action=argparse.BooleanOptionalAction, default=None,
                help="whether Prefect and MLflow ask who you are, kept from now on; at first they do not",
            )  # fmt: skip
    return parser


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in PORTS or not number.isdecimal() or not 0 < int(number) < 65536:
        raise argparse.ArgumentTypeError(f"'{text}' must read NAME=NUMBER; names are {', '.join(PORTS)}")
    return name, int(number)


def _fail(error: object, code: int) -> None:
    say(f"error: {plain(error)}", to=errors)
    sys.exit(code)


if __name__ == "__main__":
    main()
