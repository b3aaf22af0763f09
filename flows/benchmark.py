"""A benchmark file through the library: no ledger, no snapshots, no cache of searched values."""

import json
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from editing.edit import Edit
from editing.errors import UsageError
from editing.files import write_atomically
from editing.measure.fluency import fluency
from editing.measure.metrics import EditScores, evaluate, summarise
from editing.measure.perplexity import perplexity
from editing.methods import check_mode, compute_independent_updates, compute_rebase, compute_update
from editing.readers import good_and_bad, read_edits
from editing.weights import WeightUpdate, overlay
from flows.benchmark_ability import measure_ability, read_sets
from tasks.lines.specs import LineSpec
from tasks.meter import Meter
from tasks.parquet import parquet_rows, read_text
from tasks.progress import note, progress, stage
from tasks.settings import Settings
from tasks.update.session import Session, open_session

Mode = Literal["sequential", "independent", "rebase"]
REPORTED = (
    "efficacy_prob",
    "efficacy_argmax",
    "generalization_prob",
    "generalization_argmax",
    "locality_prob",
    "locality_argmax",
)
FLUENCY_PROMPTS = 20
FLUENCY_TOKENS = 50
EVALUATED_AT_ONCE = 50
"""Independent edits evaluated together: fills batches, and lets progress be seen."""
INDEPENDENT_SAMPLE = 5
"""Edits whose perplexity and fluency stand for all in independent mode."""


@dataclass(frozen=True)
class Benchmark:
    data: Path
    mode: Mode
    batch_size: int
    limit: int | None
    seed: int
    text: Path | None
    out: Path
    statistics_text: Path | None = None
    perplexity_tokens: int = 16384
    ability: tuple[Path, ...] = ()
    ability_limit: int | None = None


def read_benchmark(path: Path, limit: int | None, seed: int) -> list[Edit]:
    """Edits of a file in the order of random.Random(seed).shuffle, cut to `limit`; bad records are left out, and said.

    Raises:
        UsageError: no record is an edit.
    """
    edits, bad = good_and_bad(read_edits(path, parquet_rows=parquet_rows))
    for record in bad:
        note(f"row {record.row} is left out: {record.reason}", "refused")
    unique = list({edit.id: edit for edit in edits}.values())
    random.Random(seed).shuffle(unique)
    if not unique:
        raise UsageError(f"'{path}' holds no edit that can be used; look at it with `errata submit --dry-run`")
    return unique[:limit]


def run_benchmark(settings: Settings, spec: LineSpec, asked: Benchmark) -> dict[str, Any]:
    """Edit, measure, and write `result.json` into the output folder.

    Raises:
        UsageError: the method cannot work in this mode, or the folder cannot be.
        ReadError: a file of questions cannot be read.
    """
    check_mode(spec.config.method, asked.mode)
    sets = read_sets(asked.ability, asked.mode, asked.ability_limit, asked.seed)
    edits = read_benchmark(asked.data, asked.limit, asked.seed)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the folder '{asked.out}' ({error.strerror}); choose another --out") from error
    statistics_texts = read_text(asked.statistics_text) if asked.statistics_text else None
    session = open_session(spec, settings, statistics_texts=statistics_texts)
    texts = read_text(asked.text) if asked.text else session.held_out
    started = time.perf_counter()
    before = {one.edit_id: one for one in _evaluate(session, edits, None)}
    quality_before = _quality(session, edits, texts, asked)
    evaluation = time.perf_counter() - started
    if asked.mode != "independent":
        together = asked.mode == "rebase"
        editing = _edit_together(session, edits) if together else _edit_in_sequence(session, edits, asked.batch_size)
        started = time.perf_counter()
        scores = _evaluate(session, edits, before)
        quality_after = _quality(session, edits, texts, asked)
    else:
        updates, editing = _independent_updates(session, edits, asked.batch_size)
        started = time.perf_counter()
        scores, quality_after = _evaluate_each(session, edits, updates, before, texts, asked)
    evaluation += time.perf_counter() - started
    result = {
        "edits": len(edits),
        "model": spec.model,
        "method": spec.config.method,
        "mode": asked.mode,
        "batch_size": asked.batch_size,
        "seed": asked.seed,
        "layers": list(session.method_input.layers),
        "config": spec.config.model_dump(mode="json"),
        "seconds_per_edit": editing / len(edits),
        "evaluation_seconds": evaluation,
        "peak_rss_mb": _peak_rss_mb(),
        "metrics": {"before": _reported(list(before.values())), "after": _reported(scores)},
        "fluency": {"before": quality_before["fluency"], "after": quality_after["fluency"]},
        "perplexity": {"before": quality_before["perplexity"], "after": quality_after["perplexity"]},
        **measure_ability(session, sets, texts),
    }
    write_atomically(asked.out / "result.json", json.dumps(result, indent=1).encode())
    rows = [one.to_json() for one in scores]
    write_atomically(asked.out / "edits.json", json.dumps(rows, indent=1).encode())
    return result


def _counting(before: int, size: int, total: int) -> Callable[[int, int], None]:
    """Progress of a batch of so many edits as progress of the whole."""
    return lambda done, of: progress("edits", before + size * done // of, total)


def _edit_in_sequence(session: Session, edits: Sequence[Edit], size: int) -> float:
    started = time.perf_counter()
    for start in range(0, len(edits), size):
        batch = edits[start : start + size]
        sharing = session.sharing(batch, edits[:start])
        z_star = session.search([*sharing, *batch], _counting(start, len(batch), len(edits)))[len(sharing) :]
        made = compute_update(session.method_input, batch, z_star, session.config, live=sharing)
        session.weights.apply(made.update)
        session.remember([edit.id for edit in batch], made)
    return time.perf_counter() - started


def _edit_together(session: Session, edits: Sequence[Edit]) -> float:
    """Values in batches, all of them on the base, then one solve over all facts."""
    started = time.perf_counter()
    z_star = session.search(edits, _counting(0, len(edits), len(edits)))
    with stage("solve"):
        made = compute_rebase(session.method_input, edits, z_star, session.config)
        session.weights.apply(made.update)
        session.remember([edit.id for edit in edits], made)
    return time.perf_counter() - started


def _independent_updates(session: Session, edits: Sequence[Edit], size: int) -> tuple[list[WeightUpdate], float]:
    started = time.perf_counter()
    updates: list[WeightUpdate] = []
    for start in range(0, len(edits), size):
        batch = edits[start : start + size]
        z_star = session.search(batch, _counting(start, len(batch), len(edits)))
        updates += compute_independent_updates(session.method_input, batch, z_star, session.config)
    return updates, time.perf_counter() - started


def _evaluate(session: Session, edits: Sequence[Edit], before: dict[str, EditScores] | None) -> list[EditScores]:
    with stage("evaluation") as tell:
        return evaluate(session.loaded.model, session.loaded.tokenizer, edits, before=before, on_progress=tell)


def _evaluate_each(
    session: Session,
    edits: Sequence[Edit],
    updates: Sequence[WeightUpdate],
    before: dict[str, EditScores],
    texts: Sequence[str],
    asked: Benchmark,
) -> tuple[list[EditScores], dict[str, float]]:
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    scores: list[EditScores] = []
    with Meter("evaluation", len(edits)) as meter:
        for start in range(0, len(edits), EVALUATED_AT_ONCE):
            chunk = slice(start, start + EVALUATED_AT_ONCE)
            tell = meter.part(len(edits[chunk]))
            scores += evaluate(model, tokenizer, edits[chunk], before=before, updates=updates[chunk], on_progress=tell)
    every = max(1, len(edits) // INDEPENDENT_SAMPLE)
    quality: list[dict[str, float]] = []
    for edit, update in list(zip(edits, updates, strict=True))[::every][:INDEPENDENT_SAMPLE]:
        with overlay(model, session.method_input.layout, update):
            quality.append(_quality(session, [edit], texts, asked))
    return scores, {name: sum(one[name] for one in quality) / len(quality) for name in quality[0]}


def _quality(session: Session, edits: Sequence[Edit], texts: Sequence[str], asked: Benchmark) -> dict[str, float]:
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    prompts = [f"{edit.subject} is" for edit in edits[:FLUENCY_PROMPTS]]
    with stage("fluency"):
        written = fluency(model, tokenizer, prompts, max_new_tokens=FLUENCY_TOKENS, seed=asked.seed)
    with stage("perplexity") as tell:
        read = perplexity(model, tokenizer, texts, max_tokens=asked.perplexity_tokens, on_progress=tell)
    return {"fluency": written, "perplexity": read}


def _reported(scores: Sequence[EditScores]) -> dict[str, float | None]:
    means = summarise(scores)
    compared = ("locality_kept", "locality_kept_tokens")
    return {name: means.get(name) for name in REPORTED} | {name: means[name] for name in compared if name in means}


def _peak_rss_mb() -> float:
    """Largest resident memory of this process; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1 << 20 if sys.platform == "darwin" else 1 << 10)
