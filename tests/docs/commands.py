"""Commands as pages write them, checked without running them: commands, options and their values, targets, modules."""

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

from typer.exceptions import TyperException
from typer.main import get_command

from flows.cli.main import app
from tests.docs.pages import ROOT
from tests.docs.values import REFUSALS, check_values, commands_with

OWN = ("deployments", "editing", "flows", "tasks", "tests")
"""The packages whose modules are ours: `python -m` of others is only looked up."""
PLAIN = {".", "cat", "cd", "curl", "docker", "echo", "export", "git", "kubectl", "mlflow", "pg_dump", "pip"} | {
    "sha256sum",
    "unzip",
}
"""Commands of others, of which nothing is checked."""
_ENDS = {"&&", "||", "|", ";", "&"}


class Wrong(Exception):
    """A command that cannot work as it is written."""


def commands_of(shell: str) -> Iterator[list[str]]:
    """The simple commands of a piece of shell, without what is set before them."""
    joined = re.sub(r"\\\n\s*", " ", shell)
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _ENDS:
                words.append(word)
                continue
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


def check(words: Sequence[str]) -> None:
    """Raises Wrong for a command that cannot work as it is written."""
    if words[0] == "/usr/bin/time":
        words = words[2:]
    name, *arguments = words
    if name == "errata":
        check_errata(arguments)
    elif name == "make":
        check_make(arguments)
    elif name == "python":
        check_python(arguments)
    elif name not in PLAIN:
        raise Wrong(f"nobody knows the command {name}")


def check_errata(arguments: Sequence[str]) -> None:
    """There is this command, with these options, and what they set is there to be set."""
    group: Any = get_command(app)
    if not arguments or arguments[0] not in group.commands:
        raise Wrong(f"there is no errata {arguments[:1]}")
    command = group.commands[arguments[0]]
    if len(arguments) == 1 or "--help" in arguments:
        return  # a command is spoken of
    try:
        given = command.make_context(arguments[0], list(arguments[1:])).params
        check_values(arguments[0], given)
    except TyperException as error:
        raise Wrong(f"errata {shlex.join(arguments)}: {error.format_message()}") from error
    except REFUSALS as error:
        raise Wrong(f"errata {shlex.join(arguments)}: {error}") from error


def check_alone(words: Sequence[str], method: str = "") -> None:
    """`-o NAME=VALUE` or `--set NAME=VALUE` without its command: some command takes it, a method where it is named."""
    refusals = []
    for command, given in commands_with(words, method):
        try:
            return check_values(command, given)
        except REFUSALS as error:
            refusals.append(str(error))
    raise Wrong(f"{shlex.join(words)}: {refusals[0]}")


def options_of_errata() -> set[str]:
    """Every option of any command."""
    group: Any = get_command(app)
    found = [one for command in group.commands.values() for one in command.params]
    return {option for one in found for option in (*one.opts, *one.secondary_opts)} | {"--help"}


def check_make(arguments: Sequence[str]) -> None:
    """There are these targets and variables, and our own command that a variable is handed to takes it."""
    makefile = (ROOT / "Makefile").read_text()
    recipes = dict(re.findall(r"^([a-z][a-z-]*):.*\n((?:\t.*\n)*)", makefile, re.MULTILINE))
    variables = dict(re.findall(r"^([A-Z_]+) \?= *(.*)$", makefile, re.MULTILINE))
    given = dict(word.split("=", 1) for word in arguments if "=" in word)
    asked = [word for word in arguments if "=" not in word]
    if unknown := [*(given.keys() - variables), *(set(asked) - recipes.keys())]:
        raise Wrong(f"the Makefile has no {', '.join(unknown)}")
    for name in given:
        using = [recipe for recipe in recipes.values() if f"$({name})" in recipe][:1]  # of a variable alone, the first
        for recipe in [recipes[target] for target in asked] or using:
            for line in re.findall(rf"(python -m .*\$\({name}\).*)", recipe):
                whole = re.sub(r"\$\((\w+)\)", lambda found: (variables | given)[found[1]], line)
                for words in commands_of(whole):
                    check(words)


def check_python(arguments: Sequence[str]) -> None:
    """`python -m MODULE ...`: there is the module, and it takes these arguments."""
    if arguments[:1] != ["-m"] or len(arguments) < 2:
        raise Wrong(f"python {shlex.join(arguments)}: only python -m is known here")
    name, rest = arguments[1], list(arguments[2:])
    if importlib.util.find_spec(name) is None:
        raise Wrong(f"there is no module {name}")
    if name.partition(".")[0] not in OWN or not rest:
        return  # another's, or spoken of
    module = _module(name)
    parsed = _parsed(module, name, rest)
    known = getattr(module, "KNOWN", None) or getattr(module, "RACES", None)
    if known and (unknown := set(getattr(parsed, "names", ())) - set(known)):
        raise Wrong(f"python -m {name} knows no {', '.join(sorted(unknown))}")
    if getattr(parsed, "option", None):
        given = {"option": parsed.option, "method": getattr(parsed, "method", None)}
        try:
            check_values("trial", given)
        except REFUSALS as error:
            raise Wrong(f"python -m {name} {shlex.join(rest)}: {error}") from error


@cache
def _module(name: str) -> ModuleType:
    is_package = importlib.util.find_spec(name).submodule_search_locations is not None  # type: ignore[union-attr]
    return importlib.import_module(f"{name}.__main__" if is_package else name)


class _Stop(Exception):
    def __init__(self, parsed: argparse.Namespace) -> None:
        self.parsed = parsed


def _parsed(module: ModuleType, name: str, arguments: list[str]) -> argparse.Namespace:
    """What the module's parser makes of the arguments; its `main` is ended there."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *given: Any, **more: Any) -> argparse.Namespace:
        raise _Stop(parse(self, *given, **more))

    typed = mock.patch.object(sys, "argv", [name, *arguments])
    with typed, mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            module.main()
        except _Stop as stopped:
            return stopped.parsed
        except SystemExit as error:
            raise Wrong(f"python -m {name} {shlex.join(arguments)} is refused") from error
    raise Wrong(f"python -m {name} parses no arguments")
