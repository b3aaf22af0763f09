"""Kinds of new answers: the more tokens one has, and the stranger they are together, the harder it is to write."""

import re
from typing import Final

from transformers import PreTrainedTokenizerBase

from editing.edit import Edit
from editing.tokens import target_ids

KINDS: Final = ("single", "multi", "coined")
PIECES = 3
"""Tokens of one word from which on it counts as coined: the tokenizer never saw it often enough to have it whole."""
_WORD = re.compile(r"\w+")


def answer_kind(tokenizer: PreTrainedTokenizerBase, edit: Edit) -> str:
    """`single`: one token; `coined`: a word of it takes three tokens or more; `multi`: all others."""
    if len(target_ids(tokenizer, edit.text, edit.target_new)) == 1:
        return "single"
    words = _WORD.findall(edit.target_new)
    return "coined" if any(len(target_ids(tokenizer, edit.text, word)) >= PIECES for word in words) else "multi"
