"""The command line: `errata`. Every command explains itself in `--help`."""

import functools
import logging
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import typer
from typer.exceptions import TyperException

from editing.errors import ErrataError, InvalidEdit, PolicyError, ReadError, UsageError
from editing.shortage import within_memory

# The order of the commands in the help.
from flows.cli import (  # noqa: F401
    auditing,
    benchmark,
    calibrating,
    carrying,
    deploy,
    diagnosis,
    history,
    jobs,
    judging,
    keeping,
    lines,
    migrating,
    promoting,
    requests,
    retracting,
    rules,
    servers,
    serving,
    train,
    upkeep,
    versions,
)
from flows.cli.app import Stopped, app, set_defaults
from flows.cli.console import console, errors, plain, replace_what_cannot_be_shown, waiting
from flows.cli.help_text import flowing
from tasks.text import storable

STOPPED = 130
"""Exit code of a command that Ctrl-C ended."""
MISTAKES = (UsageError, PolicyError, InvalidEdit, ReadError)
"""What is wrong is in the command or a setting, or in what they name: nothing of that name, no file to be read."""
MESSAGE_LENGTH = 600

logger = logging.getLogger(__name__)

for _command in app.registered_commands:
    _command.help = flowing(_command.callback.__doc__ or "", shutil.get_terminal_size().columns)


def main() -> None:
    """Run a command; what is wrong is one line on standard error, exit code 2 for a mistake and 1 for a failure."""
    set_defaults()
    replace_what_cannot_be_shown()
    try:
        _check_texts()
        with _at_work(sys.argv[1:]), within_memory():
            code = _command_line()(prog_name="errata", standalone_mode=False)
    except TyperException as error:
        _fail(_usage(error), error.exit_code)
    except MISTAKES as error:
        logger.debug("what it came from", exc_info=True)
        _fail(str(error), 2)
    except ErrataError as error:
        logger.debug("what it came from", exc_info=True)
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}; look at the place and the free space", 1)
    except Stopped as stopped:
        typer.echo(f"stopped; {plain(stopped)}", err=True)
        code = STOPPED
    else:
        if code == STOPPED:
            typer.echo("stopped; what was written before stands", err=True)
    sys.exit(code or 0)


@functools.cache
def _command_line() -> Callable[..., Any]:
    """Made once in a process, whatever it runs: `app` itself makes all commands anew at each call."""
    return typer.main.get_command(app)


def _at_work(arguments: list[str]) -> AbstractContextManager[object]:
    """Inside, a command that has printed nothing yet is seen to be at work, importing too."""
    to = errors if "--json" in arguments else console  # where standard output is for a script
    return waiting(" ".join(["errata", *arguments[:1]]), to, until_output=True)


def _check_texts() -> None:
    """Raises UsageError for an argument or setting that is no text: it could be stored nowhere, and not shown."""
    variables = (f"{name}={value}" for name, value in os.environ.items() if name.startswith("ERRATA_"))
    for given in (*sys.argv[1:], *variables):
        if storable(given) != given:
            raise UsageError(f"'{storable(given)}' holds bytes that are no UTF-8: write it, or rename what it names")


def _usage(error: TyperException) -> str:
    """Typer's message with the command whose help explains it; empty where the help itself was printed."""
    message, context = error.format_message().strip().rstrip("."), getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if message and context else message


def _fail(message: str, code: int) -> NoReturn:
    if message:
        line = plain(message)
        # What was given may be as long as it likes: the beginning says what it is about, the end what to do.
        shown = line if len(line) <= MESSAGE_LENGTH else f"{line[: MESSAGE_LENGTH - 200]} … {line[-200:]}"
        typer.echo(f"error: {shown}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
