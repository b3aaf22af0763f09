"""The value search: which hidden state at the subject's last token makes the model say the target.

Meng et al., "Mass-Editing Memory in a Transformer" (MEMIT), ICLR 2023, https://arxiv.org/abs/2210.07229, eq. 16;
Meng et al., "Locating and Editing Factual Associations in GPT" (ROME), NeurIPS 2022, eq. 4.

    z* = z + δ,   δ = argmin  mean_c −log p(target | context_c ⊕ prompt)  +  w_kl KL(p_δ ‖ p)  +  w_d |δ| / |z|²

Exact, and no work is done twice: with δ added to layer L's output at the subject's last token, everything before
that token, and every layer up to L, does not depend on δ. It runs once, without gradient, and leaves keys and
values behind; each step runs the later positions through the later layers only. All edits and contexts are rows
of one batch in which the subject's last token stands in one column, an edit whose target is reached leaves the
batch, and only target positions meet the output matrix.

Shapes: n = edits, b = rows, P = columns before the subject's last token, S = columns from it on, m = hidden size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from editing.body import run_body
from editing.config import ValueSearchConfig
from editing.edit import Edit
from editing.errors import SearchError
from editing.keys import capture_output, hidden_of
from editing.layout import ModelLayout
from editing.scoring import output_logits
from editing.tokens import Rows, align_rows, encode_prompt, pad_token, target_ids

KL_PROMPT = "{} is a"
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class SearchedValue:
    """The outcome of one edit's search."""

    z_star: Tensor
    """(m,) float32 on the CPU."""
    steps: int
    loss_before: float
    loss: float


@dataclass(frozen=True)
class _Row:
    """One text of the search: an edit's prompt in one context, or its KL prompt."""

    edit: int
    ids: tuple[int, ...]
    anchor: int
    """Index of the subject's last token."""
    predicting: tuple[int, ...]
    """Indices whose next token counts."""
    targets: tuple[int, ...]
    """The tokens wanted there; empty for the KL prompt."""


def search_values(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layout: ModelLayout,
    edits: Sequence[Edit],
    layer: int,
    config: ValueSearchConfig,
    prefixes: Sequence[str],
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[SearchedValue]:
    """z* of every edit at the output of `layer`, searched on the model as it stands; the model is not changed.

    `prefixes` are the contexts, the empty one first. `on_progress` hears how many edits are done.

    Raises:
        SearchError: the loss of an edit became NaN or infinite.
    """
    found: list[SearchedValue] = []
    for start in range(0, len(edits), config.edits_at_once):
        chunk = edits[start : start + config.edits_at_once]
        rows = [row for i, edit in enumerate(chunk) for row in _rows_of(tokenizer, i, edit, prefixes)]
        search = _Search(model, layout, layer, config, rows, len(chunk), pad_token(tokenizer))
        found += search.run([edit.id for edit in chunk])
        on_progress(len(found))
    return found


def _rows_of(tokenizer: PreTrainedTokenizerBase, number: int, edit: Edit, prefixes: Sequence[str]) -> Iterator[_Row]:
    for prefix in prefixes:
        prompt = encode_prompt(tokenizer, prefix, edit.prompt, edit.subject)
        targets = target_ids(tokenizer, edit.text, edit.target_new)
        first = len(prompt.ids) - 1
        yield _Row(
            number,
            prompt.ids + tuple(targets[:-1]),
            prompt.subject_index,
            tuple(range(first, first + len(targets))),
            tuple(targets),
        )
    prompt = encode_prompt(tokenizer, "", KL_PROMPT, edit.subject)
    yield _Row(number, prompt.ids, prompt.subject_index, (len(prompt.ids) - 1,), ())


class _FixedPrefix(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of the columns before the subject, shared by every step: read, never extended."""

    def __init__(self, length: int, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.length, self.keys, self.values, self.is_initialized = length, keys, values, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0


@dataclass
class _Frozen:
    """What does not depend on δ, by row: the part of the forward pass that runs once."""

    hidden: Tensor
    """Output of layer L from the subject's last token on, (b, S, m)."""
    attention_mask: Tensor
    """(b, P + S)."""
    position_ids: Tensor
    """(b, S)."""
    keys: list[Tensor]
    values: list[Tensor]
    """Of the layers above L, (b, heads, P, head size) each."""
    row_edit: Tensor
    """The edit that each row belongs to, (b,)."""
    places: Tensor
    """(t, 2): row and column in S of every predicting position."""
    targets: Tensor
    """(t,) wanted tokens; -1 at the KL prompts."""
    weights: Tensor
    """(t,) weight of each position in its edit's loss: 1 / (contexts · target tokens), or the KL weight."""
    base_logprobs: Tensor
    """(KL places, vocabulary) of the unchanged model."""


class _Search:
    """One batch of edits, searched together."""

    def __init__(
        self,
        model: PreTrainedModel,
        layout: ModelLayout,
        layer: int,
        config: ValueSearchConfig,
        rows: Sequence[_Row],
        edits: int,
        pad_id: int,
    ) -> None:
        self.model, self.layout, self.layer, self.config = model, layout, layer, config
        self.prefix_length = max(row.anchor for row in rows)
        aligned = align_rows([row.ids for row in rows], [row.anchor for row in rows], pad_id).to(model.device)
        self.frozen = self._freeze(aligned, rows, edits)
        first_row = torch.tensor([next(i for i, r in enumerate(rows) if r.edit == e) for e in range(edits)])
        self.z_nm = self.frozen.hidden[first_row.to(model.device), 0].float()

    @torch.no_grad()
    def _freeze(self, rows: Rows, described: Sequence[_Row], edits: int) -> _Frozen:
        cache = DynamicCache()
        with capture_output(self.layout.layer_list(self.model)[self.layer]) as output:
            final = run_body(
                self.model,
                input_ids=rows.input_ids,
                attention_mask=rows.attention_mask,
                position_ids=rows.position_ids,
                cache=cache,
            ).last_hidden_state
        self.extras = None if isinstance(output[0], Tensor) else output[0][1:]
        P, device = self.prefix_length, rows.input_ids.device
        contexts = sum(1 for row in described if row.edit == 0 and row.targets)
        places, targets, weights = [], [], []
        for i, row in enumerate(described):
            for k, position in enumerate(row.predicting):
                places.append((i, position - row.anchor))
                targets.append(row.targets[k] if row.targets else -1)
                weights.append(1 / (contexts * len(row.targets)) if row.targets else self.config.kl_weight)
        frozen = _Frozen(
            hidden=hidden_of(output[0])[:, P:],
            attention_mask=rows.attention_mask,
            position_ids=rows.position_ids[:, P:],
            keys=[layer.keys[:, :, :P] for layer in cache.layers[self.layer + 1 :]],
            values=[layer.values[:, :, :P] for layer in cache.layers[self.layer + 1 :]],
            row_edit=torch.tensor([row.edit for row in described], device=device),
            places=torch.tensor(places, device=device),
            targets=torch.tensor(targets, device=device),
            weights=torch.tensor(weights, device=device),
            base_logprobs=torch.empty(0, device=device),
        )
        kl = frozen.places[frozen.targets < 0]
        frozen.base_logprobs = self._logprobs(final[:, P:], kl)
        return frozen

    def run(self, names: Sequence[str]) -> list[SearchedValue]:
        """Adam on every edit's δ until its loss is below `stop_loss` or the steps are used up."""
        config, n = self.config, len(names)
        limit_n = config.clamp * self.z_nm.norm(dim=1)
        delta_nm = torch.zeros_like(self.z_nm)
        mean_nm, square_nm = torch.zeros_like(delta_nm), torch.zeros_like(delta_nm)
        active = torch.arange(n, device=delta_nm.device)
        before, last, steps = [math.nan] * n, [math.nan] * n, [0] * n
        for step in range(1, config.steps + 1):
            delta = delta_nm[active].requires_grad_(True)
            loss = self._loss(delta, self.z_nm[active])
            for i, value in zip(active.tolist(), loss.tolist(), strict=True):
                if not math.isfinite(value):
                    raise SearchError(
                        f"edit '{names[i]}': the loss became {value} at step {step}; lower learning_rate "
                        f"(now {config.learning_rate:g}) or leave the edit out"
                    )
                before[i] = value if step == 1 else before[i]
                last[i], steps[i] = value, step
            going = loss.detach() >= config.stop_loss
            if step == config.steps or not going.any():
                break
            (gradient,) = torch.autograd.grad(loss[going].sum(), delta)
            if not going.all():
                gradient, active = gradient[going], active[going]
                self._keep(going)
            self._adam(step, active, gradient, delta_nm, mean_nm, square_nm)
            norm = delta_nm[active].norm(dim=1)
            delta_nm[active] *= (limit_n[active] / norm).clamp(max=1)[:, None]
        z_star = (self.z_nm + delta_nm).cpu()
        return [SearchedValue(z_star[i], steps[i], before[i], last[i]) for i in range(n)]

    def _adam(self, step: int, active: Tensor, gradient: Tensor, delta: Tensor, mean: Tensor, square: Tensor) -> None:
        """One step of Kingma & Ba's algorithm 1 on the rows `active`, in place."""
        beta1, beta2 = ADAM_BETAS
        mean[active] = beta1 * mean[active] + (1 - beta1) * gradient
        square[active] = beta2 * square[active] + (1 - beta2) * gradient**2
        corrected = mean[active] / (1 - beta1**step)
        scale = (square[active] / (1 - beta2**step)).sqrt() + ADAM_EPSILON
        delta[active] -= self.config.learning_rate * corrected / scale

    def _loss(self, delta_nm: Tensor, z_nm: Tensor) -> Tensor:
        """The loss of each edit that is still searched, (n,)."""
        frozen = self.frozen
        shift = delta_nm[frozen.row_edit].unsqueeze(1)
        hidden = frozen.hidden
        start = (hidden[:, :1].float() + shift).to(hidden.dtype)
        final = self._upper_layers(torch.cat([start, hidden[:, 1:]], dim=1))
        logprobs = self._logprobs(final, frozen.places)
        wanted = frozen.targets >= 0
        part = torch.empty_like(frozen.weights)
        part = part.masked_scatter(wanted, -logprobs[wanted].gather(1, frozen.targets[wanted, None]).squeeze(1))
        now = logprobs[~wanted]
        part = part.masked_scatter(~wanted, (now.exp() * (now - frozen.base_logprobs)).sum(1))
        place_edit = frozen.row_edit[frozen.places[:, 0]]
        loss = torch.zeros(len(delta_nm), device=delta_nm.device).index_add(0, place_edit, part * frozen.weights)
        norm = (delta_nm.square().sum(1) + 1e-30).sqrt()  # the gradient of a norm at zero would be NaN
        return loss + self.config.weight_decay * norm / z_nm.square().sum(1)

    def _upper_layers(self, hidden: Tensor) -> Tensor:
        """Final hidden states of the columns from the subject on, given layer L's output there."""
        frozen, P = self.frozen, self.prefix_length
        nothing = torch.empty(0)
        lower = [_FixedPrefix(P, nothing, nothing)] * (self.layer + 1)
        upper = [_FixedPrefix(P, k, v) for k, v in zip(frozen.keys, frozen.values, strict=True)]
        with self._layers_give(hidden):
            final: Tensor = run_body(
                self.model,
                inputs_embeds=torch.zeros_like(hidden),
                attention_mask=frozen.attention_mask,
                position_ids=frozen.position_ids,
                cache=Cache(layers=[*lower, *upper]),
            ).last_hidden_state
        return final

    @contextmanager
    def _layers_give(self, hidden: Tensor) -> Iterator[None]:
        """Inside, the layers up to L do nothing and layer L gives `hidden`: the model's own forward does the rest.

        Masks, rotary embeddings and norms stay the architecture's own, so no family needs code of its own here.
        Where a layer returns a tuple (GPT-J: hidden states and attention weights) so does the stand-in.
        """
        below = list(self.layout.layer_list(self.model))[: self.layer + 1]
        given = hidden if self.extras is None else (hidden, *self.extras)

        def give(*args: object, **kwargs: object) -> Tensor | tuple[object, ...]:
            return given

        try:
            for module in below:
                module.forward = give
            yield
        finally:
            for module in below:
                del module.forward

    def _logprobs(self, final: Tensor, places: Tensor) -> Tensor:
        """Log-probabilities in float32 at (row, column) places of the final hidden states."""
        return output_logits(self.model, final[places[:, 0], places[:, 1]]).float().log_softmax(-1)

    def _keep(self, going: Tensor) -> None:
        """Drop the rows of edits that are done, and number the others anew."""
        frozen = self.frozen
        renumber = going.cumsum(0) - 1
        keep_row = going[frozen.row_edit]
        keep_place = keep_row[frozen.places[:, 0]]
        row_number = keep_row.cumsum(0) - 1
        places = frozen.places[keep_place]
        self.frozen = _Frozen(
            hidden=frozen.hidden[keep_row],
            attention_mask=frozen.attention_mask[keep_row],
            position_ids=frozen.position_ids[keep_row],
            keys=[k[keep_row] for k in frozen.keys],
            values=[v[keep_row] for v in frozen.values],
            row_edit=renumber[frozen.row_edit[keep_row]],
            places=torch.stack([row_number[places[:, 0]], places[:, 1]], dim=1),
            targets=frozen.targets[keep_place],
            weights=frozen.weights[keep_place],
            base_logprobs=frozen.base_logprobs[keep_place[frozen.targets < 0]],
        )
