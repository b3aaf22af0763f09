"""A policy out of a file, TOML or YAML by its ending, and out of single values that stand above it."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from editing.edit import shown
from editing.errors import PolicyError
from tasks.options import checked, merged, nested
from tasks.update.policy import Policy

ENDINGS = (".toml", ".yaml", ".yml")
MOST_BYTES = 100_000


def given_policy(file: Path | None, values: Mapping[str, Any]) -> Policy:
    """The policy of a file, or the default one, with `values` on top; their names may have dots (`levels.kl.max`).

    Raises:
        PolicyError: the file cannot be read, or a name, value or combination is none; it names file, place and value.
    """
    fields = {} if file is None else read_fields(file)
    if file is not None:
        checked(Policy, f"policy file '{file}':", fields)  # a mistake of the file is not one of what stands above it
    return checked(Policy, "policy", merged(fields, nested(values, "policy")))


def read_fields(file: Path) -> dict[str, Any]:
    """What stands in a policy file, unchecked. Raises PolicyError."""
    if file.suffix.lower() not in ENDINGS:
        raise PolicyError(
            f"policy file '{file}' ends in '{file.suffix}'; give a file that ends in {', '.join(ENDINGS)}"
        )
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        text = data.decode().removeprefix("\ufeff")  # as editors on Windows save it
    except OSError as error:
        raise PolicyError(
            f"policy file '{file}' cannot be read: {error.strerror or error}; correct the path"
        ) from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"policy file '{file}': byte {error.start} is no UTF-8; save it as UTF-8") from error
    if len(data) > MOST_BYTES:
        raise PolicyError(f"policy file '{file}' has more than {MOST_BYTES:,} bytes; give the policy alone")
    found = _parsed(file, text)
    if not isinstance(found, dict):
        raise PolicyError(f"policy file '{file}' holds {shown(found)}; give names with values, e.g. batch_size")
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise PolicyError(f"policy file '{file}': name {shown(wrong[0])} is no text; correct it")
    return found


def _parsed(file: Path, text: str) -> Any:
    if file.suffix.lower() == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(f"policy file '{file}' is no TOML: {_line(error)}; correct it there") from error
    import yaml  # only who has such a file needs it

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise PolicyError(f"policy file '{file}' holds an alias (*name); write out what it stands for")
        if twice := _given_twice(yaml.compose(text, Loader=yaml.SafeLoader)):
            raise PolicyError(f"policy file '{file}': {twice}; leave one out")
        found = yaml.safe_load(text)
        return {} if found is None else found
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise PolicyError(f"policy file '{file}' is no YAML: {_line(error)}; correct it there") from error


def _given_twice(node: Any) -> str:
    """The first name that a mapping of a YAML document has twice, with the lines; empty where there is none."""
    if node is None or node.id == "scalar":
        return ""
    if node.id == "sequence":
        return next(filter(None, map(_given_twice, node.value)), "")
    lines: dict[Any, int] = {}
    for name, value in node.value:
        known, line = (name.tag, name.value) if name.id == "scalar" else name, name.start_mark.line + 1
        if known in lines:
            return f"name {shown(name.value)} stands in line {lines[known]} and in line {line}"
        lines[known] = line
        if inside := _given_twice(value):
            return inside
    return ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).replace(' in "<unicode string>",', "")
