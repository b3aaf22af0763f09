"""What a hypernetwork is trained on: edits of a file, and others of other subjects to judge it by."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editing.edit import Edit
from editing.errors import UsageError
from editing.readers import BadRecord
from tasks.ledger.reading import judged, read_requests

VALIDATED_SHARE = 0.2
"""Most of a file that is held out, however few edits it has."""
LEAST_EDITS = round(1 / VALIDATED_SHARE)
"""Of fewer none could be held out."""


@dataclass(frozen=True)
class TrainingData:
    learnt: tuple[Edit, ...]
    validated: tuple[Edit, ...]
    refused: tuple[str, ...]
    """Which records cannot be used, and why."""


def read_training(
    data: Path, validation: Path | None, validation_edits: int, limit: int | None, seed: int
) -> TrainingData:
    """The edits of `data`, and `validation_edits` of `validation` or else of `data`, held out by whole subjects.

    Raises:
        ReadError: a file cannot be read.
        UsageError: there are no edits to learn, or none to validate by.
    """
    edits, refused = _read(data, limit)
    if validation is None:
        held_out = _subjects_of(edits, min(validation_edits, int(len(edits) * VALIDATED_SHARE)), seed)
        learnt = [edit for edit in edits if edit.subject not in held_out]
        validated = [edit for edit in edits if edit.subject in held_out]
    else:
        learnt, (validated, more) = edits, _read(validation, None)
        refused += more
        validated = random.Random(seed).sample(validated, min(validation_edits, len(validated)))
    reasons = f"; refused: {refused[0]}" if refused else ""
    if validation is not None and not validated:
        raise UsageError(f"'{validation}' has no edit that can be used, and one is needed to validate by{reasons}")
    if not learnt or not validated:
        edit, first = "edit" if len(edits) == 1 else "edits", f" in its first {limit}" if limit else ""
        raise UsageError(
            f"'{data}' has {len(edits)} {edit} that can be used{first}, too few to train and validate: give "
            f"{LEAST_EDITS} or more of several subjects{reasons}"
        )
    return TrainingData(tuple(learnt), tuple(validated), tuple(refused))


def _read(path: Path, limit: int | None) -> tuple[list[Edit], list[str]]:
    edits: dict[str, Edit] = {}
    refused = []
    for record in judged(read_requests([path], limit)):
        if isinstance(record, BadRecord):
            refused.append(f"{path.name} row {record.row}: {record.reason}")
        else:
            edits.setdefault(record.id, record)
    return list(edits.values()), refused


def _subjects_of(edits: Sequence[Edit], count: int, seed: int) -> set[str]:
    """Subjects in random order, up to the one that brings at least `count` edits."""
    edits_of = Counter(edit.subject for edit in edits)
    subjects = sorted(edits_of)
    random.Random(seed).shuffle(subjects)
    chosen: set[str] = set()
    found = 0
    for subject in subjects:
        if found >= count:
            break
        chosen.add(subject)
        found += edits_of[subject]
    return chosen
