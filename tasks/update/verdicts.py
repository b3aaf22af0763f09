"""What a validation comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from editing.edit import Edit
from editing.measure.metrics import EditScores, right_answer
from editing.measure.said import Said
from tasks.report.data import Check, reasons_of


class NeighborLost(NamedTuple):
    """A neighbor whose answer is another than the base's, as far as the right answer is long."""

    prompt: str
    before: str
    now: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of one validation."""

    metrics: dict[str, float]
    request_metrics: dict[str, dict[str, float]]
    checks: tuple[Check, ...]
    failing: tuple[str, ...] = ()
    """Ids of edits that did not take or cost their neighborhood: suspects by their own numbers."""
    scores: Sequence[EditScores] = field(default=(), repr=False)
    said: Mapping[str, Said] = field(default_factory=dict, repr=False)
    """What was said about each edit that was asked, by its id."""
    base_said: Mapping[str, Said] = field(default_factory=dict, repr=False)
    """What the base says about them; of a candidate as a whole."""

    neighbors_lost: Mapping[str, Sequence[NeighborLost]] = field(default_factory=dict, repr=False)
    """By the edit's id."""
    live: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Whether each earlier fact that was asked again holds, by its id, oldest first."""
    fallen: frozenset[str] = frozenset()
    """Those that did not hold before the batch was written: it answers for none of them."""
    fewer_bits: Mapping[str, float] = field(default_factory=dict)
    """The metrics of a copy with fewer bits, where one was asked."""

    @property
    def passed(self) -> bool:
        """What was never judged does not pass."""
        return bool(self.checks) and not any(check.fails for check in self.checks)

    @property
    def stops(self) -> bool:
        """Whether the job is to end here by its policy."""
        return any(check.fails and check.then == "stop" for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it fails, one sentence a row; empty when it passes."""
        return reasons_of(self.checks)


@dataclass(frozen=True)
class CandidateVerdict:
    """The verdict on all facts that wait together, and the numbers that stand beside it."""

    verdict: Verdict
    numbers: dict[str, float]
    baseline: dict[str, float]
    """The base's numbers, on the same questions."""


def neighbors_lost(
    edit: Edit, now: EditScores, before: EditScores, tokenizer: PreTrainedTokenizerBase
) -> list[NeighborLost]:
    """The neighbors whose answer, or what the base says where none is known, is gone."""
    asked = zip(edit.neighborhood, now.neighborhood_tokens, before.neighborhood_tokens, strict=False)
    changed = [(probe, then, is_now) for probe, is_now, then in asked if is_now != then]
    lost = []
    for probe, then, is_now in changed:
        said, right = tokenizer.decode(then).strip(), right_answer(edit, probe)
        if right in (None, said):
            lost.append(NeighborLost(probe.prompt, said, tokenizer.decode(is_now).strip()))
    return lost
