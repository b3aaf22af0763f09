"""The rows of a verdict that count at the single request: what it says, and what its neighbors lost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from editing.measure.answers import Answer
from editing.measure.said import Said
from tasks.report.data import Check
from tasks.text import visible
from tasks.update.gates import Tripwire, Tripwires, applies
from tasks.update.measured import Lost, Measured

SHOWN = 60
"""Characters of an answer that a reason gives."""


@dataclass(frozen=True)
class _Count:
    """How often a request did what it may not, of how many times it was asked, and the sentence for it."""

    wrong: int
    asked: int
    reason: str


def tripwire_rows(measured: Measured, tripwires: Tripwires, at: Literal["batch", "job"]) -> Iterator[Check]:
    """Of each tripwire the requests that trip it, or else one row for all of them; none where nobody asked."""
    for name in Tripwires.model_fields:
        wire: Tripwire | None = getattr(tripwires, name)
        if wire is None or not applies(wire.when, at):
            continue
        counts = {key: count for key, count in _counts(name, measured) if count.asked}
        over = {key: count for key, count in counts.items() if count.wrong > wire.most}
        measure = {"neighbors": "neighbors_lost"}.get(name, name)
        shared = {"measure": measure, "limit": wire.most, "field": f"tripwires.{name}", "then": wire.then}
        shared["kind"] = "tripwire"
        for key, count in over.items():
            reason = f"request '{key}': {count.reason}"
            if name in Tripwires.COUNTS:
                reason += f", tripwires.{name}.most is {wire.most}"
            yield Check.model_validate(
                shared
                | {
                    "value": count.wrong,
                    "sample": count.asked,
                    "holds": False,
                    "reason": reason,
                    "request_id": key,
                }
            )
        if counts and not over:
            worst = max(counts.values(), key=lambda count: count.wrong)
            several = name in Tripwires.COUNTS
            sample = worst.asked if several else len(counts)
            yield Check.model_validate(shared | {"value": worst.wrong, "sample": sample, "holds": True})


def _counts(name: str, measured: Measured) -> Iterator[tuple[str, _Count]]:
    if name == "neighbors":
        yield from _neighbors(measured.lost)
        return
    for key, said in measured.said.items():
        yield key, _of_said(name, said)


def _neighbors(lost: Mapping[str, Lost]) -> Iterator[tuple[str, _Count]]:
    for key, here in lost.items():
        _, down, asked, what = max(here.counts(), key=lambda count: count[1])
        yield key, _Count(max(down, 0), asked, f"{down} of {asked} {what}")


def _of_said(name: str, said: Said) -> _Count:
    if name == "said_paraphrases":
        wrong = sum(not one.right for one in said.paraphrases)
        return _Count(wrong, len(said.paraphrases), f"{wrong} of {len(said.paraphrases)} paraphrases do not say it")
    answer, where = (said.prompt, "it says") if name == "said" else (said.chat, "in the chat it says")
    if answer is None or (name == "said" and said.chat is not None):  # of a line of the chat that is what is heard
        return _Count(0, 0, "")
    wrong, why = (answer.old, "the old answer") if name == "old_chat" else (not answer.right, _why(answer))
    return _Count(int(wrong), 1, f"{where} {_shown(answer.text)}: {why}")


def _why(answer: Answer) -> str:
    if not answer.new:
        return "not the new answer"
    return "the old answer, too" if answer.old else "another answer, too"


def _shown(text: str) -> str:
    line = " ".join(visible(text).split())
    return f"'{line if len(line) <= SHOWN else line[:SHOWN] + '…'}'"
