"""Names that people choose, and the keys that outside systems take in their place."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from editing.digests import sha256
from editing.errors import UsageError

_LINE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_KIND = re.compile(r"[a-z0-9]+")
_PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_READABLE = 64
_DIGEST = 16
_NAMED = 20
"""Lines that a message lists; there may be thousands."""


def check_line(line: str) -> str:
    """The name of a line, refused with UsageError where it could not be part of a key."""
    if not _LINE.fullmatch(line) or ".." in line:
        raise UsageError(
            f"line {line[:80]!r}: a name has 1 to 63 characters of a-z, 0-9, '.', '_' and '-', "
            "and begins with a letter or digit; for example 'smollm2-memit'"
        )
    return line


def unknown_line(line: str, known: Iterable[str]) -> UsageError:
    """What is said of a line that nobody knows: which one may be meant, and which there are."""
    if not (others := _others(line, known)):
        return UsageError(f"there is no line '{line}', nor any other; `errata submit FILE --line {line}` begins it")
    return UsageError(f"there is no line '{line}'; {others}")


def new_line(line: str, known: Iterable[str]) -> str:
    """What is said of a line that somebody begins where there are others."""
    return f"line '{line}' is new; {_others(line, known)}"


def _others(line: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = "".join(f"did you mean '{name}'? " for name in get_close_matches(line, names, n=1))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{near}lines are {', '.join(names[:_NAMED])}{more}" if names else ""


def check_model_name(name: str) -> str:
    """The name of a registered model of MLflow, refused with UsageError where MLflow or a filter of it would."""
    if not _MODEL.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} cannot be the name of a model in MLflow: a name has 1 to 200 letters (A-Z), digits, '.', "
            "'_' and '-', and begins with a letter or digit; for example 'mend-smollm2'"
        )
    return name


def shown_version(number: int, mlflow_number: int | None = None) -> str:
    """A version as people read it: the line's number, and MLflow's own where it is known: 'v3 (MLflow 1)'."""
    return f"v{number}" if mlflow_number is None else f"v{number} (MLflow {mlflow_number})"


def artifact_key(name: str, kind: str) -> str:
    """The key of an artifact in Prefect, made of a-z, 0-9 and dashes; names that differ have keys that differ.

    A name of words joined by single dashes stays as it is. Any other name is spelled with dashes and carries its
    digest behind two of them, which the keys of the first sort never hold.

    Args:
        name: Of a line or a registered model.
        kind: What the artifact shows, one word: 'summary', 'progress'.
    """
    if not _KIND.fullmatch(kind):
        raise UsageError(f"kind {kind!r} of an artifact: write one word of a-z and 0-9, for example 'progress'")
    if _PLAIN.fullmatch(name):
        return f"{name}-{kind}"
    readable = re.sub("[^a-z0-9]+", "-", name.lower())[:_READABLE].strip("-")
    digest = sha256(name.encode("utf-8", "backslashreplace"))[:_DIGEST]
    return f"{readable}--{digest}-{kind}"
