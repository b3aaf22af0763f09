"""z* of facts: found once, kept with the versions and in the cache; and how much of them stands in the weights.

What a line has stored is the record: a search is not bit for bit a function of what it searches for. It is known by
what the facts of its key say (`editing.groups.content_digest`), so a group that lost or gained a member has none yet.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.config import LocatingConfig
from editing.edit import Edit
from editing.groups import canonical_order, content_digest
from editing.methods.standing import missing_shares, subject_states
from editing.progress import OnProgress
from editing.shortage import BATCH, within_memory
from tasks.meter import Meter
from tasks.stores.manifest import Manifest
from tasks.update import kept
from tasks.update.searched import about_value, search_chunk
from tasks.update.writing import told

if TYPE_CHECKING:
    from tasks.update.session import Session

FELL = 0.1
"""How much more of a fact's correction is missing than when it was written, for it to be asked in text first."""
QUANTILES, WORST = (0.5, 0.9, 0.99, 1.0), 10


@dataclass(frozen=True)
class Target:
    """Where a fact's hidden state is to be, where it was on the base, and what was missing once it was written."""

    z_star: Tensor
    z_base: Tensor | None = None
    missing: float | None = None


def nowhere(chunk: "Sequence[Wanted]", tell: OnProgress) -> Tensor | None:
    """Nobody else searches values."""
    return None


@dataclass(frozen=True)
class Wanted:
    """The value of facts that share a key."""

    edits: tuple[Edit, ...]
    members: tuple[int, ...]
    """Their numbers among those that were asked about."""
    stored: Tensor | None
    """None: the line has none of them yet."""

    def about(self, session: "Session", config: LocatingConfig) -> list[object]:
        """What it is a function of."""
        return about_value(session.method_input, session.loaded.digest, config, self.edits)


@dataclass
class Values:
    """What a session knows of the values of facts, beside the cache."""

    stored: Callable[[str], Tensor | None] = lambda digest: None
    """The record: z* by what it is known by, as far as the line has stored it."""
    elsewhere: Callable[[Sequence[Wanted], OnProgress], Tensor | None] = nowhere
    """The values of a chunk as other processes search them, (n, m); None: this one is to search them."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Of the facts in the weights, by what they are known by; of versions that do not say that, by request."""

    def restore(self, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
        """Take note of what a version holds."""
        if manifest.live is not None:
            self.targets = {}
        z_star, z_base, missing = (tensors.get(name) for name in ("z_star", "z_base", "missing"))
        if z_star is None or not z_star.shape[-1]:
            return
        for row, name in enumerate(manifest.values or manifest.live or manifest.request_ids):
            if row < len(z_star):
                base = None if z_base is None else z_base[row]
                self.targets[name] = Target(z_star[row], base, None if missing is None else float(missing[row]))


def find_values(session: "Session", edits: Sequence[Edit], live: Sequence[Edit]) -> Tensor:
    """z* of each edit (n, m) float32: the line's own, else from the cache, else searched on the base.

    Edits that share a key have one value, which is searched for all of them and those of `live` that share it, too:
    again when one comes or goes.
    """
    config = session.config
    if not isinstance(config, LocatingConfig):
        return session.search(edits)
    if not edits:
        return torch.zeros(0, session.loaded.model.config.get_text_config().hidden_size)
    steps = config.search.steps
    wanted = _wanted(session, edits, live)
    lacking = [one for one in wanted if one.stored is None]

    def make(missing: list[int]) -> Iterator[Tensor]:
        with Meter("values", len(missing) * steps) as meter:
            for chunk in chunked(config, [lacking[number] for number in missing]):
                tell = meter.part(len(chunk) * steps)
                found = session.values_known.elsewhere(chunk, tell)
                if found is None:
                    found = search_chunk(session.search, [one.edits for one in chunk], tell)
                yield from found

    abouts = [one.about(session, config) for one in lacking]
    made = iter(session.cache.get_all("values", abouts, make, kept.value_bytes, kept.read_value))
    of = {
        member: value
        for one in wanted
        for value in [next(made) if one.stored is None else one.stored]
        for member in one.members
    }
    return torch.stack([of[len(live) + number] for number in range(len(edits))])


def missing_values(session: "Session", edits: Sequence[Edit], live: Sequence[Edit]) -> list[Wanted]:
    """The values that `find_values` of the same would search now."""
    config = session.config
    if not isinstance(config, LocatingConfig) or not edits:
        return []
    lacking = [one for one in _wanted(session, edits, live) if one.stored is None]
    return [one for one in lacking if session.cache.read("values", one.about(session, config), kept.read_value) is None]


def chunked(config: LocatingConfig, missing: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """In the chunks in which they are searched."""
    for start in range(0, len(missing), config.search.edits_at_once):
        yield list(missing[start : start + config.search.edits_at_once])


def _in_order(known: Sequence[Edit], group: Sequence[int]) -> tuple[int, ...]:
    return tuple(group[place] for place in canonical_order([known[member] for member in group]))


def _wanted(session: "Session", edits: Sequence[Edit], live: Sequence[Edit]) -> list[Wanted]:
    """The values of these edits, each of a group of `live` and them that shares a key, in one order whoever came first.

    The last bits of a value depend on the order in which its facts are searched.
    """
    known = [*live, *edits]
    groups = [_in_order(known, group) for group in session.keys.groups(known) if group[-1] >= len(live)]
    members = [tuple(known[member] for member in group) for group in groups]
    stored = [session.values_known.stored(content_digest(some)) for some in members]
    return [Wanted(*one) for one in zip(members, groups, stored, strict=True)]


def known_by(session: "Session", edits: Sequence[Edit], live: Sequence[Edit] = ()) -> list[str]:
    """What the value of each edit is known by; empty for a method that has none."""
    if not isinstance(session.config, LocatingConfig):
        return []
    known = [*live, *edits]
    of = {
        member: content_digest([known[one] for one in group])
        for group in session.keys.groups(known)
        for member in group
    }
    return [of[len(live) + number] for number in range(len(edits))]


@within_memory(BATCH)
def base_states(session: "Session", edits: Sequence[Edit]) -> Tensor:
    """Where the hidden states of the facts are on the base, (n, m)."""
    with session.weights.at_base():
        return _states(session, edits, "where facts are on the base")


def _states(session: "Session", edits: Sequence[Edit], what: str) -> Tensor:
    with told(session.method_input, edits, what) as given:
        return subject_states(given, session.keys, edits)


@dataclass(frozen=True)
class Standing:
    """How much of a fact's correction is missing now, and how much was when it was written, where that is known."""

    missing: float
    written: float | None

    @property
    def fell(self) -> float:
        """How much more is missing than when it was written."""
        return self.missing - (self.missing if self.written is None else self.written)


def standing_of(session: "Session", edits: Sequence[Edit]) -> dict[str, Standing]:
    """Of the facts of `edits`, all in the weights, oldest first, how much is missing, by request.

    Facts without a value, or of which nobody knows any more what they say, are left out.
    """
    if not isinstance(session.config, LocatingConfig):
        return {}
    targets = session.values_known.targets
    found: list[tuple[Edit, str, Target]] = []
    for group in session.keys.groups(edits):
        members = [edits[number] for number in group]
        name = content_digest(members)
        name = name if name in targets else members[-1].id
        found += [(edit, name, targets[name]) for edit in members if name in targets]
    if lacking := list({name: edit for edit, name, target in found if target.z_base is None}.items()):
        at_base = base_states(session, [edit for _, edit in lacking])
        for (name, _), z_base in zip(lacking, at_base, strict=True):
            targets[name] = Target(targets[name].z_star, z_base, targets[name].missing)
    if not found:
        return {}
    now = _states(session, [edit for edit, _, _ in found], "how facts stand")
    z_star, z_base = (torch.stack([getattr(targets[name], of) for _, name, _ in found]) for of in ("z_star", "z_base"))
    missing = missing_shares(z_star, z_base, now).tolist()
    rows = zip(found, missing, strict=True)
    return {edit.id: Standing(share, target.missing) for (edit, _, target), share in rows}


def standing_after(
    session: "Session",
    names: Sequence[str],
    values: tuple[Tensor, Tensor],
    edits: Sequence[Edit],
    earlier: Sequence[Edit] = (),
) -> dict[str, Standing]:
    """The same once `edits` were written, after the `earlier` ones, their values known by `names`.

    `values` are their z* and where they are on the base. What is missing of them now is what later standings tell of.
    """
    targets = session.values_known.targets
    targets |= {name: Target(*rows) for name, *rows in zip(names, *values, strict=True)}
    found = standing_of(session, [*earlier, *edits])
    for name, edit in zip(names, edits, strict=True):
        if edit.id in found:
            targets[name] = replace(targets[name], missing=found[edit.id].missing)
    return {name: replace(one, written=one.missing) if one.written is None else one for name, one in found.items()}


def told_standing(found: Mapping[str, Standing]) -> dict[str, Any]:
    """What a version and a report keep of it: the middle, the tail, and the worst by name."""
    if not found:
        return {}
    missing = torch.tensor([one.missing for one in found.values()], dtype=torch.float64)
    quantiles = {f"{q:g}": round(float(missing.quantile(q)), 4) for q in QUANTILES}
    worst = sorted(found.items(), key=lambda one: (-one[1].missing, one[0]))[:WORST]
    fell = sum(one.fell >= FELL for one in found.values())
    named = [
        {"request": name, "missing": round(one.missing, 4)}
        | ({} if one.written is None else {"written": round(one.written, 4)})
        for name, one in worst
    ]
    return {"facts": len(found), "quantiles": quantiles, "fell": fell, "worst": named}


def asked_first(edits: Sequence[Edit], found: Mapping[str, Standing], most: int) -> list[Edit]:
    """At most so many of the facts whose correction stands less than when they were written, the worst first."""
    fallen = [edit for edit in edits if edit.id in found and found[edit.id].fell >= FELL]
    return sorted(fallen, key=lambda edit: -found[edit.id].fell)[:most]


def old_values(session: "Session", manifests: Sequence[Manifest], known: Mapping[str, Edit]) -> dict[str, Tensor]:
    """z* of versions that do not say what they are known by, by that: of earlier releases, in the session now.

    A fact whose group lacks a member that the ledger does not know is left out.
    """
    found: dict[str, Tensor] = {}
    live: list[str] = []
    for manifest in manifests:
        live = list(manifest.live) if manifest.live is not None else [*live, *manifest.facts, *manifest.restored]
        if manifest.values or not isinstance(session.config, LocatingConfig):
            continue
        edits = [known[name] for name in live if name in known]
        for group in session.keys.groups(edits):
            members = [edits[number] for number in group]
            target = session.values_known.targets.get(members[-1].id)
            if target is not None and members[-1].id in manifest.request_ids:
                found[content_digest(members)] = target.z_star
    return found
