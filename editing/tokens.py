"""Prompts as token ids: where the subject ends, how a target goes on, how rows of unequal length are laid out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from editing.edit import Edit, filled
from editing.errors import InvalidEdit, ModelError
from editing.filled import Filled
from editing.taught import join_of

LINE_BREAK = "\n"


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt with its subject filled in."""

    ids: tuple[int, ...]
    subject_index: int
    """Index in `ids` of the token that holds the subject's last character."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prefix: str, prompt: str, subject: str) -> EncodedPrompt:
    """Token ids of `prefix + prompt` with the subject filled in, and where the subject ends.

    The place comes from character offsets, so it is right for a subject that stands in the text twice, ends inside a
    token, or has letters that take several tokens. Before a prompt that is a conversation nothing is put.

    Raises:
        InvalidEdit: no token holds the subject's last character.
    """
    if (conversation := conversation_of(tokenizer, filled(prompt, subject))) is not None:
        return encode_conversation(tokenizer, conversation, conversation.spans[0][1] - 1, subject)
    text = filled(prompt, subject, prefix)
    return encode_text(tokenizer, text, text.spans[0][1] - 1, subject, split_special_tokens=True)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, text: Filled, last_character: int, subject: str
) -> EncodedPrompt:
    """Token ids of a conversation, in which special tokens count but for what was filled in, and its subject's place.

    Raises:
        InvalidEdit: no token holds that character.
    """
    if not _said_specially(tokenizer, text):
        return encode_text(tokenizer, text, last_character, subject, add_special_tokens=_begins(tokenizer, text))
    ids, place, at = conversation_ids(tokenizer, text), 0, 0
    for (piece, said), own in zip(text.pieces, _ids_of_pieces(tokenizer, text), strict=True):
        if said and at <= last_character < at + len(piece):
            options = {"add_special_tokens": False, "split_special_tokens": True}
            place += encode_text(tokenizer, piece, last_character - at, subject, **options).subject_index
            break
        at, place = at + len(piece), place + len(own)
    return EncodedPrompt(tuple(ids), place)


def conversation_ids(tokenizer: PreTrainedTokenizerBase, text: Filled) -> list[int]:
    """Token ids of a conversation, in which special tokens count but for what was filled in."""
    if _said_specially(tokenizer, text):
        return [token for ids in _ids_of_pieces(tokenizer, text) for token in ids]
    ids: list[int] = tokenizer(text, verbose=False, add_special_tokens=_begins(tokenizer, text))["input_ids"]
    return ids


def _said_specially(tokenizer: PreTrainedTokenizerBase, text: Filled) -> bool:
    return any(said and holds_special(tokenizer, piece) for piece, said in text.pieces)


def _ids_of_pieces(tokenizer: PreTrainedTokenizerBase, text: Filled) -> list[list[int]]:
    """Each piece by itself: text whose special tokens count stands beside text."""
    found: list[list[int]] = []
    for piece, said in text.pieces:
        begins = not found and _begins(tokenizer, text)
        encoded: Any = tokenizer(piece, verbose=False, add_special_tokens=begins, split_special_tokens=said)
        found.append(list(encoded["input_ids"]) if piece else [])
    return found


def conversation_of(tokenizer: PreTrainedTokenizerBase, text: str) -> Filled | None:
    """A prompt that is rendered already: it holds the template's own tokens beside what was filled in; None: text.

    Prompts of requests lose their last line break, after which the assistant begins: here it is again.
    """
    if not isinstance(text, Filled) or text.rendered:
        return text if isinstance(text, Filled) else None
    if not any(is_rendered(tokenizer, piece) for piece, said in text.pieces if not said):
        return None
    asked = _some_conversation(tokenizer)
    ending = asked.removeprefix(_some_conversation(tokenizer, answered=False))
    whole = text + ending[len(ending.rstrip()) :] if text.endswith(ending.rstrip()) else text
    return Filled(whole, *text.spans, rendered=True, joined_by=text.joined_by)


def is_rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text holds special tokens that the tokenizer's template puts around what is said."""
    if not tokenizer.chat_template or not holds_special(tokenizer, text):
        return False
    around = _some_conversation(tokenizer)
    return any(token in text for token in _special(tokenizer) if token in around)


def holds_special(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text holds a special token, those included that have no part of their own, as Llama 3's header."""
    return any(token in text for token in _special(tokenizer))


def _special(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _begins(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a conversation lacks the beginning of text that its template would have put there."""
    begin = tokenizer.bos_token
    return bool(begin) and not text.startswith(begin) and _some_conversation(tokenizer).startswith(begin)


def _some_conversation(tokenizer: PreTrainedTokenizerBase, answered: bool = True) -> str:
    """How every one of them begins and ends, up to where it is answered; '' where there is no template."""
    if not tokenizer.chat_template:
        return ""
    said = [{"role": "user", "content": "?"}]
    return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=answered))


def encode_text(
    tokenizer: PreTrainedTokenizerBase, text: str, last_character: int, subject: str, **options: bool
) -> EncodedPrompt:
    """Token ids of a text whose subject ends with this character; `options` are the tokenizer's.

    Raises:
        InvalidEdit: no token holds that character.
    """
    encoding = tokenizer(text, return_offsets_mapping=True, **options)
    covering = [index for index, (start, end) in enumerate(encoding["offset_mapping"]) if start <= last_character < end]
    if not covering:
        raise InvalidEdit(
            f"subject '{subject}' is lost when '{text}' is tokenised; write it without unusual characters"
        )
    return EncodedPrompt(tuple(encoding["input_ids"]), covering[-1])


def encode_in_context(
    tokenizer: PreTrainedTokenizerBase, prefixes: Sequence[str], number: int, prompt: str, subject: str
) -> EncodedPrompt:
    """`encode_prompt` after the prefix of that number; never with the subject at the very first token of the text.

    Attention collects at a text's first token, whose hidden state is many times larger than any other and much the
    same whatever the token: a change there reaches every text (measured: one such edit of fifty raised perplexity by
    five per cent). Where nothing stands before the subject, the next prefix takes the place of the bare prompt.
    """
    found = encode_prompt(tokenizer, prefixes[number], prompt, subject)
    if found.subject_index == 0 and len(prefixes) > 1:
        return encode_prompt(tokenizer, prefixes[1], prompt, subject)
    return found


def target_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str) -> list[int]:
    """Token ids of `target` as it goes on from `prompt`, with what joins them.

    Some tokenizers (Llama 2, Mistral, Phi-3) put a space before every text, which a target does not begin: it is
    tokenised after a line break, whose own tokens are taken off.
    """
    prompt = conversation_of(tokenizer, prompt) or prompt
    gap = join_of(prompt, target)
    as_text = {"add_special_tokens": False, "split_special_tokens": True}
    start: list[int] = tokenizer(LINE_BREAK, **as_text)["input_ids"]
    ids: list[int] = tokenizer(LINE_BREAK + gap + target, **as_text)["input_ids"]
    if prompt and ids[: len(start)] == start:
        return ids[len(start) :]
    alone: list[int] = tokenizer(gap + target, **as_text)["input_ids"]
    return alone


def check_length(model: PreTrainedModel, row: Sequence[int], prompt: str, with_target: bool = True) -> None:
    """Raises InvalidEdit for a row, of a prompt and its target or of a prompt alone, longer than the model reads."""
    limit = max_positions(model)
    if limit is not None and len(row) > limit:
        also = " with its target" if with_target else ""
        raise InvalidEdit(f"prompt '{prompt[:80]}' takes {len(row)} tokens{also}, the model reads {limit}; shorten it")


def max_positions(model: PreTrainedModel) -> int | None:
    """How many tokens the model reads, where its config tells."""
    return positions_in(model.config)


def positions_in(config: PreTrainedConfig) -> int | None:
    """The same of a model that is not loaded."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None


def check_edit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edit: Edit, room: int = 64) -> None:
    """Raises InvalidEdit if the edit cannot be carried out on this model; `room` tokens are kept for contexts."""
    encoded = encode_prompt(tokenizer, "", edit.prompt, edit.subject)
    target = target_ids(tokenizer, edit.text, edit.target_new)
    if not target:
        raise InvalidEdit(f"edit '{edit.id}': target '{edit.target_new}' has no tokens; give a word")
    limit = max_positions(model)
    length = len(encoded.ids) + len(target) + room
    if limit is not None and length > limit:
        raise InvalidEdit(
            f"edit '{edit.id}': prompt and target take {length - room} tokens, the model reads {limit} and "
            f"{room} are kept for contexts; shorten the prompt"
        )


def check_edits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], prefixes: Sequence[str]
) -> None:
    """Raises InvalidEdit if one of the edits cannot be carried out on this model in these contexts."""
    room = max(len(tokenizer(prefix)["input_ids"]) for prefix in prefixes)
    for edit in edits:
        check_edit(model, tokenizer, edit, room)


def leave_end_off(tokenizer: PreTrainedTokenizerBase) -> None:
    """Keep a tokenizer from ending every text with a token of its own: what is asked after it goes on from nothing."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    if not special or not special[-1]:
        return
    begin = [tokenizer.convert_ids_to_tokens(one) for one in ids[: special.index(0)]] if 0 in special else []
    named = [(token, tokenizer.convert_tokens_to_ids(token)) for token in begin]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*begin, "$A"], pair=[*begin, "$A", "$B:1"], special_tokens=named
    )


def check_offsets(reference: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelError for a tokenizer that does not tell which characters a token stands for."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of model '{reference}' ({type(tokenizer).__name__}) does not tell where in a text its "
            "tokens stand, by which a subject is found; save one that does (a 'fast' one, a tokenizer.json) beside it"
        )


@dataclass(frozen=True)
class Rows:
    """Rows of unequal length in one rectangle: padded on both sides so that every anchor stands in one column."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    anchor: int

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a pass over the whole rows is given."""
        return {name: getattr(self, name) for name in ("input_ids", "attention_mask", "position_ids")}

    def to(self, device: torch.device) -> "Rows":
        return Rows(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.position_ids.to(device),
            self.anchor,
        )


def align_rows(rows: Sequence[Sequence[int]], anchors: Sequence[int], pad_id: int) -> Rows:
    """Lay out `rows` so that token `anchors[i]` of row i stands in the same column for all.

    Padding is masked, and positions count from each row's first real token, so a row gives what it gives alone.
    """
    left = max(anchors)
    right = max(len(row) - anchor for row, anchor in zip(rows, anchors, strict=True))
    shape = (len(rows), left + right)
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    for i, (row, anchor) in enumerate(zip(rows, anchors, strict=True)):
        start = left - anchor
        input_ids[i, start : start + len(row)] = torch.tensor(row)
        mask[i, start : start + len(row)] = 1
    return Rows(input_ids, mask, (mask.cumsum(1) - 1).clamp(min=0), left)


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """A valid id for padding; it is always masked, so which one does not matter."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return candidate
    return 0
