"""A version that is to be carried out, by its number or by where it stands, and its model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from editing.edit import Edit
from editing.errors import UsageError
from editing.layout import layout_of
from editing.models import LoadedModel
from editing.weights import EditedWeights
from tasks.ledger.view import look
from tasks.lines.specs import LineSpec, existing_line
from tasks.review.asking import load_base
from tasks.serving.loading import check_base
from tasks.stores.batches import read_each, restore_weights
from tasks.stores.manifest import Manifest, members
from tasks.update.stages import known_edits
from tasks.workplace import Workplace

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Chosen:
    """A version of a line, as it stood when it was looked for."""

    spec: LineSpec
    number: int
    """0 is the base."""
    chain: tuple[Manifest, ...]
    """From the base up to it."""
    snapshot: str | None
    standing: str
    """In service, waiting, or neither."""

    @property
    def line(self) -> str:
        return self.spec.line

    @property
    def named(self) -> str:
        return f"version {self.number} of line '{self.line}'"


def choose(workplace: Workplace, line: str, asked: str = CHAMPION) -> Chosen:
    """The version with this number, the one in service (`champion`) or the newest that waits (`challenger`).

    Raises:
        UsageError: there is no such line or version, nothing waits, or it is neither a number nor one of these words.
    """
    spec = existing_line(workplace.store, workplace.ledger, line)
    view = look(workplace.store, workplace.ledger, line)
    serving, waiting = (view.head.version if view.head else 0), [one.number for one in view.waiting]
    if asked == CHALLENGER and not waiting:
        raise UsageError(f"nothing waits on line '{line}', so it has no challenger; give a number, or {CHAMPION}")
    if asked not in (CHAMPION, CHALLENGER) and not asked.isdecimal():
        raise UsageError(f"version '{asked}' must be a number, {CHAMPION} or {CHALLENGER}")
    number = serving if asked == CHAMPION else waiting[-1] if asked == CHALLENGER else int(asked)
    find = workplace.store.named_version if asked.isdecimal() else workplace.store.version
    snapshot = find(line, number).snapshot if number else None
    standing = (
        "in service" if number == serving else "waiting for a decision" if number in waiting else "not in service"
    )
    return Chosen(spec, number, tuple(workplace.store.chain(snapshot)), snapshot, standing)


@dataclass(frozen=True)
class Opened:
    """The model of a version, in memory once, and what the version is made of."""

    loaded: LoadedModel
    weights: EditedWeights
    stored: Sequence[tuple[Manifest, dict[str, Tensor]]]


def opened(workplace: Workplace, chosen: Chosen) -> Opened:
    """The version, every digest checked.

    Raises:
        DigestMismatch: the base, a stored file or a resulting tensor is not what was recorded.
        ModelError: the base cannot be loaded.
    """
    loaded = load_base(workplace, chosen.spec)
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    stored = list(read_each(chosen.chain, partial(workplace.store.tensors, values=False)))
    restore_weights(loaded, weights, None, stored)
    if chosen.number == 0:  # no version speaks for the base where the base itself is asked for
        check_base(loaded, workplace.store, chosen.line)
    return Opened(loaded, weights, stored)


def facts_of(workplace: Workplace, chosen: Chosen) -> dict[str, Edit]:
    """The facts that the version holds, oldest first, by their requests, as far as the ledger knows what they say."""
    return known_edits(workplace.ledger, chosen.line, list(members(chosen.chain)), chosen.spec.join)
