"""The value search: which hidden state at the subject's last token makes the model say the target.

Meng et al., "Mass-Editing Memory in a Transformer" (MEMIT), ICLR 2023, https://arxiv.org/abs/2210.07229, eq. 16;
Meng et al., "Locating and Editing Factual Associations in GPT" (ROME), NeurIPS 2022, eq. 4.

    z* = z + δ,   δ = argmin  mean_c −log p(target | context_c ⊕ prompt)  +  w_kl KL(p_δ ‖ p)  +  w_d |δ| / |z|²

Edits that share a key (editing/groups.py) share one δ, whose loss is the mean over them.

All edits and contexts are rows of one batch, in groups of like length; what does not depend on δ runs once
(editing/search/tail.py), a δ whose targets are reached leaves the batch, and only target positions meet the output
matrix.

Shapes: n = values, of which each is searched as one δ, b = rows, m = hidden size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.chat import ChatTemplate, check_conversations
from editing.config import ValueSearchConfig
from editing.edit import Edit
from editing.errors import SearchError
from editing.groups import KeyNames
from editing.layout import ModelLayout, check_layers
from editing.placed import device_of, is_set_aside
from editing.products import bfloat16_products, wants_bfloat16
from editing.progress import OnProgress, unheard
from editing.search.descent import Adam, Normalised
from editing.search.rows import SearchRow, grouped, turns_of
from editing.search.tail import UpperLayers
from editing.search.trunk import freeze
from editing.shortage import within_memory
from editing.tokens import check_edits, pad_token

ROOM = 0.5
"""A δ that n edits share may be n^ROOM times as long as that of one, since their directions add up like right angles;
so it is stepped down as many times as often, and its steps shorten as many times slower."""
BY_TURNS = 4 / 3
"""The same of steps that take turns, each of which sees but a part."""
SHORT, LONGER = 2, 2.0
"""There an answer of n tokens, with its end, takes √(n / SHORT) times as many steps, at most LONGER times as many."""
MASSIVE, SINK = 20.0, 100.0
"""How many times the middle one's size makes a coordinate of a hidden state massive: where a norm of the layer's own
stands before it, and where none does. By tests/benchmarks/massive.py five of 1,000 subjects are so in SmolLM2-135M."""


@dataclass(frozen=True)
class SearchedValue:
    """The outcome of the search for one edit, or for all that share its key."""

    z_star: Tensor
    """(m,) float32 on the CPU."""
    steps: int
    loss_before: float
    loss: float


@within_memory("search fewer edits at once (option search.edits_at_once)")
def search_values(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layout: ModelLayout,
    edits: Sequence[Edit],
    layer: int,
    config: ValueSearchConfig,
    prefixes: Sequence[str],
    on_progress: OnProgress = unheard,
    chat: ChatTemplate | None = None,
) -> list[SearchedValue]:
    """z* of every edit at the output of `layer`, searched on the model as it stands; the model is not changed.

    Edits of one key have the same one, searched for all of their targets together.

    `prefixes` are the contexts, the empty one first; with `chat` the conversations that ask for a fact, too, one of
    them at each step, in which the answer alone is to be said, and then its end. `on_progress` hears after every step
    how far it is, of how much, in units that take about the same time.

    Raises:
        SearchError: the loss of an edit became NaN or infinite.
        InvalidEdit: a subject is lost in tokenisation, or an edit is longer than the model reads.
        ModelError: the model has no such layer, or nothing above it.
    """
    check_layers(model, layout, (layer,))
    check_edits(model, tokenizer, edits, prefixes)
    check_conversations(model, edits, chat)
    groups = KeyNames(tokenizer, prefixes).groups(edits)
    found: list[SearchedValue] = []
    upper = UpperLayers(model, layout, layer)
    narrow = wants_bfloat16(config.products, model.dtype, device_of(model)) and not is_set_aside(model)

    def tell(done: int) -> None:
        on_progress(len(found) * config.steps + done, len(groups) * config.steps)

    with bfloat16_products(layout.layer_list(model)[layer + 1 :]) if narrow else nullcontext():
        for chunk in _at_once(groups, config.edits_at_once):
            together = [[edits[number] for number in group] for group in chunk]
            turns = [turns_of(tokenizer, i, some, prefixes, config.kl_weight, chat) for i, some in enumerate(together)]
            rows = [list(chain.from_iterable(turn)) for turn in zip(*turns, strict=True)]
            search = _Search(upper, config, rows, [len(some) for some in together], pad_token(tokenizer))
            found += search.run([", ".join(f"'{edit.id}'" for edit in some) for some in together], tell)
    of = {number: value for group, value in zip(groups, found, strict=True) for number in group}
    return [of[number] for number in range(len(edits))]


def _at_once(groups: Sequence[tuple[int, ...]], most: int) -> Iterator[list[tuple[int, ...]]]:
    """The groups in batches of at most so many edits; a group that has more is a batch of its own."""
    batch: list[tuple[int, ...]] = []
    for group in groups:
        if batch and sum(map(len, batch)) + len(group) > most:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def ordinary(z_nm: Tensor, most: float) -> Tensor:
    """Which coordinates of hidden states are at most so many times as large as the middle one, (n, m)."""
    size_nm = z_nm.abs()
    return size_nm <= most * size_nm.median(dim=1, keepdim=True).values


def _units(upper: UpperLayers, z_nm: Tensor, elsewhere_n: Tensor) -> tuple[Tensor, Tensor]:
    """The length of a step of δ along each coordinate (n, m), and what its whole length is measured by, (n,).

    Where δ is written as it is: 1, and |z|. Where a norm of gain g stands before the hidden state, the layer can write
    no more than g ⊙ y with |y| = √m (editing/methods/shared/postnorm.py): g, and √m. So δ = g ⊙ η is what can be
    written, and |η| tells how much of it. (Gemma 3 270M, layer 6, δ of up to 0.75 |z|: 82 % of it cannot be written; of
    a δ in these units 2 %, and it says the targets as surely.)

    A few coordinates of such hidden states are many times as large as the others, whatever the text (Sun et al., 2024,
    https://arxiv.org/abs/2402.17762), and tell the next norm no more than its length. Nothing is written there: 0.
    Elsewhere single tokens near a text's beginning have such, since all later ones attend to them ("Honda Logo" in
    Qwen2.5 0.5B: |z| = 817, where others have 15; behind another text it has 15, too). A δ of such a share would be as
    long as forty others, and what is written for it takes the whole model down; so its length is measured by
    `elsewhere_n`, the least |z| of the same subject in the other texts of the search.
    """
    gain_m = upper.layout.gain_after(upper.model, upper.layer)
    free_nm = ordinary(z_nm, SINK if gain_m is None else MASSIVE).to(z_nm)
    if gain_m is None:
        return free_nm, torch.where(free_nm.all(1), z_nm.norm(dim=1), elsewhere_n.minimum((z_nm * free_nm).norm(dim=1)))
    return free_nm * gain_m.to(z_nm), torch.full_like(z_nm[:, 0], z_nm.shape[1] ** 0.5)


class _Search:
    """One batch of δ, searched together; `sizes` says how many edits share each.

    Step after step takes the rows of the next of the `turns`, and the first again after the last.
    """

    def __init__(
        self,
        upper: UpperLayers,
        config: ValueSearchConfig,
        turns: Sequence[Sequence[SearchRow]],
        sizes: Sequence[int],
        pad_id: int,
    ) -> None:
        self.config = config
        together = [grouped(rows) for rows in turns]
        frozen_groups = iter(freeze(upper, list(chain.from_iterable(together)), pad_id))
        self.turns = [list(islice(frozen_groups, len(groups))) for groups in together]
        bare = {
            row.delta: frozen.hidden[i, 0]
            for group, frozen in zip(together[0], self.turns[0], strict=True)
            for i, row in enumerate(group)
            if row.context == 0
        }
        self.z_nm: Tensor = torch.stack([bare[delta] for delta in sorted(bare)]).float()
        elsewhere_n = torch.full_like(self.z_nm[:, 0], math.inf)
        for group, frozen in zip(together[0], self.turns[0], strict=True):
            others = [i for i, row in enumerate(group) if row.context]
            of = torch.tensor([group[i].delta for i in others], dtype=torch.long, device=self.z_nm.device)
            elsewhere_n.scatter_reduce_(0, of, frozen.hidden[others, 0].float().norm(dim=1), "amin")
        self.base_nv: Tensor | None = None
        """Log-probabilities of the unchanged model at the KL prompt of each δ that is still searched."""
        self.scale_nm, self.size_n = _units(upper, self.z_nm, elsewhere_n)
        self.room_n = torch.tensor([size**ROOM for size in sizes], device=self.z_nm.device)
        self.pace_n = self.room_n.clone()
        if len(turns) > 1:
            lengths = [0] * len(sizes)
            for row in turns[0]:
                lengths[row.delta] = max(lengths[row.delta], len(row.targets))
            self.pace_n *= BY_TURNS * (self.room_n.new_tensor(lengths) / SHORT).sqrt().clamp(1, LONGER)

    def run(self, names: Sequence[str], on_step: Callable[[int], None]) -> list[SearchedValue]:
        """Step down every δ until its loss is below `stop_loss` or the steps are used up.

        `on_step` hears how far it is of n · steps: a δ that is still searched counts as if it were likelier to leave
        with each step, one that left as done.
        """
        config, n = self.config, len(names)
        limit_n = config.clamp * self.room_n * self.size_n
        steps_n = (config.steps * self.pace_n).ceil()
        most = int(steps_n.max())
        delta_nm = torch.zeros_like(self.z_nm)
        descent = self._descent(delta_nm)
        active = torch.arange(n, device=delta_nm.device)
        before, steps = [math.nan] * n, [0] * n
        best_nm, best_loss_n = delta_nm.clone(), torch.full_like(limit_n, math.inf)
        turns = len(self.turns)
        loss_nt, missed_nt = limit_n.new_zeros(n, turns), torch.ones(n, turns, dtype=torch.long, device=active.device)
        for step in range(1, most + 1):
            delta = delta_nm[active].requires_grad_(True)
            turn = (step - 1) % turns
            loss, missed_nt[active, turn] = self._loss(turn, delta, self.size_n[active], self.scale_nm[active])
            loss_nt[active, turn] = loss.detach()
            for i, value in zip(active.tolist(), loss.tolist(), strict=True):
                if not math.isfinite(value):
                    raise SearchError(
                        f"edit {names[i]}: the loss became {value} at step {step}; lower {self._step_size()} "
                        "or leave the edit out"
                    )
                before[i] = value if step == 1 else before[i]
                steps[i] = step
            # Published Adam ends where it stands; steps of fixed length may pass the best place, so that one counts.
            # Losses of different turns do not tell which place is better.
            lately = loss_nt[active, :step].mean(1)
            taken = (lately < best_loss_n[active]) | (config.optimiser == "adam") | (turns > 1)
            best_nm[active[taken]], best_loss_n[active[taken]] = delta.detach()[taken], lately[taken]
            going = (lately >= config.stop_loss) | (step < turns)
            going &= step < steps_n[active]
            if config.stop_at_argmax:
                going &= missed_nt[active].sum(1) > 0
            left = int(going.sum()) * (most - step) ** 2 * config.steps // most**2
            on_step(n * config.steps - left)
            if not going.any():
                break
            (gradient,) = torch.autograd.grad(loss[going].sum(), delta)
            if not going.all():
                gradient, active = gradient[going], active[going]
                self._keep(going)
            descent.step(step, active, gradient)
            norm = delta_nm[active].norm(dim=1)
            delta_nm[active] *= (limit_n[active] / norm).clamp(max=1)[:, None]
        z_star, last = (self.z_nm + best_nm * self.scale_nm).cpu(), best_loss_n.tolist()
        return [SearchedValue(z_star[i], steps[i], before[i], last[i]) for i in range(n)]

    def _keep(self, going: Tensor) -> None:
        """Go on with those δ that are still searched where `going` is true."""
        self.turns = [[rest for group in some if len((rest := group.of(going)).row_delta)] for some in self.turns]
        self.base_nv = None if self.base_nv is None else self.base_nv[going]

    def _step_size(self) -> str:
        name = "learning_rate" if self.config.optimiser == "adam" else "step_length"
        return f"search.{name} (now {getattr(self.config, name):g})"

    def _descent(self, delta_nm: Tensor) -> Adam | Normalised:
        if self.config.optimiser == "adam":
            return Adam(delta_nm, self.config.learning_rate)
        return Normalised(delta_nm, self.config.step_length * self.size_n, self.pace_n)

    def _loss(self, turn: int, delta_nm: Tensor, size_n: Tensor, scale_nm: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each δ that is still searched, (n,), and how many of its target tokens are not argmax."""
        norm = (delta_nm.square().sum(1) + 1e-30).sqrt()  # the gradient of a norm at zero would be NaN
        loss = self.config.weight_decay * norm / size_n.square()
        missed = torch.zeros(len(delta_nm), dtype=torch.long, device=delta_nm.device)
        first = self.base_nv is None  # at the first step δ is zero
        for group in self.turns[turn]:
            logprobs = group.logprobs(delta_nm * scale_nm)
            wanted, place_delta = group.targets >= 0, group.row_delta[group.places[:, 0]]
            said, now = logprobs[wanted], logprobs[~wanted]
            part = torch.empty_like(group.weights)
            part = part.masked_scatter(wanted, -said.gather(1, group.targets[wanted, None]).squeeze(1))
            if self.base_nv is None:
                self.base_nv = now.new_empty(len(delta_nm), now.shape[1])
            if first:
                self.base_nv[place_delta[~wanted]] = now.detach()
            base = self.base_nv[place_delta[~wanted]]
            part = part.masked_scatter(~wanted, (now.exp() * (now - base)).sum(1))
            loss = loss.index_add(0, place_delta, part * group.weights)
            missed.index_add_(0, place_delta[wanted], (said.argmax(1) != group.targets[wanted]).long())
        return loss, missed
