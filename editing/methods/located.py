"""Where the facts of some edits are read at one layer, and what is missing there.

In a conversation a fact's subject has another hidden state, and later layers answer otherwise to what earlier ones
write. So its keys are columns of their own, with a residual of their own: what is missing there to z + δ, where
δ = z* − z is what the bare prompt asks for, and z stands before the batch in each. With the bare prompt's residual
instead, a third of what is written in a conversation points elsewhere than δ (SmolLM2-135M, four layers).

Where the architecture has a norm between the down projection and the hidden state (OLMo 2, Gemma 2 and 3), R is the
change of the projection's output that takes the normed one nearest to that (editing/methods/shared/postnorm.py).

Shapes: d = key size, m = hidden size, n = edits, c = conversations of an edit, k = kinds of columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.edit import Edit
from editing.errors import SolveError
from editing.groups import KeyGroup
from editing.keys import SubjectReader
from editing.methods.encoded import Encoded, encoded
from editing.methods.shared.interface import MethodInput
from editing.methods.shared.postnorm import change_before_norm
from editing.methods.shared.solve import factors
from editing.tokens import EncodedPrompt, pad_token
from editing.weights import Factors, WeightUpdate, overlay

TOKENS_AT_ONCE = 1024
"""Tokens of one pass: bounds the memory for activations, whatever the number of edits."""


@dataclass(frozen=True)
class Located:
    """Where the facts of some edits are read, and what is missing there."""

    K_nd: Tensor
    """Keys averaged over all contexts, the conversations being one, (n, d) float32."""
    raw_nd: Tensor
    """The same without the conversations."""
    bare_nd: Tensor
    """Keys of the prompts without a context, (n, d) float32."""
    R_mn: Tensor
    """What the layer is to write in addition, (m, n) float32."""
    missing_nm: Tensor
    """(z* − z) / (L − l + 1), or its like by `spread`: R but for a norm behind the layer, (n, m) float32."""
    written_nm: Tensor
    """What the layer's down projection writes at the bare prompts, (n, m) float32."""
    contexts: int
    chat_cnd: Tensor
    """Keys of the conversations that ask for an edit and those that share its key, (c, n, d) float32; zero where one
    has fewer of them."""
    R_chat_mn: Tensor
    """What the layer is to write in addition in the conversations, in the mean over those of an edit, (m, n)."""
    wanted_cnm: Tensor
    """The hidden states wanted in the conversations, (c, n, m) float32; zero where an edit has fewer of them."""

    def columns(self, bare_apart: bool) -> Tensor:
        """K (d, n); or of each kind n columns: the bare prompts, the means of their contexts, each conversation."""
        return torch.cat([*self._raw(), *self.chat_cnd]).T if bare_apart else self.K_nd.T

    def _raw(self) -> list[Tensor]:
        """Keys of the bare prompts, and the means of the other contexts' where there are any, (n, d) each."""
        if self.contexts == 1:
            return [self.raw_nd]
        return [self.bare_nd, (self.raw_nd * self.contexts - self.bare_nd) / (self.contexts - 1)]

    def factors(self, gain_knd: Tensor) -> Factors:
        """Δ of the gains of each kind of columns: the conversations' write what is missing there, the others R."""
        chats = len(self.chat_cnd) if len(gain_knd) > 1 else 0
        raw = len(gain_knd) - chats
        if not chats:
            return factors(self.R_mn, gain_knd.sum(0))
        gain_nd = torch.cat([gain_knd[:raw].sum(0), gain_knd[raw:].sum(0)])
        return factors(torch.cat([self.R_mn, self.R_chat_mn], dim=1), gain_nd)

    def of(self, number: int) -> "Located":
        """Of one edit alone."""
        one = slice(number, number + 1)
        return replace(self, R_mn=self.R_mn[:, one], R_chat_mn=self.R_chat_mn[:, one])

    def remembered(self, groups: Sequence[KeyGroup], bare_apart: bool) -> Tensor:
        """What the history is told, (h, d) on the CPU: the mean key of a fact, and that of its conversations.

        Where they are columns apart in the solve, a mean of k is longer by √k. Told the mean of four as one key, later
        batches moved what was said in each conversation; told all k they move it no less, at k times the memory.
        """
        size_n = torch.tensor([group.weight for group in groups]).to(self.raw_nd)
        asked_cn = self.chat_cnd.any(2)
        raw_nd, chat_nd = self.raw_nd, over_conversations(asked_cn, self.chat_cnd)
        if bare_apart:
            chat_nd *= (size_n * asked_cn.sum(0)).sqrt()[:, None]
            raw_nd = torch.stack(self._raw()).mean(0) * len(self._raw()) ** 0.5
        return torch.cat([size_n.sqrt()[:, None] * raw_nd, chat_nd[asked_cn.any(0)]]).cpu()


def roots(groups: Sequence[KeyGroup], K_dc: Tensor) -> Tensor:
    """√ of what each group counts, for columns of which every kind has one a group, (c,)."""
    root_n = torch.tensor([group.weight**0.5 for group in groups])
    return root_n.to(K_dc).repeat(K_dc.shape[1] // len(groups))


def weighed(groups: Sequence[KeyGroup], K_dc: Tensor) -> Tensor:
    """The columns that are there, each as long as its group counts, (h, d)."""
    return (K_dc * roots(groups, K_dc)).T[K_dc.any(0)]


def over_conversations(asked_cn: Tensor, states_cnx: Tensor) -> Tensor:
    """The mean over those that each edit has; zero where it has none. (n, x)."""
    return states_cnx.sum(0) / asked_cn.sum(0).clamp(min=1)[:, None]


def locate(
    given: MethodInput,
    edits: Sequence[Edit],
    z_star_nm: Tensor,
    layer: int,
    updates: Sequence[WeightUpdate],
    texts: Encoded | None = None,
    wanted_cnm: Tensor | None = None,
    done: Callable[[int], None] = lambda work: None,
) -> Located:
    """Keys and residuals of `edits` at one layer, with `updates[i]` in force for edit i.

    `texts` are `encoded`'s, where they are there already, `done` their `counting`, and `wanted_cnm` what was found to
    be wanted in the conversations at the first layer. Only they and the bare prompts run up to the last edited layer;
    those in the other contexts end at their keys.

    Raises:
        SolveError: a key or a residual is not finite.
        InvalidEdit: a subject is lost in tokenisation.
    """
    model, layout, last = given.model, given.layout, given.layers[-1]
    texts = texts or encoded(given, edits)
    reader = SubjectReader(model, layout, pad_token(given.tokenizer), texts.begun)
    deep, short = texts.layers_run(given, layer)

    def passed(tokens: int) -> None:
        done(deep * tokens)

    def states(prompts: Sequence[EncodedPrompt], uniform: bool) -> list[Tensor]:
        found = reader.states(prompts, layer, last, uniform=uniform)
        return [found.keys, found.written, found.hidden]

    def keys(prompts: Sequence[EncodedPrompt], uniform: bool) -> list[Tensor]:
        return [reader.keys(prompts, layer, uniform=uniform)]

    bare_nd, written_nm, hidden_nm = gather(given, texts.contexts[0], updates, states, passed)
    raw_nd = bare_nd.clone()
    for in_context in texts.contexts[1:]:
        raw_nd += gather(given, in_context, updates, keys, lambda tokens: done(short * tokens))[0]
    asked_cn, *in_chat = _in_conversations(
        given, texts.conversations, updates, states, (bare_nd, written_nm, hidden_nm), passed
    )
    chat_cnd, chat_written_cnm, chat_hidden_cnm = in_chat
    left = last - layer + 1
    # What the layer writes is multiplied by this before it joins the hidden state.
    share = (left if given.spread == "linear" else left**0.5) * layout.scale(model)
    missing_nm = (change_nm := z_star_nm.to(hidden_nm.device) - hidden_nm) / share
    if wanted_cnm is None:
        wanted_cnm = (chat_hidden_cnm + change_nm) * asked_cn[..., None]
    chat_missing_cnm = (wanted_cnm - chat_hidden_cnm) / share
    for edit, finite in zip(edits, (raw_nd.isfinite().all(1) & missing_nm.isfinite().all(1)).tolist(), strict=True):
        if not finite:
            raise SolveError(
                f"edit '{edit.id}': its keys at layer {layer} or its value z* are not finite; leave it out, or choose "
                "other layers"
            )
    norm = layout.norm_after(model, layer)
    R_nm, asked_R_cnm = missing_nm, chat_missing_cnm
    if norm is not None:
        R_nm = change_before_norm(norm, written_nm, missing_nm)
    if norm is not None and len(asked_cn):
        asked_R_cnm[asked_cn] = change_before_norm(norm, chat_written_cnm[asked_cn], chat_missing_cnm[asked_cn])
    contexts = len(given.prefixes)
    return Located(
        _over_all(raw_nd, contexts, asked_cn, chat_cnd),
        raw_nd / contexts,
        bare_nd,
        R_nm.T,
        missing_nm,
        written_nm,
        contexts,
        chat_cnd,
        over_conversations(asked_cn, asked_R_cnm).T,
        wanted_cnm,
    )


def _over_all(raw_nd: Tensor, contexts: int, asked_cn: Tensor, chat_cnd: Tensor) -> Tensor:
    """The mean of the keys whose sum over contexts is given and of the conversations' mean, where there are any."""
    chat_nd = over_conversations(asked_cn, chat_cnd)
    return (raw_nd + chat_nd) / (contexts + asked_cn.any(0)[:, None])


def _in_conversations(
    given: MethodInput,
    chats: Sequence[Sequence[EncodedPrompt]],
    updates: Sequence[WeightUpdate],
    read: Callable[[Sequence[EncodedPrompt], bool], list[Tensor]],
    like: Sequence[Tensor],
    passed: Callable[[int], None],
) -> list[Tensor]:
    """Which conversations each edit has, (c, n), and what `read` finds in them, (c, n, ·) each, else zero.

    `like` is what it finds at the bare prompts, (n, ·) each.
    """
    most = max(map(len, chats), default=0)
    asked_cn = torch.zeros(most, len(chats), dtype=torch.bool, device=like[0].device)
    for i, some in enumerate(chats):
        asked_cn[: len(some), i] = True
    found = [part.new_zeros(most, *part.shape) for part in like]
    if most:
        places = asked_cn.nonzero().tolist()
        prompts, owners = [chats[i][place] for place, i in places], [updates[i] for _, i in places]
        for whole, part in zip(found, gather(given, prompts, owners, read, passed), strict=True):
            whole[asked_cn] = part
    return [asked_cn, *found]


def gather(
    given: MethodInput,
    prompts: Sequence[EncodedPrompt],
    updates: Sequence[WeightUpdate],
    read: Callable[[Sequence[EncodedPrompt], bool], list[Tensor]],
    passed: Callable[[int], None] = lambda tokens: None,
) -> list[Tensor]:
    """What `read` finds for each prompt, (n, ·) each: prompts of similar length are read together.

    `passed` hears how many tokens ran.
    """
    model, layout = given.model, given.layout
    uniform = not any(updates) or all(update is updates[0] for update in updates)
    found: list[Tensor] = []
    with overlay(model, layout, updates[0] if uniform else {}):
        for chunk in _chunks([prompt.subject_index + 1 for prompt in prompts]):
            with overlay(model, layout, {} if uniform else [updates[i] for i in chunk]):
                parts = read([prompts[i] for i in chunk], uniform)
            found = found or [part.new_empty(len(prompts), part.shape[1]) for part in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[chunk] = part
            passed(sum(prompts[i].subject_index + 1 for i in chunk))
    return found


def _chunks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows, shortest first, in chunks of at most TOKENS_AT_ONCE tokens with their padding."""
    chunk: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if chunk and lengths[i] * (len(chunk) + 1) > TOKENS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk
