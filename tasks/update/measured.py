"""What the judge looks at: metrics, answers lost, what was said, and questions asked before and after."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import NamedTuple

from editing.edit import Edit
from editing.measure.asking import Found
from editing.measure.metrics import EditScores, right_answer
from editing.measure.perplexity import Perplexity
from editing.measure.said import Said

ROUNDING = 1e-9
"""0.29 of 100 answers are 29, though 0.29 * 100 is less."""


@dataclass(frozen=True)
class Lost:
    """Neighborhood answers lost against the base, and how many probes could lose one.

    Preferring its own answer to the new target says nothing of a neighbor that now gives the target of another request;
    what the base said and the model no longer says does. Of a neighbor without a known answer only that can be asked.
    The first two counts are net: an answer gained makes up for one lost.
    """

    unpreferred: int = 0
    probes: int = 0
    unsaid: int = 0
    answers: int = 0
    changed: int = 0
    unanswered: int = 0

    def __add__(self, other: "Lost") -> "Lost":
        return Lost(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def since(self, other: "Lost") -> "Lost":
        """What of it was lost since a later moment than it counts from: no more of anything than `other` did."""
        least = {name: min(getattr(self, name), getattr(other, name)) for name in ("unpreferred", "unsaid", "changed")}
        return replace(self, **least)

    def counts(self) -> Iterator[tuple[str, int, int, str]]:
        """(measure, lost, asked, what happened to them)."""
        yield "neighbors_preferred", self.unpreferred, self.probes, "neighborhood answers no longer preferred"
        yield "neighbors_said", self.unsaid, self.answers, "neighborhood answers no longer said"
        yield "neighbors_changed", self.changed, self.unanswered, "neighbors without an answer no longer say the base's"

    def exceeds(self, most: float) -> bool:
        """More is lost than the share `most`, by any of the counts."""
        return any(lost > allowed_losses(most, asked) for _, lost, asked, _ in self.counts())


def allowed_losses(most: float, asked: int) -> int:
    """How many of `asked` answers may be lost at a share of `most`; one lost answer always passes."""
    return max(1, math.floor(most * asked + ROUNDING))


class Fresh(NamedTuple):
    """The numbers of those neighbors of an edit that no edit before it asks, too."""

    against: Collection[int]
    """Not with the same new answer, to which its own is preferred or not."""
    at_all: Collection[int]


def first_asked(edits: Sequence[Edit], most: int) -> dict[str, Fresh]:
    """By edit, of its first `most` neighbors those that count where all edits are counted together: each one once."""
    seen: set[tuple[str | None, ...]] = set()

    def fresh(keys: Sequence[tuple[str | None, ...]]) -> frozenset[int]:
        first = {key: number for number, key in reversed([*enumerate(keys)]) if key not in seen}
        seen.update(first)
        return frozenset(first.values())

    found = {}
    for edit in edits:
        keys = [(probe.prompt, right_answer(edit, probe)) for probe in edit.neighborhood[:most]]
        found[edit.id] = Fresh(fresh([(*key, edit.target_new) for key in keys]), fresh(keys))
    return found


def lost_at(now: EditScores, before: EditScores, fresh: Fresh | None = None) -> Lost:
    """What the neighborhood of one edit lost; where it is given, of the `fresh` neighbors alone."""
    against, at_all = fresh or (None, None)
    tokens, base_tokens = now.neighborhood_tokens, before.neighborhood_tokens
    unanswered = [i for i, said in enumerate(now.neighborhood_said) if said is None and i < len(base_tokens)]
    unanswered = [i for i in unanswered if at_all is None or i in at_all]
    return Lost(
        *_fall(before.neighborhood_preferred, now.neighborhood_preferred, against),
        *_fall(before.neighborhood_said, now.neighborhood_said, at_all),
        sum(tokens[i] != base_tokens[i] for i in unanswered),
        len(unanswered),
    )


def lost_of(
    now: Sequence[EditScores], before: Mapping[str, EditScores], fresh: Mapping[str, Fresh]
) -> tuple[dict[str, Lost], dict[str, Lost]]:
    """What the neighborhood of each edit lost, and the same of its fresh neighbors alone."""
    each = {one.edit_id: lost_at(one, before[one.edit_id]) for one in now}
    return each, {one.edit_id: lost_at(one, before[one.edit_id], fresh[one.edit_id]) for one in now}


def _fall(
    before: Sequence[float | None], now: Sequence[float | None], numbers: Collection[int] | None
) -> tuple[int, int]:
    """How many of the neighbors with these numbers were right and are not, net; of how many."""
    both = [
        (then, still)
        for number, (then, still) in enumerate(zip(before, now, strict=False))
        if then is not None and still is not None and (numbers is None or number in numbers)
    ]
    return round(sum(then - still for then, still in both)), len(both)


@dataclass(frozen=True)
class Paired:
    """The same questions, or blocks of text, now and before, in one order.

    Of questions 1 is right and 0 is wrong (of `old_chat` 1 is there); of perplexity a value is a block's mean negative
    log-probability, of kl a place's divergence.
    """

    now: Sequence[float]
    base: Sequence[float] | None = None
    champion: Sequence[float] | None = None
    of: Sequence[str] = ()
    """The request of each question, where one may have several: what one request does to them is one piece of news."""


@dataclass(frozen=True)
class Served:
    """What the version in service came to, on the candidate's questions."""

    scores: Mapping[str, EditScores] = field(default_factory=dict)
    """By the edits' ids."""
    blocks: Sequence[float] = ()
    """Of the text that perplexity is taken on; this and what follows empty where no level asks for it."""
    texts: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """What it says, by the text that it goes on from and the tokens that are wanted."""
    ability: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Of each set of questions 1 for each that is answered rightly."""
    probes: Mapping[str, Found] = field(default_factory=dict)
    """By the edits' ids."""


@dataclass(frozen=True)
class Measured:
    """All that the judge looks at."""

    metrics: Mapping[str, float]
    lost: Mapping[str, Lost]
    """By the edits' ids."""
    samples: Mapping[str, int]
    """How many were asked, by measure; a measure that is not here counts nothing."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Efficacy, by request, of earlier facts whose key is that of one that was written now, or nearly."""
    said: Mapping[str, Said] = field(default_factory=dict)
    """By the edits' ids; none: nobody asked."""
    base_said: Mapping[str, Said] = field(default_factory=dict)
    """The same of the base, where it was asked."""
    lost_to_champion: Mapping[str, Lost] = field(default_factory=dict)
    """As `lost_once`, against the version in service."""
    champion_said: Mapping[str, Said] | None = None
    """As `said`, of the version in service; None where there is none, or no level compares with what it says."""
    paired: Mapping[str, Paired] = field(default_factory=dict)
    """By measure: `perplexity`, `kl`, `retained`, `said_chat` …; of several kinds by `ability.NAME`, `probes.NAME`."""
    once: Mapping[str, Lost] = field(default_factory=dict)
    """As `lost`, of the neighbors that each request is the first to ask; empty: it is `lost` itself."""

    @property
    def lost_once(self) -> Mapping[str, Lost]:
        """What counts where requests are counted together."""
        return self.once or self.lost


def judged_ways(said: Mapping[str, Said], *, in_chat: bool) -> dict[str, Said]:
    """What was said, as far as a line answers for it: in the chat only where it writes for the chat."""
    return {name: one if in_chat else replace(one, chat=None) for name, one in said.items()}


def blocks_of(perplexity: float | None) -> tuple[float, ...]:
    """What a perplexity is the mean of, block by block; empty where that is not known."""
    return perplexity.blocks if isinstance(perplexity, Perplexity) else ()


def paired_text(metrics: Mapping[str, float], base: float, served: Served | None) -> dict[str, Paired]:
    """The blocks of the text that perplexity is taken on, now and before, as far as all of them are known."""
    now, then = blocks_of(metrics.get("perplexity")), blocks_of(base)
    if not now or len(now) != len(then):
        return {}
    champion = served.blocks if served and len(served.blocks) == len(now) else None
    return {"perplexity": Paired(now, then, champion)}


def questions_of(lost: Mapping[str, Lost]) -> dict[str, Paired]:
    """The neighbors as questions now and before, by count.

    Of each request the net loss is known: so many were right before and are not now, or the other way round.
    """
    found: dict[str, Paired] = {}
    for number, (measure, *_) in enumerate(Lost().counts()):
        now: list[float] = []
        then: list[float] = []
        of: list[str] = []
        for name, here in lost.items():
            _, down, asked, _ = list(here.counts())[number]
            fell, rose = max(down, 0), max(-down, 0)
            now += [0.0] * fell + [1.0] * (asked - fell)
            then += [0.0] * rose + [1.0] * (asked - rose)
            of += [name] * asked
        found[measure] = Paired(now, then, of=of)
    return found
