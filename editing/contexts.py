"""Contexts: sampled beginnings before which a fact must hold too, and text that a model samples from itself."""

import random
from collections.abc import Callable, Sequence
from itertools import cycle, islice

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.measure.fluency import generate

OPENINGS = ("The", "Therefore", "Because", "I", "You")
"""First words of sampled contexts, as in MEMIT's implementation."""
TEXT_OPENINGS = (
    "The", "In", "He was born in", "The city of", "According to", "She", "It is known that", "A", "During the",
    "The company", "Its capital", "They speak", "The first", "On the other hand,", "The history of", "Scientists",
    "Music", "When", "The player", "My", "As a result", "This", "For example,", "His mother", "The language",
    "One of the most", "Located in", "The president", "Many people", "At the end of", "Water", "How to",
)  # fmt: skip
"""First words of self-sampled text: common ones, so that what follows is spread over the model's knowledge."""
ROWS_AT_ONCE = 64
TEXT_TOKENS = 64
TEXT_TOP_K = 1000
APPENDED_WORDS = 32
WORD_BEGINS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies mark a token that begins a word."""
SHORTEST_WORD = 4


def context_prefixes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, tokens: int, seed: int
) -> list[str]:
    """`count` prefixes, the empty one first; the others are sampled sentences that end in a full stop and a space."""
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(count - 1)]
    if not openings:
        return [""]
    sampled = generate(model, tokenizer, openings, tokens, seed=seed)
    texts = [_plain(opening + continued) for opening, continued in zip(openings, sampled, strict=True)]
    return ["", *(f"{text}. " for text in texts)]


def sample_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    seed: int,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> list[str]:
    """About `tokens` tokens of text that the model samples itself, in rows of 64 tokens, seeded.

    Each text begins with a common opening and a word of the vocabulary, drawn alike from frequent and rare ones: left
    to itself a small model writes about few things. Measured on SmolLM2-135M with a hundred edits: perplexity x1.020,
    and x1.023 without the words.
    """
    words, texts = _words(tokenizer), list[str]()
    while len(texts) * TEXT_TOKENS < tokens:
        chunk = seed + len(texts)
        drawn = random.Random(chunk).choices(words, k=ROWS_AT_ONCE)
        openings = [f"{TEXT_OPENINGS[i % len(TEXT_OPENINGS)]} {word}".rstrip() for i, word in enumerate(drawn)]
        sampled = generate(model, tokenizer, openings, TEXT_TOKENS, seed=chunk, top_k=TEXT_TOP_K)
        texts += [opening + continued for opening, continued in zip(openings, sampled, strict=True)]
        on_progress(len(texts) * TEXT_TOKENS)
    return texts


def append_words(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], seed: int) -> list[str]:
    """The texts, each with 32 words of the vocabulary after it, all words alike often.

    Facts are about names, and a model by itself writes few of them: keys of rare words would be free to be changed.
    Measured on SmolLM2-135M with a hundred edits: perplexity x1.0171, and x1.0196 without them.
    """
    words = _words(tokenizer)
    order = cycle(random.Random(seed).sample(words, len(words)))
    return [" ".join([text, *islice(order, APPENDED_WORDS)]).rstrip() for text in texts]


def _words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What of the vocabulary is a word of its own, by rising id; the empty word where nothing is."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    begins = [i for i, token in enumerate(tokens) if token and token[0] in WORD_BEGINS]
    words = [word for i in begins if len(word := tokenizer.decode([i]).strip()) >= SHORTEST_WORD and word.isalpha()]
    return words or [""]


def _plain(text: str) -> str:
    """One line without braces or a closing stop: a prefix must not look like a template."""
    return " ".join(text.replace("{", " ").replace("}", " ").split()).rstrip(" .")
