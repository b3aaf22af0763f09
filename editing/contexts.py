"""Contexts: sampled beginnings before which a fact must hold too, and text that a model samples from itself."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.measure.fluency import generate, uniform_draws, write
from editing.progress import OnProgress, unheard
from editing.token_rows import TokenRow

OPENINGS = ("The", "Therefore", "Because", "I", "You")
"""First words of sampled contexts, as in MEMIT's implementation."""
TEXT_OPENINGS = (
    "The", "In", "He was born in", "The city of", "According to", "She", "It is known that", "A", "During the",
    "The company", "Its capital", "They speak", "The first", "On the other hand,", "The history of", "Scientists",
    "Music", "When", "The player", "My", "As a result", "This", "For example,", "His mother", "The language",
    "One of the most", "Located in", "The president", "Many people", "At the end of", "Water", "How to",
)  # fmt: skip
"""First words of self-sampled text: common ones, so that what follows is spread over the model's knowledge."""
ROWS_A_SEED = 64
"""Rows of sampled text that are drawn from one seed: that of the text and the number of rows before them."""
TEXT_TOKENS = 64
TEXT_TOP_K = 1000
APPENDED_WORDS = 32
WORD_BEGINS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies mark a token that begins a word."""
SHORTEST_WORD = 4


def context_prefixes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    tokens: int,
    seed: int,
    on_progress: OnProgress = unheard,
) -> list[str]:
    """`count` prefixes, the empty one first; the others are sampled sentences that end in a full stop and a space.

    `on_progress` hears the tokens done, and of how many.
    """
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(count - 1)]
    if not openings:
        return [""]
    sampled = generate(model, tokenizer, openings, tokens, seed=seed, on_progress=on_progress)
    texts = [_plain(opening + continued) for opening, continued in zip(openings, sampled, strict=True)]
    return ["", *(f"{text}. " for text in texts)]


@dataclass(frozen=True)
class SampledRow:
    """A row of text that the model sampled."""

    text: str
    ids: list[int]
    """Its tokens, those of the opening first."""
    others: list[list[int]]
    """For each token those that might as well stand in its place: none where it was not drawn."""


def sample_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[int],
    seed: int,
    alternatives: int = 0,
    on_progress: OnProgress = unheard,
) -> list[SampledRow]:
    """Text that the model samples itself: the rows of these numbers, of up to 64 tokens each, in one go.

    Row by row what comes is a function of the seed and the row's number, whichever others are sampled with it (but for
    the rounding of another batch size); the text is the same with `alternatives` and without, tokens drawn beside each
    of its own from the same distribution. `on_progress` hears the tokens done, and of how many.

    Each text begins with a common opening and a word of the vocabulary, drawn alike from frequent and rare ones: left
    to itself a small model writes about few things. Measured on SmolLM2-135M with a hundred edits: perplexity x1.020,
    and x1.023 without the words.
    """
    words = _words(tokenizer)
    begun = _begun(list(words.values()) or [""], rows, seed, alternatives)
    openings = [begun[row][0] for row in rows]
    draws = torch.stack([begun[row][1] for row in rows])
    written = write(model, tokenizer, openings, TEXT_TOKENS, draws, top_k=TEXT_TOP_K, on_progress=on_progress)
    found = []
    for row, opening, one in zip(rows, openings, written, strict=True):
        text = opening + tokenizer.decode(one.ids, skip_special_tokens=True)
        others: list[list[int]] = [[] for _ in one.prompt]
        if alternatives and len(one.prompt) > 1 and one.prompt[-1] in words:  # the word of the opening
            others[-1] = random.Random(f"{seed} {row}").choices(list(words), k=alternatives)
        found.append(SampledRow(text, [*one.prompt, *one.ids], [*others, *one.others]))
    return found


def _begun(words: Sequence[str], rows: Sequence[int], seed: int, alternatives: int) -> dict[int, tuple[str, Tensor]]:
    """Of each row, and of those that share a seed with it, the opening and the random numbers."""
    begun: dict[int, tuple[str, Tensor]] = {}
    for first in sorted({row - row % ROWS_A_SEED for row in rows}):
        drawn = random.Random(seed + first).choices(words, k=ROWS_A_SEED)
        openings = [f"{TEXT_OPENINGS[i % len(TEXT_OPENINGS)]} {word}".rstrip() for i, word in enumerate(drawn)]
        draws = uniform_draws(openings, TEXT_TOKENS, seed + first, alternatives)
        begun |= {first + i: (opening, draws[i]) for i, opening in enumerate(openings)}
    return begun


def append_words(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], seed: int) -> list[str]:
    """The texts, each with 32 words of the vocabulary after it, all words alike often.

    Facts are about names, and a model by itself writes few of them: keys of rare words would be free to be changed.
    Measured on SmolLM2-135M with a hundred edits: perplexity x1.0171, and x1.0196 without them.
    """
    words = list(_words(tokenizer).values()) or [""]
    order = cycle(random.Random(seed).sample(words, len(words)))
    return [" ".join([text, *islice(order, APPENDED_WORDS)]).rstrip() for text in texts]


def append_word_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[SampledRow], seed: int, alternatives: int
) -> list[TokenRow]:
    """The same of tokens: each word is one, and at each stand so many other words that might be in its place."""
    words = list(_words(tokenizer))
    order, drawn = cycle(random.Random(seed).sample(words, len(words))), random.Random(f"{seed} others")
    found = []
    for row in rows:
        appended = list(islice(order, APPENDED_WORDS))
        others = [drawn.choices(words, k=alternatives) for _ in appended]
        found.append(TokenRow([*row.ids, *appended], [*row.others, *others]))
    return found


def _words(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """What of the vocabulary is a word of its own, by rising id."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    begins = [i for i, token in enumerate(tokens) if token and token[0] in WORD_BEGINS]
    words = ((i, tokenizer.decode([i]).strip()) for i in begins)
    return {i: word for i, word in words if len(word) >= SHORTEST_WORD and word.isalpha()}


def _plain(text: str) -> str:
    """One line without braces or a closing stop: a prefix must not look like a template."""
    return " ".join(text.replace("{", " ").replace("}", " ").split()).rstrip(" .")
