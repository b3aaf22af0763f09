"""Contexts: sampled beginnings before which a fact must hold too, and text that a model samples from itself."""

from collections.abc import Callable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.fluency import generate

OPENINGS = ("The", "Therefore", "Because", "I", "You")
"""First words of sampled contexts, as in MEMIT's implementation."""
TEXT_OPENINGS = (
    "The", "In", "He was born in", "The city of", "According to", "She", "It is known that", "A", "During the",
    "The company", "Its capital", "They speak", "The first", "On the other hand,", "The history of", "Scientists",
    "Music", "When", "The player", "My", "As a result", "This", "For example,", "His mother", "The language",
    "One of the most", "Located in", "The president", "Many people", "At the end of", "Water", "How to",
)  # fmt: skip
"""First words of self-sampled text: common ones, so that what follows is spread over the model's knowledge."""
ROWS_AT_ONCE = 32
TEXT_TOKENS = 64
TEXT_TOP_K = 1000


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
    """About `tokens` tokens of text that the model samples itself, in rows of 64 tokens, seeded."""
    texts: list[str] = []
    while len(texts) * TEXT_TOKENS < tokens:
        openings = [TEXT_OPENINGS[i % len(TEXT_OPENINGS)] for i in range(ROWS_AT_ONCE)]
        sampled = generate(model, tokenizer, openings, TEXT_TOKENS, seed=seed + len(texts), top_k=TEXT_TOP_K)
        texts += [opening + continued for opening, continued in zip(openings, sampled, strict=True)]
        on_progress(len(texts) * TEXT_TOKENS)
    return texts


def _plain(text: str) -> str:
    """One line without braces or a closing stop: a prefix must not look like a template."""
    return " ".join(text.replace("{", " ").replace("}", " ").split()).rstrip(" .")
