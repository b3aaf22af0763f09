"""Facts that share a key: no least squares can give one key two values, so they share one value z* instead.

Prompts that begin with the same text up to the subject's end have the same hidden states there ("{} lives in", "{}
works as"), whatever comes after. Their facts are one group: one δ is searched that makes the model say all of their
targets, and the solve has one column set for it. MEMIT-Merge (Dong et al., 2025,
https://arxiv.org/abs/2502.07322) is the published form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from editing.digests import canonical_json, sha256
from editing.edit import Edit
from editing.tokens import encode_in_context


def content_digest(edits: Sequence[Edit]) -> str:
    """What the value of facts that share a key is known by: what they say and how they are asked, in no order.

    Whatever else their requests hold is no part of it. A group that lost or gained a member has another one.
    """
    names = ("subject", "prompt", "target_new", "question")
    asked = ({name: getattr(edit, name) for name in names} | _joined(edit) for edit in edits)
    return sha256(sorted(canonical_json(one) + b"\n" for one in asked))


def _joined(edit: Edit) -> dict[str, str]:
    """What joins prompt and answer, where it is no space: facts were known before it could be anything else."""
    return {} if edit.joined_by == " " else {"join": edit.joined_by}


def canonical_order(edits: Sequence[Edit]) -> list[int]:
    """Numbers of the edits in the one order in which facts are written together, whatever order they came in."""
    return sorted(range(len(edits)), key=lambda number: (content_digest([edits[number]]), edits[number].id))


@dataclass(frozen=True)
class KeyGroup:
    """Facts that share a key, as they are written together."""

    edits: tuple[Edit, ...]
    live: tuple[Edit, ...] = ()
    """More of its facts, which stand in the weights already, with the value that they had without these."""

    @property
    def everyone(self) -> tuple[Edit, ...]:
        """All of its facts, oldest first."""
        return self.live + self.edits

    @property
    def weight(self) -> float:
        """What it counts in the least squares, and to the history: each of its facts as one."""
        return float(len(self.everyone))


class KeyNames:
    """What the keys of facts are functions of, for one model in its contexts; of each fact worked out once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prefixes: Sequence[str]) -> None:
        self._tokenizer, self._prefixes = tokenizer, prefixes
        self._known: dict[tuple[str, str], tuple[int, ...]] = {}

    def of(self, edit: Edit) -> tuple[int, ...]:
        """The tokens up to the subject's end.

        Raises:
            InvalidEdit: the subject is lost in tokenisation.
        """
        about = edit.subject, edit.prompt
        if about not in self._known:
            prompt = encode_in_context(self._tokenizer, self._prefixes, 0, edit.prompt, edit.subject)
            self._known[about] = prompt.ids[: prompt.subject_index + 1]
        return self._known[about]

    def groups(self, edits: Sequence[Edit]) -> list[tuple[int, ...]]:
        """Numbers of the edits by their key, groups in the order of their first members. Raises as `of` does."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, edit in enumerate(edits):
            groups.setdefault(self.of(edit), []).append(number)
        return [tuple(numbers) for numbers in groups.values()]

    def batches(self, edits: Sequence[Edit], size: int) -> list[tuple[Edit, ...]]:
        """The edits in batches of at most `size`, none of which cuts a group that it could hold; else in their order.

        A group that is cut is searched and written again with its other part. Raises as `of` does.
        """
        waiting, batches = [[edits[number] for number in group] for group in self.groups(edits)], list[list[Edit]]()
        while waiting:
            room = size - len(batches[-1]) if batches else 0
            fitting = next((place for place, group in enumerate(waiting) if len(group) <= room), None)
            if fitting is not None:
                batches[-1] += waiting.pop(fitting)
            else:
                batches.append(waiting[0][:size])
                waiting[0] = waiting[0][size:]
                waiting = waiting if waiting[0] else waiting[1:]
        return [tuple(batch) for batch in batches]

    def sharing(self, edits: Sequence[Edit], live: Sequence[Edit]) -> list[Edit]:
        """Those of the live facts that share a key with one of the edits. Raises as `of` does."""
        names = {self.of(edit) for edit in edits}
        return [edit for edit in live if self.of(edit) in names]
