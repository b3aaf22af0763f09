"""The files of questions that a policy names: read, and told by their digests."""

from collections.abc import Sequence
from pathlib import Path

from editing.digests import file_digest
from editing.errors import PolicyError, ReadError
from editing.measure.ability_sets import AbilitySet, read_ability
from tasks.parquet import parquet_rows
from tasks.update.policy import AbilityFile, Policy


def settled(policy: Policy) -> Policy:
    """The policy with the digest of each file, so that its verdict can be replayed; every file can be asked.

    Raises:
        ReadError, PolicyError: a file is missing, no set of questions, or not the one that the policy means.
    """
    files = tuple(one.model_copy(update={"sha256": digest(Path(one.file))}) for one in policy.ability)
    read_sets(policy.ability)
    return policy.model_copy(update={"ability": files})


def read_sets(files: Sequence[AbilityFile]) -> tuple[AbilitySet, ...]:
    """The questions of each file, by its name. Raises ReadError and PolicyError as above."""
    for one in files:
        if one.sha256 and (found := digest(Path(one.file))) != one.sha256:
            raise PolicyError(
                f"ability file '{one.file}' has sha256 {found[:12]}, the policy means {one.sha256[:12]}; "
                "put that one there, or leave the digest out"
            )
    return tuple(read_ability(parquet_rows(Path(one.file)), one.name, limit=one.questions) for one in files)


def relocated(policy: Policy, files: Sequence[Path]) -> Policy:
    """The policy with its files where they are now: of those that are given, each by its digest."""
    here = {digest(path): str(path) for path in files}
    moved = tuple(one.model_copy(update={"file": here.get(one.sha256, one.file)}) for one in policy.ability)
    return policy.model_copy(update={"ability": moved})


def digest(path: Path) -> str:
    """Raises ReadError."""
    try:
        return file_digest(path)
    except OSError as error:
        raise ReadError(f"cannot read the ability file '{path}': {error.strerror}; correct the path") from error
