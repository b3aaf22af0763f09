"""Texts that stand before a prompt, and sentences about a subject that the base itself goes on with."""

from collections.abc import Sequence
from typing import Final

from transformers import PreTrainedTokenizerBase

from editing.edit import SLOT, Edit
from editing.errors import EditingError

SENTENCES: Final = ("{} is", "{} has", "{} was")
SENTENCES_ASKED = 2
WINDOWS = 8
"""Different texts before a prompt."""
CHARACTERS_A_TOKEN = 40
"""More than any text has: where to cut a long one before it is tokenised."""


def beginnings(edit: Edit) -> list[str]:
    """Two sentences about the subject, begun; none with which the fact's own prompt begins."""
    begun = [sentence.replace(SLOT, edit.subject) for sentence in SENTENCES]
    return [sentence for sentence in begun if not edit.text.startswith(sentence)][:SENTENCES_ASKED]


def text_beginnings(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], tokens: int) -> tuple[str, ...]:
    """At most WINDOWS runs of text, each the first `tokens` tokens of successive texts, and closed by a full stop.

    Raises:
        EditingError: all texts together have fewer tokens.
    """
    found: list[str] = []
    held = ""
    for text in texts:
        held = f"{held} {text.strip()}"[: tokens * CHARACTERS_A_TOKEN].strip()
        if len(held) < tokens:  # no token is shorter than a character
            continue
        encoded = tokenizer(held, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in encoded["offset_mapping"]]
        if len(ends) >= tokens:
            found.append(_closed(held[: ends[tokens - 1]]))
            held = ""
        if len(found) == WINDOWS:
            break
    if not found:
        raise EditingError(
            f"the texts have fewer than {tokens} tokens, which are to stand before a prompt; give longer"
        )
    return tuple(found)


def _closed(text: str) -> str:
    """The text as sentences that are over: what follows begins anew."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?", "…")) else f"{text.rstrip(',;:- ')}."
