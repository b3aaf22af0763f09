"""The rows of a verdict that count at the single request: what it says, and what its neighbors lost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.report.data import Check
from tasks.text import visible
from tasks.update.gates import Tripwire, Tripwires, applies
from tasks.update.measured import Lost, Measured, Said

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
        if said is not None:
            yield key, _of_said(name, said)


def _neighbors(lost: Mapping[str, Lost]) -> Iterator[tuple[str, _Count]]:
    for key, here in lost.items():
        _, down, asked, what = max(here.counts(), key=lambda count: count[1])
        yield key, _Count(max(down, 0), asked, f"{down} of {asked} {what}")


def _of_said(name: str, said: Said) -> _Count:
    if name == "said_paraphrases":
        wrong = said.paraphrases.count(False)
        return _Count(wrong, len(said.paraphrases), f"{wrong} of {len(said.paraphrases)} paraphrases do not say it")
    if name == "old_chat":
        reason = f"the old answer is still there in the chat: {_shown(said.chat_text)}"
        return _Count(int(bool(said.old_chat)), int(said.old_chat is not None), reason)
    right, where, text = (
        (said.chat, "in the chat it", said.chat_text) if name == "said_chat" else (said.prompt, "it", said.text)
    )
    return _Count(int(right is False), int(right is not None), f"{where} says {_shown(text)}, not the new answer alone")


def _shown(text: str) -> str:
    line = " ".join(visible(text).split())
    return f"'{line if len(line) <= SHOWN else line[:SHOWN] + '…'}'"
