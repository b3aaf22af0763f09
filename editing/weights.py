"""Updates of weights: as factors, applied and taken back bit for bit, or overlaid on a model that stays untouched.

Shapes: d = key size, m = value size, r = rank of an update, W (m, d) a down projection.

The tensors of a version are a pure function of the base and the list of factors: W' = round(W + Σ_j b_j a_jᵀ), summed
in float64 in the order of the ranks and rounded once to the weight's dtype. Factors are float32, so each product is
exact in float64 and the sum is the same on every IEEE machine, with or without fused multiply-add: its digests can be
checked elsewhere, and many small updates of a bfloat16 weight lose nothing to rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from editing.digests import tensor_digest
from editing.errors import EditingError, SolveError
from editing.layout import ModelLayout
from editing.placed import put_tensor, tensor_of
from editing.progress import OnProgress, counted, unheard
from editing.rounding import rounded
from editing.shortage import LAYERS, within_memory

SUMMED_AT_ONCE = 1 << 20
"""Elements of a weight that are summed together: 8 MB of float64 stay in the processor's cache for every rank."""
FACTORS_AT_ONCE = 2**27
"""Numbers in the factors of one batch's updates, 512 MiB in float32."""


@dataclass(frozen=True)
class Factors:
    """Δ = B A of one weight: B (m, r), A (r, d), both float32 on the CPU."""

    B: Tensor
    A: Tensor


WeightUpdate = Mapping[str, Factors]
"""Factors by parameter name."""
Rounding = Callable[[Tensor, torch.dtype], Tensor]
"""How a sum in float64 becomes numbers of a weight's dtype."""


def concatenate(updates: Sequence[WeightUpdate]) -> dict[str, Factors]:
    """One update that does what `updates` do in their order."""
    names = {name: None for update in updates for name in update}
    return {
        name: Factors(
            torch.cat([update[name].B for update in updates if name in update], dim=1),
            torch.cat([update[name].A for update in updates if name in update], dim=0),
        )
        for name in names
    }


def check_finite(update: WeightUpdate) -> None:
    """Raises SolveError for an update that holds NaN or infinity."""
    for name, factors in update.items():
        if not (factors.B.isfinite().all() and factors.A.isfinite().all()):
            raise SolveError(f"the update of {name} is not finite; leave the edit out or choose another layer")


@dataclass(frozen=True)
class Undo:
    """What `EditedWeights.revert` needs: the very tensors and sums that were there before."""

    weights: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    state: int = 0
    """What `EditedWeights.state` was."""
    floor: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BaseSpectrum:
    """The leading singular directions of an original weight."""

    U_mk: Tensor
    V_dk: Tensor
    largest: float
    """The largest singular value."""


@dataclass
class EditedWeights:
    """The edited weights of one plain transformers model, the only writer of them.

    The model itself stays what transformers made; this object remembers the base tensors (by reference, no
    copy) and, for weights that were edited, the float64 sum of all updates since the base or its `floor`.
    """

    model: PreTrainedModel
    layout: ModelLayout
    base: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    floor: dict[str, Tensor] = field(default_factory=dict)
    """Finished tensors that later updates are added to, of the weights that have such."""
    spectra: dict[tuple[str, float], BaseSpectrum] = field(default_factory=dict, repr=False)
    """What editing/methods/restrain.py has computed of the base, by weight and share."""
    state: int = 0
    """Number of what stands in the weights now: 0 the base, a new one after each `apply`, that of before after a
    `revert`. What was measured in a state holds whenever the weights are in it."""
    _applied: int = field(default=0, repr=False)

    def original(self, name: str) -> Tensor:
        """The base tensor of a weight, edited or not."""
        found: Tensor = self.base[name] if name in self.base else tensor_of(self.model, name)
        return found

    @within_memory(LAYERS)
    @torch.no_grad()
    def apply(self, update: WeightUpdate, rounding: Rounding = rounded, on_progress: OnProgress = unheard) -> Undo:
        """Write W' = round(base + Σ updates) for each weight of `update`; nothing is written if one is not finite.

        `rounding` is another one only where a version of release 0.1 is to come out as it was.
        """
        check_finite(update)
        undo = self.undo_from_here(update)
        made: dict[str, tuple[Tensor, Tensor]] = {}
        tell = counted(on_progress, sum(factors.B.numel() for factors in update.values()))
        for name, factors in update.items():
            base = self.floor.get(name, self.base.get(name, undo.weights[name]))
            made[name] = self._sum(base, self.sums.get(name), factors, rounding, tell)
            if not made[name][0].isfinite().all():
                raise SolveError(f"weight {name} would not be finite in {base.dtype}; leave the edit out")
        for name, (tensor, total) in made.items():
            self.base.setdefault(name, undo.weights[name])
            self.sums[name] = total
            put_tensor(self.model, name, tensor)
        self.state = self._applied = self._applied + 1
        return undo

    @within_memory(LAYERS)
    def put(self, tensors: Mapping[str, Tensor]) -> Undo:
        """Write finished tensors, which later updates are added to; none if one does not fit. Raises EditingError."""
        undo = self.undo_from_here(tensors)
        for name, tensor in tensors.items():
            stands = undo.weights[name]
            if tensor.shape != stands.shape or tensor.dtype != stands.dtype or not tensor.isfinite().all():
                raise EditingError(f"the tensor of {name} does not fit the model or is not finite; restore its file")
        for name, tensor in tensors.items():
            self.base.setdefault(name, undo.weights[name])
            put_tensor(self.model, name, tensor.to(undo.weights[name].device))
        self.settle(tensors)
        self.state = self._applied = self._applied + 1
        return undo

    def settle(self, names: Iterable[str]) -> None:
        """Add later updates to these weights as they stand, rounded, and no longer to the base."""
        for name in names:
            self.floor[name] = tensor_of(self.model, name)
            self.sums.pop(name, None)

    def to_base(self) -> Undo:
        """Put the base back into every weight, until `revert` is given what this returns."""
        undo = self.undo_from_here(self.base)
        self.revert(Undo(self.base, {}))
        return undo

    def change(self, name: str) -> Tensor | None:
        """How far a weight is from the base, (m, d) float64; None: it stands as it is there."""
        total, floor = self.sums.get(name), self.floor.get(name)
        if floor is None:
            return total
        risen = self.layout.oriented(floor.double() - self.base[name].double())
        return risen if total is None else risen + total

    def revert(self, undo: Undo) -> None:
        """Put back the tensors that stood before `apply`: the same storage, so every bit."""
        for name, tensor in undo.weights.items():
            put_tensor(self.model, name, tensor)
        self.sums, self.state, self.floor = dict(undo.sums), undo.state, dict(undo.floor)

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """Run the model as the base: tensors are exchanged by reference and come back as they were."""
        with self.as_before(Undo(self.base, {})):
            yield

    @contextmanager
    def as_before(self, undo: Undo) -> Iterator[None]:
        """Run the model as it was before what `undo` takes back."""
        now = self.undo_from_here(undo.weights)
        self.revert(undo)
        try:
            yield
        finally:
            self.revert(now)

    def digests(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """Digest of each of these weights as it stands; none given: of those that were ever edited."""
        return {name: tensor_digest(tensor_of(self.model, name)) for name in sorted(names or self.base)}

    def undo_from_here(self, names: Iterable[str]) -> Undo:
        """What takes back all that is done to these weights, which are all that change, from now on."""
        weights = {name: tensor_of(self.model, name) for name in names}
        return Undo(weights, dict(self.sums), self.state, dict(self.floor))

    def _sum(
        self, base: Tensor, previous: Tensor | None, factors: Factors, rounding: Rounding, tell: Callable[[int], None]
    ) -> tuple[Tensor, Tensor]:
        base_md = self.layout.oriented(base)
        B, A = factors.B.to(base.device, torch.float64), factors.A.to(base.device, torch.float64)
        total = torch.zeros(base_md.shape, dtype=torch.float64, device=base.device)
        total = total if previous is None else total.copy_(previous)
        written = torch.empty_like(base)
        rows_at_once = max(1, SUMMED_AT_ONCE // total.shape[1])
        for start in range(0, total.shape[0], rows_at_once):
            rows = slice(start, start + rows_at_once)
            block = total[rows]
            for b, a in zip(B[rows].unbind(1), A.unbind(0), strict=True):
                block.addr_(b, a)
            self.layout.oriented(written)[rows] = rounding(base_md[rows].double() + block, base.dtype)
            tell(B[rows].numel())
        return written, total


@contextmanager
def overlay(
    model: PreTrainedModel, layout: ModelLayout, update: WeightUpdate | Sequence[WeightUpdate]
) -> Iterator[None]:
    """Run the model as if edited, its tensors untouched.

    With one update every row of a batch sees it. With a sequence, row i of every batch sees update i alone, so that
    independent edits are evaluated together. A weight's output gains (x Aᵀ) Bᵀ, computed in float32;
    gradients reach the factors.

    Raises:
        EditingError: inside, a batch that has not one row for each update.
    """
    runs = _runs(update)
    names = dict.fromkeys(name for _, one in runs for name in one)
    handles = []
    try:
        for name in names:
            module = model.get_submodule(name.removesuffix(".weight"))
            device = tensor_of(model, name).device
            changes = [(rows, one[name].A.to(device), one[name].B.to(device)) for rows, one in runs if name in one]
            count = None if isinstance(update, Mapping) else len(update)
            handles.append(module.register_forward_hook(_low_rank_hook(changes, count)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def one_each(updates: Sequence[WeightUpdate | None] | None, count: int, what: str) -> list[WeightUpdate]:
    """The update of each of `count` things; None and no updates at all are the empty update, one object for all.

    Raises:
        EditingError: there are more or fewer updates than things.
    """
    if updates is not None and len(updates) != count:
        raise EditingError(f"{count} {what}s have {len(updates)} updates; give one for each {what}, None for no update")
    nothing: WeightUpdate = {}
    return [nothing if update is None else update for update in updates or [None] * count]


def parts_in_memory(updates: Sequence[WeightUpdate]) -> Iterator[slice]:
    """The rows of a batch in parts whose factors hold at most FACTORS_AT_ONCE numbers, or that are single rows."""
    start, held = 0, 0
    for row, update in enumerate(updates):
        size = sum(factors.A.numel() + factors.B.numel() for factors in update.values())
        if row > start and held + size > FACTORS_AT_ONCE:
            yield slice(start, row)
            start, held = row, 0
        held += size
    if updates:
        yield slice(start, len(updates))


def _runs(update: WeightUpdate | Sequence[WeightUpdate]) -> list[tuple[slice, WeightUpdate]]:
    """Neighboring rows with the same update, and that update."""
    if isinstance(update, Mapping):
        return [(slice(None), update)]
    starts = [i for i, one in enumerate(update) if i == 0 or one is not update[i - 1]]
    return [(slice(start, stop), update[start]) for start, stop in pairwise([*starts, len(update)])]


def _low_rank_hook(changes: Sequence[tuple[slice, Tensor, Tensor]], count: int | None):  # type: ignore[no-untyped-def]  # the hook's type is torch's own
    # Run by run instead of with all factors stacked: nothing is copied, and no rank is padded to the largest.
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, changed = args[0], output.clone()
        whole = changed
        if count is not None and x.dim() == 2 and len(x) % count == 0:  # OPT lays the tokens of all rows in one
            x, whole = x.view(count, -1, x.shape[-1]), changed.view(count, -1, changed.shape[-1])
        if count is not None and len(x) != count:
            raise EditingError(f"a batch of {len(x)} rows has {count} updates; give one for each row")
        for rows, A_rd, B_mr in changes:
            # As linear layers, which run by the faster library inside `fast_linear`.
            A_rd, B_mr = A_rd.to(x.device).contiguous(), B_mr.to(x.device).contiguous()
            change = nn.functional.linear(nn.functional.linear(x[rows].float(), A_rd), B_mr)
            whole[rows] += change.to(output.dtype)
        return changed

    return hook
