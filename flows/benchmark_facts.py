"""The facts of a benchmark file: which, in which order, and which belong together."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editing.edit import PROBES, Edit, shown
from editing.errors import ReadError, UsageError
from editing.readers import BadRecord, good_and_bad
from editing.request import with_join
from tasks.ledger.reading import SHOWN_REASONS, Read, judged, left_out, read_cases_of, shortened, worth_saying
from tasks.progress import note


@dataclass(frozen=True)
class Facts:
    """What is edited, in its order."""

    edits: list[Edit]
    beside: dict[str, tuple[Edit, ...]] = field(default_factory=dict)
    """By the id of a record's last fact, what is edited before it: its questions ask for all of them."""
    read: int = 0
    """Records of the file."""
    left_out: list[BadRecord] = field(default_factory=list)
    """Those of them that are no edit."""
    not_used: list[str] = field(default_factory=list)
    """Which of its fields have no place."""
    findings: list[str] = field(default_factory=list)
    """What was left out of the edits, or should be looked at."""

    @property
    def told(self) -> dict[str, Any]:
        """What of the file was used and what was not, for the result."""
        return {
            "records": self.read,
            "left_out": {"records": len(self.left_out), "why": left_out(self.left_out)[1:]},
            "not_used": self.not_used,
            "findings": {"edits": len(self.findings), "what": self.findings[:SHOWN_REASONS]},
        }


def read_benchmark(path: Path, limit: int | None, seed: int) -> list[Edit]:
    """The edits of `read_facts`."""
    return read_facts(path, limit, seed).edits


def read_facts(path: Path, limit: int | None, seed: int, join: str | None = None) -> Facts:
    """Edits of a file in the order of random.Random(seed).shuffle, cut to `limit`; bad records are left out, and said.

    `join` joins prompts and answers of records that do not say how; None: by rule.

    Facts that stand in one record stay together: a record is taken whole, or where it no longer fits not at all.

    Raises:
        UsageError: no record is an edit.
    """
    cases: list[list[Edit]] = []
    bad: list[BadRecord] = []
    said, count = Read(), 0
    for records in read_cases_of([path], said):
        edits, others = good_and_bad(judged(records))
        count, bad = count + len(records), bad + others
        if edits:
            cases.append([with_join(edit, join) for edit in edits])
    for sentence in left_out(bad):
        note(sentence, "refused")
    for sentence in said.unused:
        note(sentence, "warning")
    if not cases:
        raise UsageError(f"'{path}' holds no edit that can be used; look at it with `errata submit --dry-run`")
    order = _order(cases, limit, seed)
    taken: dict[str, Edit] = {}
    beside: dict[str, tuple[Edit, ...]] = {}
    for case in cases:
        if all(edit.id in order for edit in case):
            for edit in case:
                taken[edit.id] = _joined(taken.get(edit.id), edit)
            beside[case[-1].id] = tuple(dict.fromkeys((*beside.get(case[-1].id, ()), *case[:-1])))
    together = {name: others for name, others in beside.items() if others}
    edits = [taken[name] for name in order]
    findings = worth_saying(edits, said)
    for sentence in shortened(findings):
        note(sentence, "warning")
    return Facts(edits, together, count, bad, said.unused, findings)


def read_references(path: Path) -> dict[str, list[str]]:
    """Texts that what is written about an edit is compared with: a JSON object of lists of texts, by the edit's id.

    Raises:
        ReadError: the file is no such object.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ReadError(f"cannot read '{path}': {error.strerror}; give a file of reference texts") from error
    except ValueError as error:
        raise ReadError(f"'{path}' is no JSON: {error}; write an object of lists of texts by edit id") from error
    if not isinstance(found, dict):
        raise ReadError(f"'{path}' holds {type(found).__name__}; write an object of lists of texts by edit id")
    for name, texts in found.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ReadError(f"'{path}': {shown(name)} has {shown(texts)}; give a list of texts, at least one")
    return found


def _order(cases: Sequence[Sequence[Edit]], limit: int | None, seed: int) -> dict[str, None]:
    """The ids that are taken, in their order; of records that hold no new fact none."""
    known: set[str] = set()
    new: list[list[str]] = []
    for case in cases:
        names = [name for name in dict.fromkeys(edit.id for edit in case) if name not in known]
        known.update(names)
        if names:
            new.append(names)
    random.Random(seed).shuffle(new)
    order: dict[str, None] = {}
    for names in new:
        if order and limit is not None and len(order) + len(names) > limit:
            break
        order.update(dict.fromkeys(names))
    return order


def _joined(earlier: Edit | None, edit: Edit) -> Edit:
    """One fact that several records name, with what all of them ask of it."""
    if earlier is None:
        return edit
    probes = tuple(dict.fromkeys((*earlier.portability, *edit.portability)))
    return edit.model_copy(update={"portability": probes[:PROBES]})
