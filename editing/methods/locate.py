"""What locate-then-edit methods share: where keys and residuals come from, and the loop over layers.

Meng et al., "Mass-Editing Memory in a Transformer" (MEMIT), ICLR 2023, https://arxiv.org/abs/2210.07229, algorithm 1:

    z*  by the value search, at the last edited layer L, on the base model          (eq. 16)
    for each layer l of the edited ones, rising:
        K  keys at the subject's last token, averaged over contexts                  (eq. 19)
        R  = (z* − z) / (L − l + 1), z taken with the layers below already edited   (eq. 20)
        Δ  = R · gain(K)                                                             the method's own solve

PMET (Li et al., AAAI 2024, https://arxiv.org/abs/2308.08742) divides by √(L − l + 1) instead: the option `spread`.

Where the architecture has a norm between the down projection and the hidden state (OLMo 2, Gemma 2 and 3), R is the
change of the projection's output that takes the normed one nearest to that (editing/methods/shared/postnorm.py).

Shapes: d = key size, m = hidden size, n = edits.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from editing.adapters.rank import narrowed
from editing.edit import Edit
from editing.errors import SolveError
from editing.groups import KeyGroup, KeyNames
from editing.keys import SubjectReader
from editing.methods.shared.interface import BatchUpdate, MethodInput
from editing.methods.shared.postnorm import change_before_norm
from editing.methods.shared.solve import factors
from editing.tokens import EncodedPrompt, encode_in_context, pad_token
from editing.weights import Factors, WeightUpdate, overlay

TOKENS_AT_ONCE = 1024
"""Tokens of one pass: bounds the memory for activations, whatever the number of edits."""

NEAR_COSINE = 0.5
"""Keys so alike that writing one value changes what the other gives. Measured on SmolLM2-135M, layer 5: two people of
one surname have 0.65 to 0.91, others at most 0.27."""
NEAR_AT_MOST = 200

Solve = Callable[[int, Tensor], Tensor]
"""(layer, K (d, n)) to the gain (n, d) with which Δ = R · gain; what tells the methods of one loop apart."""


class Alike(NamedTuple):
    """A fact, another whose key is nearly its own, and the cosine of the two."""

    edit: Edit
    other: Edit
    cosine: float


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

    def columns(self, bare_apart: bool) -> Tensor:
        """K (d, n); or of each kind n columns: the bare prompts, the means of their contexts, each conversation."""
        if not bare_apart:
            return self.K_nd.T
        bare = [self.raw_nd]
        if self.contexts > 1:
            bare = [self.bare_nd, (self.raw_nd * self.contexts - self.bare_nd) / (self.contexts - 1)]
        return torch.cat([*bare, *self.chat_cnd]).T

    def remembered(self, groups: Sequence[KeyGroup]) -> Tensor:
        """What the history is told, (h, d) on the CPU: each fact counts, so those that share a key make it longer."""
        size_n = torch.tensor([float(len(group.edits)) for group in groups]).to(self.raw_nd)
        chat = self.chat_cnd.flatten(0, 1)
        return torch.cat([size_n.sqrt()[:, None] * self.raw_nd, chat[chat.any(1)]]).cpu()


def compute_together(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, solve: Solve, *, bare_apart: bool = False
) -> BatchUpdate:
    """The update that writes `edits` in one solve a layer, each layer with those below already edited.

    A group of edits that share a key is one of `edits`, the first, and counts as `given.groups` says.

    `bare_apart`: `solve` gets two columns an edit, see `Located.columns`. Both ask for the same residual, so their
    gains add up and the update keeps one rank an edit.

    Raises:
        SolveError: the linear system is singular.
        InvalidEdit: a subject is lost in tokenisation.
    """
    update: dict[str, Factors] = {}
    in_force: dict[str, Factors] = {}
    keys: dict[int, Tensor] = {}
    texts, groups = encoded(given, edits), groups_of(given, edits)
    for layer in given.layers:
        found = locate(given, edits, z_star_nm, layer, [in_force] * len(edits), texts)
        name = given.layout.weight_name(layer)
        columns = found.columns(bare_apart)
        root = torch.tensor([group.weight**0.5 for group in groups]).to(columns).repeat(columns.shape[1] // len(edits))
        gain_nd = (solve(layer, columns * root) * root[:, None]).reshape(-1, *found.K_nd.shape).sum(0)
        update[name] = given.restrain(name, factors(found.R_mn, gain_nd))
        in_force[name] = narrowed(update[name])
        keys[layer] = found.remembered(groups)
    return BatchUpdate(update, keys)


def compute_each(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, solve: Solve, *, bare_apart: bool = False
) -> list[WeightUpdate]:
    """For each edit the update that writes it alone, all in one pass a layer.

    The rows of `solve` for an edit's columns (one, or two as in `compute_together`) depend on no other's.
    """
    updates: list[dict[str, Factors]] = [{} for _ in edits]
    texts = encoded(given, edits)
    for layer in given.layers:
        found = locate(given, edits, z_star_nm, layer, updates, texts)
        gain_nd = solve(layer, found.columns(bare_apart)).reshape(-1, *found.K_nd.shape).sum(0)
        name = given.layout.weight_name(layer)
        for i, update in enumerate(updates):
            update[name] = given.restrain(name, factors(found.R_mn[:, i : i + 1], gain_nd[i : i + 1]))
    return list(updates)


@dataclass(frozen=True)
class Encoded:
    """The texts in which edits are read, at every layer: context by context and, of the conversations, edit by edit."""

    contexts: list[list[EncodedPrompt]]
    conversations: list[list[EncodedPrompt]]


def encoded(given: MethodInput, edits: Sequence[Edit]) -> Encoded:
    """All texts of the edits. Raises InvalidEdit for a subject that is lost in tokenisation."""
    tokenizer, prefixes = given.tokenizer, given.prefixes
    contexts = [
        [encode_in_context(tokenizer, prefixes, context, edit.prompt, edit.subject) for edit in edits]
        for context in range(len(prefixes))
    ]
    return Encoded(contexts, conversations(given, edits))


def nearly_alike(given: MethodInput, keys: KeyNames, edits: Sequence[Edit], others: Sequence[Edit]) -> list[Alike]:
    """Each edit with those of the edits and of `others` whose key is nearly its own (NEAR_COSINE), not the same.

    Only subjects that end in the same token can be so near; the last NEAR_AT_MOST of `others` that do are looked at.

    Raises:
        InvalidEdit: a subject is lost in tokenisation.
    """
    written = {keys.of(edit) for edit in edits}
    ends = {name[-1] for name in written}
    like = [edit for edit in others if (name := keys.of(edit))[-1] in ends and name not in written][-NEAR_AT_MOST:]
    known = [*edits, *like]
    alone = Counter(name[-1] for name in {keys.of(edit) for edit in known})
    names = list(dict.fromkeys(name for edit in known if alone[(name := keys.of(edit))[-1]] > 1))
    if not names:
        return []
    prompts = [EncodedPrompt(name, len(name) - 1) for name in names]
    reader, layer = SubjectReader(given.model, given.layout, pad_token(given.tokenizer)), given.layers[-1]
    [keys_nd] = gather(given, prompts, [{}] * len(prompts), lambda some, _: [reader.keys(some, layer, uniform=True)])
    unit_nd = torch.nn.functional.normalize(keys_nd, dim=1)
    row = {name: number for number, name in enumerate(names)}
    found = []
    for edit in edits:
        if (number := row.get(keys.of(edit))) is None:
            continue
        cosines = (unit_nd @ unit_nd[number]).tolist()
        for other in known:
            place = row.get(keys.of(other))
            if place not in (None, number) and cosines[place] >= NEAR_COSINE:
                found.append(Alike(edit, other, cosines[place]))
    return found


def conversations(given: MethodInput, edits: Sequence[Edit]) -> list[list[EncodedPrompt]]:
    """For each edit the conversations that ask for it and those that share its key, each once."""
    if given.chat is None:
        return [[] for _ in edits]
    asked = [[given.chat.encode(edit) for edit in group.edits] for group in groups_of(given, edits)]
    beginnings = [{p.ids[: p.subject_index + 1]: p for p in some if p is not None} for some in asked]
    return [list(some.values()) for some in beginnings]


def groups_of(given: MethodInput, edits: Sequence[Edit]) -> Sequence[KeyGroup]:
    """Of each edit the facts that share its key."""
    return given.groups or [KeyGroup((edit,)) for edit in edits]


def locate(
    given: MethodInput,
    edits: Sequence[Edit],
    z_star_nm: Tensor,
    layer: int,
    updates: Sequence[WeightUpdate],
    texts: Encoded | None = None,
) -> Located:
    """Keys and residuals of `edits` at one layer, with `updates[i]` in force for edit i.

    `texts` are `encoded`'s, where they are there already. Only the bare ones run up to the last edited layer;
    those in the other contexts end at their keys.

    Raises:
        SolveError: a key or a residual is not finite.
        InvalidEdit: a subject is lost in tokenisation.
    """
    model, layout, last = given.model, given.layout, given.layers[-1]
    reader, texts = SubjectReader(model, layout, pad_token(given.tokenizer)), texts or encoded(given, edits)
    chats = texts.conversations

    def states(prompts: Sequence[EncodedPrompt], uniform: bool) -> list[Tensor]:
        found = reader.states(prompts, layer, last, uniform=uniform)
        return [found.keys, found.written, found.hidden]

    def keys(prompts: Sequence[EncodedPrompt], uniform: bool) -> list[Tensor]:
        return [reader.keys(prompts, layer, uniform=uniform)]

    bare_nd, written_nm, hidden_nm = gather(given, texts.contexts[0], updates, states)
    raw_nd = bare_nd.clone()
    for in_context in texts.contexts[1:]:
        raw_nd += gather(given, in_context, updates, keys)[0]
    chat_cnd = raw_nd.new_zeros(max(map(len, chats), default=0), *raw_nd.shape)
    if places := [(place, i) for i, some in enumerate(chats) for place in range(len(some))]:
        asked, owners = [chats[i][place] for place, i in places], [updates[i] for _, i in places]
        rows, columns = zip(*places, strict=True)
        chat_cnd[list(rows), list(columns)] = gather(given, asked, owners, keys)[0]
    left = last - layer + 1
    missing_nm = (z_star_nm.to(hidden_nm.device) - hidden_nm) / (left if given.spread == "linear" else left**0.5)
    for edit, finite in zip(edits, (raw_nd.isfinite().all(1) & missing_nm.isfinite().all(1)).tolist(), strict=True):
        if not finite:
            raise SolveError(
                f"edit '{edit.id}': its keys at layer {layer} or its value z* are not finite; leave it out, or choose "
                "other layers"
            )
    norm = layout.norm_after(model, layer)
    R_nm = missing_nm if norm is None else change_before_norm(norm, written_nm, missing_nm)
    contexts = len(given.prefixes)
    mean_nd = _mean(raw_nd, contexts, chat_cnd)
    return Located(mean_nd, raw_nd / contexts, bare_nd, R_nm.T, missing_nm, written_nm, contexts, chat_cnd)


def _mean(raw_nd: Tensor, contexts: int, chat_cnd: Tensor) -> Tensor:
    """Of the keys whose sum over contexts is given, and of the conversations' mean, where there are any."""
    if not len(chat_cnd):
        return raw_nd / contexts
    asked_n = chat_cnd.any(2).sum(0)
    chat_nd = chat_cnd.sum(0) / asked_n.clamp(min=1)[:, None]
    return (raw_nd + chat_nd) / (contexts + asked_n.clamp(max=1))[:, None]


def gather(
    given: MethodInput,
    prompts: Sequence[EncodedPrompt],
    updates: Sequence[WeightUpdate],
    read: Callable[[Sequence[EncodedPrompt], bool], list[Tensor]],
) -> list[Tensor]:
    """What `read` finds for each prompt, (n, ·) each: prompts of similar length are read together."""
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
