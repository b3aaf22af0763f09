"""What searched values are known by: everything that they are a function of, whoever searches them and wherever.

Values that are searched in one batch of rows are a chunk: their last bits depend on what else is in it.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from editing.chat import LONG, questions_of
from editing.config import LocatingConfig
from editing.digests import json_digest
from editing.edit import SLOT, Edit
from editing.methods.shared.interface import MethodInput
from editing.progress import OnProgress
from editing.search.rows import CHAT_WEIGHT, TURNS
from editing.search.values import BY_TURNS, LONGER, SHORT
from tasks.update import kept

VALUES_VERSION = 3
"""Counts the changes of what a value search finds for one configuration; cached values of another are not used."""


def about_value(given: MethodInput, base: str, config: LocatingConfig, edits: Sequence[Edit]) -> list[object]:
    """What the value of edits that share a key is a function of, on the base of this digest: JSON's own types."""
    search = {
        "version": VALUES_VERSION,
        "search": config.search.model_dump(exclude={"edits_at_once"}),
        "layer": given.layers[-1],
        "prefixes": given.prefixes,
    }
    if given.layout.post_norm is not None:
        search["before the norm"] = 1  # counts the changes of what is found where one follows the layer
    chat, stated = given.chat, []
    if chat is not None:
        search["chat"], search["turns"] = chat.prompt(SLOT), [TURNS, BY_TURNS, CHAT_WEIGHT]
        if any(len(chat.target_ids(edit)) >= LONG for edit in edits):
            search["answers"] = ["with their end", SHORT, LONGER]
    if len(edits) > 1:
        search["together"] = 1  # counts the changes of how values are found that facts share
    for edit in edits:
        said = {name: getattr(edit, name) for name in ("subject", "prompt", "target_new", "join")}
        fact = Edit(id="value", **said)
        asked = {} if chat is None else {"asked": questions_of(edit)}
        stated.append(kept.content_of(given.tokenizer, fact, **asked))
    return [base, search, *stated]


Groups = Sequence[Sequence[Edit]]
"""Facts by their key: those of a group have one value."""
Search = Callable[[Sequence[Edit], OnProgress], Tensor]
"""z* of each edit (n, m), those that share a key the same; the second hears how far it is, of how much."""


def chunk_name(tokenizer: PreTrainedTokenizerBase, abouts: Sequence[object], groups: Groups) -> str:
    """What the values of a chunk are known by, of which `abouts` are what each is a function of.

    The tokens stand in it, too: two machines may read one text by different tokenizers.
    """
    tokens = [tokenizer(edit.taught, verbose=False)["input_ids"] for edit in chain.from_iterable(groups)]
    return json_digest([list(abouts), tokens])


def search_chunk(search: Search, groups: Groups, on_progress: OnProgress) -> Tensor:
    """The values of a chunk, (groups, m) float32, searched now."""
    values = search(list(chain.from_iterable(groups)), on_progress)
    return torch.stack([values[end - 1] for end in accumulate(map(len, groups))])
