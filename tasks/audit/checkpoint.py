"""What a checkpoint holds of a line: which of its facts stand in it, and whether anything else was changed.

Nothing is asked of the model. ΔW is the checkpoint less the base. A fact stands where ΔW answers the fact's stored key
as the version that holds the fact does: share = Σ ⟨ΔW k, Δ k⟩ / Σ |Δ k|² over the edited layers, 1 for that version
itself and 0 for the base. What else there is shows in weights that the line does not edit, and in directions of ΔW that
no version of the line has: the part of its rows outside the span of all rows that the line ever wrote.

Shapes: n facts, d key size, m value size, r rank; ΔW, Δ (m, d); K (n, d).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from editing.digests import tensor_digest
from editing.edit import shown
from editing.errors import UsageError
from editing.layout import layout_of
from editing.models import LoadedModel, load_model
from editing.progress import OnProgress
from editing.weights import EditedWeights
from tasks.ledger.view import LineView, chain, look
from tasks.lines.stored import check_known, stored_line
from tasks.progress import progress, stage
from tasks.serving.loading import check_base
from tasks.stores.batches import restore_weights, unpack
from tasks.stores.errors import Forgotten
from tasks.stores.manifest import Manifest, members
from tasks.text import Text
from tasks.workplace import Workplace

STANDS, PARTLY = 0.75, 0.25
"""Shares from which a fact stands, and from which a part of it does."""
_LEAST_OUTSIDE = 1e-3
"""Of ΔW, beyond what rounding does: less is the arithmetic of this look itself."""
_RANK_TOLERANCE = 1e-6


class FactFound(BaseModel):
    """A fact of the line in the checkpoint."""

    model_config = ConfigDict(frozen=True)

    request_id: Text
    version: int
    """The newest that holds it, which it was held against."""
    share: float | None
    """None: its version has no keys to tell by."""

    @property
    def what(self) -> Literal["stands", "partly", "absent", "not told"]:
        if self.share is None:
            return "not told"
        return "stands" if self.share >= STANDS else "partly" if self.share >= PARTLY else "absent"


class CheckpointFound(BaseModel):
    """What a checkpoint holds of a line."""

    model_config = ConfigDict(frozen=True)

    line: str
    checkpoint: Text
    version: int | None
    """The version that it is, bit for bit; 0 the base, None: none."""
    facts: tuple[FactFound, ...]
    changed: dict[str, float]
    """How far each weight that the line edits is from the base, against the weight."""
    others: dict[str, float]
    """The same of weights that the line does not edit."""
    outside: float
    """The share of ΔW in directions that no version of the line has."""
    notes: tuple[Text, ...]

    @property
    def holds_else(self) -> bool:
        """Whether something was changed that is none of the line's."""
        return bool(self.others) or self.outside > _LEAST_OUTSIDE

    @property
    def in_short(self) -> str:
        counted = {what: sum(fact.what == what for fact in self.facts) for what in ("stands", "partly", "absent")}
        facts = f"{counted['stands']} facts stand, {counted['partly']} partly, {counted['absent']} do not"
        of = (
            ""
            if self.version is None
            else "the base, bit for bit: "
            if not self.version
            else (f"version {self.version}, bit for bit: ")
        )
        rest = (
            f"{len(self.others)} other weights differ, {self.outside:.1%} of the change is in directions of no version"
        )
        return f"{of}{facts}; {rest if self.holds_else else 'nothing else'}"


def audit_checkpoint(workplace: Workplace, line: str, folder: Path) -> CheckpointFound:
    """Look at a checkpoint in a folder; nothing is changed.

    Raises:
        UsageError: there is no such line, it has no version, or the folder is no checkpoint of its base.
        DigestMismatch: the base here is another one than its versions were made on.
    """
    view, spec = look(workplace.store, workplace.ledger, line), stored_line(workplace.store.store, line)
    check_known(workplace.store, workplace.ledger, line)
    if spec is None or not view.versions:
        raise UsageError(f"line '{line}' has no version to look for but the base; run `errata run {line}` first")
    settings = workplace.settings
    with stage("loading the base and the checkpoint"):
        base = load_model(
            spec.model, dtype=spec.dtype, cache=settings.cache_folder, on_progress=partial(progress, "model")
        )
        check_base(base, workplace.store, line)
        found = load_model(
            str(folder), dtype=spec.dtype, cache=settings.cache_folder, on_progress=partial(progress, "checkpoint")
        )
        changes = _changes(base, found, folder)
    exactly = _exactly(view, base, found, changes)
    weights = EditedWeights(base.model, layout_of(base.model))
    edited = {name for version in view.versions.values() for name in version.manifest.tensor_digests}
    deltas = {name: weights.layout.oriented(delta) for name, delta in changes.items() if name in edited}
    reading = _Reading(workplace, view, weights, base, deltas)
    with stage("asking the change for each fact") as tell:
        facts = tuple(reading.facts(tell))
    norms = {name: float(weights.original(name).double().norm()) for name in changes}
    return CheckpointFound(
        line=line,
        checkpoint=str(folder),
        version=exactly,
        facts=facts,
        changed={name: float(deltas[name].norm()) / norms[name] for name in sorted(deltas)},
        others={name: float(changes[name].norm()) / norms[name] for name in sorted(changes.keys() - edited)},
        outside=reading.outside(),
        notes=tuple(reading.notes),
    )


def _changes(base: LoadedModel, found: LoadedModel, folder: Path) -> dict[str, Tensor]:
    """Checkpoint less base, float64, of each parameter that differs by more than rounding does."""
    ours, theirs = dict(base.model.named_parameters()), dict(found.model.named_parameters())
    if {name: one.shape for name, one in ours.items()} != {name: one.shape for name, one in theirs.items()}:
        raise UsageError(f"{shown(str(folder))} is no checkpoint of '{base.reference}': its weights have other shapes")
    differences = ((name, one.data, theirs[name].data.double() - one.data.double()) for name, one in ours.items())
    return {name: delta for name, one, delta in differences if float(delta.norm()) > _rounding(one, delta)}


def _exactly(view: LineView, base: LoadedModel, found: LoadedModel, changes: Mapping[str, Tensor]) -> int | None:
    """The version whose recorded weights these are."""
    if not changes:
        return 0 if found.digest == base.digest else None
    parameters = dict(found.model.named_parameters())
    digests: dict[str, str] = {}
    for version in [*view.versions.values()][::-1]:
        recorded = version.manifest.tensor_digests
        if changes.keys() <= recorded.keys() <= parameters.keys():
            for name in recorded.keys() - digests.keys():
                digests[name] = tensor_digest(parameters[name])
            if all(digests[name] == digest for name, digest in recorded.items()):
                return version.number
    return None


class _Reading:
    """The line's versions, one after the other in the weights of its base."""

    def __init__(
        self, workplace: Workplace, view: LineView, weights: EditedWeights, base: LoadedModel, deltas: dict[str, Tensor]
    ) -> None:
        self.store, self.view, self.weights, self.base, self.deltas = workplace.store, view, weights, base, deltas
        self.rows: dict[str, list[Tensor]] = {name: [] for name in deltas}
        """Directions that the line ever wrote, (r, d) of each weight."""
        self.notes: list[str] = []

    def facts(self, tell: OnProgress) -> Iterator[FactFound]:
        """Each fact of the line, by the newest version that holds it; `tell` hears how many versions were read."""
        told: set[str] = set()
        for done, version in enumerate([*self.view.versions.values()][::-1]):
            tell(done, len(self.view.versions))
            manifests = chain(self.view, version.snapshot)
            fresh = {name: number for name, number in members(manifests).items() if name not in told}
            if not fresh:
                continue
            told |= fresh.keys()
            try:
                tensors = [self.store.tensors(manifest) for manifest in manifests]
            except Forgotten as error:
                self.notes.append(str(error))
                continue
            self.weights.to_base()
            restore_weights(self.base, self.weights, None, zip(manifests, tensors, strict=True))
            self._remember(tensors)
            keys = _keys(manifests, tensors)
            for name in fresh:
                share = self._share(keys[name]) if name in keys else None
                yield FactFound(request_id=name, version=version.number, share=share)

    def outside(self) -> float:
        """The share of ΔW in directions that no version has, beyond what rounding does."""
        total, beyond = 0.0, 0.0
        for name, delta in self.deltas.items():
            rows = (
                torch.cat(self.rows[name]) if self.rows[name] else torch.zeros(0, delta.shape[1], dtype=torch.float64)
            )
            left = delta - delta @ _projector(rows)
            noise = _rounding(self.weights.layout.oriented(self.weights.original(name)), delta)
            total += float(delta.norm()) ** 2
            beyond += max(float(left.norm()) - noise, 0.0) ** 2
        return (beyond / total) ** 0.5 if total else 0.0

    def _share(self, keys: Mapping[int, Tensor]) -> float:
        """How much of what its version answers to a fact's key ΔW does; keys (d,) by layer."""
        agreed, wanted = 0.0, 0.0
        for layer, key in keys.items():
            name = self.weights.layout.weight_name(layer)
            change = self.weights.change(name)
            if change is None:
                continue
            answer = change @ key.double()
            wanted += float(answer @ answer)
            if name in self.deltas:
                agreed += float((self.deltas[name] @ key.double()) @ answer)
        return agreed / wanted if wanted else 0.0

    def _remember(self, tensors: Sequence[Mapping[str, Tensor]]) -> None:
        for name, rows in self.rows.items():
            rows += [some[f"A/{name}"].double() for some in tensors if f"A/{name}" in some]
            if any(f"T/{name}" in some for some in tensors) and (change := self.weights.change(name)) is not None:
                rows.append(torch.linalg.svd(change, full_matrices=False)[2][: _rank(change)])


def _keys(manifests: Sequence[Manifest], tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, dict[int, Tensor]]:
    """The bare key (d,) of each fact by layer, from the version that wrote it last.

    A version remembers a key for each group of facts that share one, in the order of their first members, then those of
    conversations.
    """
    found: dict[str, dict[int, Tensor]] = {}
    for manifest, some in zip(manifests, tensors, strict=True):
        names = manifest.live if manifest.live is not None else manifest.request_ids
        known_by = manifest.values or names
        groups = {digest: number for number, digest in enumerate(dict.fromkeys(known_by))}
        layers = unpack(some).keys
        if len(known_by) != len(names) or not all(len(keys) >= len(groups) for keys in layers.values()):
            continue
        for name, digest in zip(names, known_by, strict=True):
            if layers:
                found[name] = {layer: keys[groups[digest]] for layer, keys in layers.items()}
    return found


def _rounding(base: Tensor, delta: Tensor) -> float:
    """The most that rounding does to a weight, as a norm: by the precision in which the checkpoint was written."""
    stored = base.double() + delta
    kinds = (torch.bfloat16, torch.float16, base.dtype)
    written = next((kind for kind in kinds if torch.equal(stored.to(kind).double(), stored)), base.dtype)
    return 0.5 * torch.finfo(written).eps * float(stored.norm())


def _rank(change: Tensor) -> int:
    values = torch.linalg.svdvals(change)
    return int((values > _RANK_TOLERANCE * values[0]).sum()) if len(values) and values[0] > 0 else 0


def _projector(rows: Tensor) -> Tensor:
    """Onto the span of rows (r, d), as (d, d)."""
    if not len(rows):
        return torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    kept: Tensor = directions[values > _RANK_TOLERANCE * values[0]]
    return kept.T @ kept
