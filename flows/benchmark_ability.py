"""What a benchmark's edits cost of general ability: files of questions, and the divergence from the base."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from editing.errors import UsageError
from editing.measure.ability import Comparison, compare, stderr
from editing.measure.ability_sets import AbilitySet, read_ability
from tasks.parquet import parquet_rows
from tasks.update.ability import answers, base_answers, base_divergence
from tasks.update.measured import blocks_of
from tasks.update.session import Session

KL_TOKENS = 4096


def read_sets(paths: Sequence[Path], mode: str, limit: int | None, seed: int) -> list[AbilitySet]:
    """The questions of each file, named by its stem; read before anything long begins.

    Raises:
        ReadError: a file cannot be read, or is no set that is known.
        UsageError: two files have one name, or there is no one model whose ability could be measured.
    """
    if paths and mode == "independent":
        raise UsageError(
            "--ability is measured on one model, in mode independent there are many; choose another --mode"
        )
    for number, path in enumerate(paths):
        if path.stem in {other.stem for other in paths[:number]}:
            raise UsageError(f"two files of --ability are named '{path.stem}'; rename one")
    return [read_ability(parquet_rows(path), path.stem, limit=limit, seed=seed) for path in paths]


def measure_ability(session: Session, sets: Sequence[AbilitySet], texts: Sequence[str]) -> dict[str, Any]:
    """`kl` of the model as it stands, beside its base, and `ability` where there are sets."""
    found = {asked.name: _compared(asked, session) for asked in sets}
    kl = asdict(base_divergence(session, texts, KL_TOKENS))
    told = {"kl": {name: value for name, value in kl.items() if name != "windows"}}
    return {"ability": found, **told} if sets else told


def compared_perplexity(before: float, after: float) -> dict[str, Any]:
    """Both, their ratio, and the standard errors of all three; those are None where a perplexity's blocks are unknown.

    Of exp of a mean over n blocks: itself times s / sqrt(n), s the standard deviation of the blocks (delta method); of
    the ratio that of the blocks' differences, since both read the same text.
    """
    then, now = blocks_of(before), blocks_of(after)
    paired = [y - x for x, y in zip(then, now, strict=True)] if len(then) == len(now) else []
    errors = {"before": _error(before, then), "after": _error(after, now), "ratio": _error(after / before, paired)}
    return {"before": before, "after": after, "ratio": after / before, "stderr": errors}


def _error(value: float, blocks: Sequence[float]) -> float | None:
    error = stderr(blocks)
    return value * error if error is not None and math.isfinite(value) else None


def at_point(curve: Sequence[Mapping[str, Any]], edits: int) -> dict[str, Any]:
    """`ability` and `kl` where the last point of a curve was measured on all edits; nothing else."""
    last = curve[-1] if curve else {}
    return {name: last[name] for name in ("ability", "kl") if name in last and last["edits"] == edits}


def _compared(asked: AbilitySet, session: Session) -> dict[str, Any]:
    measures = compare(asked.questions, base_answers(session, asked), answers(session, asked))
    described = {name: _described(one) for name, one in measures.items()}
    return {
        "form": asked.form,
        "rows": asked.rows,
        "questions": len(asked.questions),
        **described.pop("acc"),
        **described,
    }


def _described(one: Comparison) -> dict[str, Any]:
    errors = {"before": one.stderr_before, "after": one.stderr_after, "difference": one.stderr_difference}
    return {"before": one.before, "after": one.after, "difference": one.difference, "stderr": errors}
