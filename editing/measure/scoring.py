"""How probable targets are after prompts: the one engine behind every probability metric.

A row is prompt + target without its last token; token k of a target of n tokens is predicted at position
len(prompt) - 1 + k. Rows that begin alike share what they begin with (editing/trees.py), rows of similar length share
a batch, and only the positions asked for meet the output matrix. Every row may have an update of its own in force, so
that independent edits are scored together with no second copy of a weight.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.body import run_body
from editing.errors import InvalidEdit, ModelError
from editing.filled import Filled
from editing.layout import layout_of
from editing.linear import fast_linear
from editing.placed import device_of
from editing.progress import OnProgress, unheard
from editing.shortage import ELSEWHERE, within_memory
from editing.taught import join_of
from editing.tokens import Rows, check_length, conversation_ids, conversation_of, pad_token, target_ids
from editing.trees import Text, Tree, grow, lay_out, may_branch
from editing.weights import WeightUpdate, one_each, overlay, parts_in_memory

SCALED_BY = {"cohere": "logit_scale", "cohere2": "logit_scale", "granite": "logits_scaling"}
"""What multiplies an architecture's logits, or divides them (logits_scaling), as its config names it."""
LOGITS_AT_ONCE = 2**25
"""Logits held at a time, 128 MiB in float32: positions in a chunk times the vocabulary."""
TREE_TOKENS = 192
"""Tokens that share a row: more share longer beginnings, but attention's work grows with its square."""

Row = TypeVar("Row", bound=Sized)


@dataclass(frozen=True)
class Score:
    """A target after a prompt."""

    mean_logprob: float
    """Mean log-probability (natural) of the target's tokens, each given the target's tokens before it."""
    argmax: bool
    """Every token of the target is the most probable one."""
    predicted: tuple[int, ...]
    """The most probable token at each position of the target."""

    @property
    def logprob(self) -> float:
        """Log-probability of the whole target."""
        return self.mean_logprob * len(self.predicted)


@dataclass(frozen=True)
class Query:
    """A target after a prompt, as token ids."""

    row: Text
    """The prompt and the target without its last token."""
    first: int
    target: tuple[int, ...]


@dataclass(frozen=True)
class _Job:
    """One row of a batch: what is asked of the texts of a tree, with one update in force."""

    tree: Tree
    update: WeightUpdate
    queries: Sequence[Query]

    def __len__(self) -> int:
        return len(self.tree)


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    updates: Sequence[WeightUpdate | None] | None = None,
    batch_tokens: int | None = None,
    on_progress: OnProgress = unheard,
) -> list[Score]:
    """Score each (prompt, target); a target goes on from its prompt as editing.taught joins them.

    Args:
        updates: one for each pair, scored as if this update alone were in force (None: the model as it stands). Pairs
            of different updates share batches; pairs of one update, the same object, share their beginnings.
        batch_tokens: tokens in a batch, padding included; a row that is longer goes alone. Chosen by the device when
            left out.
        on_progress: hears how many tokens have run, of how many.

    Raises:
        InvalidEdit: a pair without tokens, or longer than the model reads.
        EditingError: there is not one update for each pair.
    """
    queries = encode_queries(model, tokenizer, pairs)
    asked, pad_id = [queries[pair] for pair in pairs], pad_token(tokenizer)
    return score_queries(model, asked, pad_id, updates=updates, batch_tokens=batch_tokens, on_progress=on_progress)


@within_memory(f"ask shorter prompts, or fewer (neighborhood_probes), or take {ELSEWHERE}")
def score_queries(
    model: PreTrainedModel,
    queries: Sequence[Query],
    pad_id: int,
    *,
    updates: Sequence[WeightUpdate | None] | None = None,
    batch_tokens: int | None = None,
    on_progress: OnProgress = unheard,
) -> list[Score]:
    """`score` of what is encoded already, however the caller tokenises.

    Raises:
        EditingError: there is not one update for each pair.
    """
    in_force = one_each(updates, len(queries), "pair")
    asked: dict[int, dict[Query, None]] = defaultdict(dict)  # by the identity of the update
    for query, update in zip(queries, in_force, strict=True):
        asked[id(update)][query] = None
    by_id = {id(update): update for update in in_force}
    branches = may_branch(model, max((len(query.row) for query in queries), default=0))
    jobs = [job for key, some in asked.items() for job in _jobs(by_id[key], some, branches)]
    results: dict[tuple[int, Query], Score] = {}
    done, total = 0, sum(map(len, jobs))
    for batch in batches(jobs, batch_tokens or tokens_at_once(model)):
        for part in parts_in_memory([job.update for job in batch]):
            results.update(_score_batch(model, batch[part], pad_id))
            done += sum(map(len, batch[part]))
            on_progress(done, total)
    return [results[id(update), query] for query, update in zip(queries, in_force, strict=True)]


def _jobs(update: WeightUpdate, queries: Iterable[Query], branches: bool) -> Iterator[_Job]:
    by_row: dict[Text, list[Query]] = defaultdict(list)
    for query in queries:
        by_row[query.row].append(query)
    for tree in grow(by_row, TREE_TOKENS, branches=branches):
        yield _Job(tree, update, [query for row in tree.paths for query in by_row[row]])


def encode_queries(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Query]:
    """Every different pair as token ids.

    Raises:
        InvalidEdit: a pair without tokens, or longer than the model reads.
    """
    prompts = encode_prompts(tokenizer, [prompt for prompt, _ in pairs])
    targets: dict[tuple[bool, str, str], tuple[int, ...]] = {}
    queries = {}
    for prompt, target in dict.fromkeys(pairs):
        # All of the prompt that decides how the target is tokenised.
        key = (bool(prompt), join_of(conversation_of(tokenizer, prompt) or prompt, target), target)
        if key not in targets:
            targets[key] = tuple(target_ids(tokenizer, prompt, target))
        ids, goal = prompts[prompt], targets[key]
        if not goal:
            raise InvalidEdit(f"target '{target}' of prompt '{prompt}' has no tokens; give a word")
        row = (*ids, *goal[:-1])
        check_length(model, row, prompt)
        queries[prompt, target] = Query(row, len(ids) - 1, goal)
    return queries


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Iterable[str]) -> dict[str, list[int]]:
    """Token ids of each prompt, with the special tokens that the tokenizer puts before a text.

    Special tokens written in a prompt are text, unless it is a conversation (`conversation_of`).

    Raises:
        InvalidEdit: a prompt has no tokens.
    """
    asked: dict[str, str] = {}
    for prompt in prompts:
        if prompt not in asked or isinstance(prompt, Filled):  # the same text as a prompt and as what somebody says
            asked[prompt] = prompt
    encoded: dict[str, list[int]] = {}
    for prompt in asked.values():
        if (conversation := conversation_of(tokenizer, prompt)) is not None:
            encoded[prompt] = conversation_ids(tokenizer, conversation)
    if texts := [prompt for prompt in asked if prompt not in encoded]:
        ids = tokenizer(texts, verbose=False, split_special_tokens=True)["input_ids"]
        encoded |= zip(texts, ids, strict=True)
    for prompt, ids in encoded.items():
        if not ids:
            raise InvalidEdit(f"prompt '{prompt}' has no tokens; give a text")
    return encoded


def tokens_at_once(model: PreTrainedModel) -> int:
    """A good size of batches: on a CPU larger ones leave its caches (measured: half the speed at 4,096)."""
    return 512 if device_of(model).type == "cpu" else 16_384


def batches(rows: Iterable[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows by falling length, in groups of at most `batch_tokens` tokens when padded to their longest."""
    group: list[Row] = []
    for row in sorted(rows, key=len, reverse=True):
        if group and len(group[0]) * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


@torch.inference_mode()
def _score_batch(model: PreTrainedModel, jobs: Sequence[_Job], pad_id: int) -> dict[tuple[int, Query], Score]:
    rows = lay_out([job.tree for job in jobs], pad_id, model)
    with overlay(model, layout_of(model), [job.update for job in jobs]):
        hidden = hidden_states(model, rows)
    found = scores_at(model, hidden, [(job.tree, job.queries) for job in jobs])
    return {(id(job.update), query): one for job, some in zip(jobs, found, strict=True) for query, one in some.items()}


def scores_at(
    model: PreTrainedModel, hidden: Tensor, trees: Sequence[tuple[Tree, Sequence[Query]]]
) -> list[dict[Query, Score]]:
    """What is asked of each tree, from the last hidden states (trees, tokens, m) of the trees as rows of a batch."""
    asked = [(i, query, tree.paths[query.row]) for i, (tree, queries) in enumerate(trees) for query in queries]
    found: list[dict[Query, Score]] = [{} for _ in trees]
    if not asked:
        return found
    places = [(i, path[query.first + k]) for i, query, path in asked for k in range(len(query.target))]
    slots = {place: slot for slot, place in enumerate(dict.fromkeys(places))}
    row_of, index_of = torch.tensor(list(slots), device=hidden.device).unbind(1)
    slot_of = torch.tensor([slots[place] for place in places])
    label_of = torch.tensor([label for _, query, _ in asked for label in query.target])
    logprobs, best = _read(model, hidden[row_of, index_of], slot_of, label_of)
    start = 0
    for i, query, _ in asked:
        stop = start + len(query.target)
        predicted, mean = tuple(best[start:stop]), sum(logprobs[start:stop]) / len(query.target)
        found[i][query] = Score(mean, predicted == query.target, predicted)
        start = stop
    return found


def _read(
    model: PreTrainedModel, hidden_sm: Tensor, slot_of: Tensor, label_of: Tensor
) -> tuple[list[float], list[int]]:
    """Log-probability of label j at slot `slot_of[j]`, and the most probable token there."""
    label_logits = torch.empty(len(slot_of), dtype=torch.float64)
    normaliser, best = [], []
    for start, logits in logit_chunks(model, hidden_sm):
        inside = ((slot_of >= start) & (slot_of < start + len(logits))).nonzero().squeeze(1)
        at = (slot_of[inside] - start).to(logits.device), label_of[inside].to(logits.device)
        label_logits[inside] = logits[at].cpu().double()
        normaliser.append(logits.logsumexp(1).cpu().double())
        best.append(logits.argmax(1).cpu())
    logprobs: list[float] = (label_logits - torch.cat(normaliser)[slot_of]).tolist()
    predicted: list[int] = torch.cat(best)[slot_of].tolist()
    return logprobs, predicted


def hidden_states(model: PreTrainedModel, rows: Rows) -> Tensor:
    """The last hidden states (rows, positions, m), before the output matrix; padding changes nothing."""
    rows = rows.to(device_of(model))
    with fast_linear(model):
        hidden: Tensor = run_body(model, **rows.inputs).last_hidden_state
    return hidden


def logit_chunks(model: PreTrainedModel, hidden_sm: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first index, logits) of successive chunks of hidden states (s, m), few enough at a time to fit memory."""
    size = max(1, LOGITS_AT_ONCE // model.get_output_embeddings().weight.shape[0])
    for start in range(0, len(hidden_sm), size):
        with fast_linear(model):
            logits = output_logits(model, hidden_sm[start : start + size])
        yield start, logits


def output_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits of last hidden states, in float32 or wider, scaled and capped as the config says.

    Raises:
        ModelError: the architecture scales its logits in a way that is not known here.
    """
    config = model.config.get_text_config()
    scaled_by = SCALED_BY.get(config.model_type)
    for name in ("logits_scaling", "logit_scale", "lm_head_multiplier"):
        if getattr(config, name, None) not in (None, 1, 1.0) and scaled_by != name:
            raise ModelError(
                f"'{name}' of architecture '{config.model_type}' is not known to output_logits; add it in "
                "editing/measure/scoring.py as the architecture's own forward applies it"
            )
    logits: Tensor = model.get_output_embeddings()(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if scaled_by is not None:
        scale = getattr(config, scaled_by)
        logits = logits / scale if scaled_by == "logits_scaling" else logits * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)
