"""Portability and locality by the groups of a data set, as its authors score them.

- `tokens`, of KnowEdit (Zhang et al. 2024, https://arxiv.org/abs/2401.01286): the share of the first answer's tokens
  that are the most probable ones, with the answer's tokens before them given.
- `written`, of RippleEdits (Cohen et al. 2023, https://arxiv.org/abs/2307.12976): the text that the model writes holds
  one of the answers.
- `said`, of MQuAKE (Zhong et al. 2023, https://arxiv.org/abs/2305.14795): one of the wordings is answered by one of the
  answers, which is what the model begins to say.

A probe counts once, whatever its wordings; a group's number is the mean over the edits of the mean over their probes.
For locality KnowEdit compares with the model before: `tokens` is the share of the answer's tokens at which the most
probable token is the same.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from transformers import PreTrainedTokenizerBase

from editing.edit import Edit, Probe
from editing.measure.asking import Found, Numbers, Pair, Scores
from editing.tokens import target_ids

UNGROUPED: Final = "ungrouped"
WRITTEN_TOKENS: Final = 24


@dataclass(frozen=True)
class Portability:
    """What follows from a fact, by group."""

    tokenizer: PreTrainedTokenizerBase
    written: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What the model that is measured writes, by the edit's id and the prompt, where it was made to."""

    def prompts(self, edit: Edit) -> list[str]:
        """After which a text would have to be written."""
        return [prompt for probe in _answered(edit.portability) for prompt in (probe.prompt, *probe.wordings)]

    def pairs(self, edit: Edit) -> Sequence[Pair]:
        return _pairs(edit.portability)

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        return _by_group([(probe, self._numbers(edit, probe, now)) for probe in _answered(edit.portability)])

    def _numbers(self, edit: Edit, probe: Probe, now: Scores) -> Numbers:
        first = probe.prompt, str(probe.answer)
        wanted = target_ids(self.tokenizer, *first)
        numbers = {"said": _said(probe, now), "tokens": _share(now[first].predicted, wanted)}
        texts = [self.written.get((edit.id, prompt)) for prompt in (probe.prompt, *probe.wordings)]
        if any(text is not None for text in texts):
            # As the authors do: a single letter, of which aliases have some, would stand in any text.
            telling = [answer for answer in probe.answers if len(answer) > 1 or answer.isdigit()]
            numbers["written"] = float(any(answer in (text or "") for answer in telling for text in texts))
        return numbers


@dataclass(frozen=True)
class Locality:
    """What is to stay, by group; neighbors of no group are what the metrics measure."""

    def pairs(self, edit: Edit) -> Sequence[Pair]:
        return _pairs([probe for probe in edit.neighborhood if probe.group is not None])

    def read(self, edit: Edit, now: Scores, then: Scores | None) -> Found:
        probes = [probe for probe in _answered(edit.neighborhood) if probe.group is not None]
        return _by_group([(probe, self._numbers(probe, now, then)) for probe in probes])

    def _numbers(self, probe: Probe, now: Scores, then: Scores | None) -> Numbers:
        numbers = {"said": _said(probe, now)}
        if then is not None:
            first = probe.prompt, str(probe.answer)
            numbers["tokens"] = _share(now[first].predicted, then[first].predicted)
        return numbers


def _answered(probes: Sequence[Probe]) -> list[Probe]:
    return [probe for probe in probes if probe.answer is not None]


def _pairs(probes: Sequence[Probe]) -> list[Pair]:
    return [
        (prompt, answer)
        for probe in _answered(probes)
        for prompt in (probe.prompt, *probe.wordings)
        for answer in probe.answers
    ]


def _said(probe: Probe, now: Scores) -> float:
    return float(any(now[pair].argmax for pair in _pairs([probe])))


def _share(now: Sequence[int], wanted: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(now, wanted, strict=True)) / len(wanted)


def _by_group(numbers: Sequence[tuple[Probe, Numbers]]) -> Found:
    """The mean of each number over the probes of a group, and `probes`, how many these are."""
    groups: dict[str, list[Numbers]] = defaultdict(list)
    for probe, one in numbers:
        groups[probe.group or UNGROUPED].append(one)
    return {
        group: {name: sum(one[name] for one in some) / len(some) for name in some[0]} | {"probes": float(len(some))}
        for group, some in groups.items()
    }
