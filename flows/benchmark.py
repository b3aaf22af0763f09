"""A benchmark file through the library: no ledger, no snapshots, no cache of searched values."""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from editing.edit import Edit
from editing.errors import UsageError
from editing.files import write_atomically
from editing.measure.ability_sets import AbilitySet
from editing.measure.fluency import fluency
from editing.measure.perplexity import perplexity
from editing.methods import check_mode, compute_independent_updates, compute_rebase, compute_update
from editing.methods.shared.interface import BatchUpdate
from editing.progress import OnProgress, unheard
from editing.weights import Undo, WeightUpdate, overlay
from flows.benchmark_ability import at_point, compared_perplexity, measure_ability, read_sets
from flows.benchmark_facts import read_benchmark, read_facts, read_references
from flows.benchmark_result import described, reported, said_shares
from flows.benchmark_states import Asker, State
from tasks.lines.specs import LineSpec
from tasks.parquet import read_text
from tasks.progress import note, progress, stage
from tasks.settings import Settings
from tasks.stores.batches import apply
from tasks.update.anew import rebase_every
from tasks.update.roots import stand_on_base
from tasks.update.session import Session, open_session
from tasks.update.writing import told

__all__ = ["Benchmark", "Mode", "read_benchmark", "run_benchmark"]

Mode = Literal["sequential", "independent", "rebase"]
FLUENCY_PROMPTS = 20
FLUENCY_TOKENS = 50
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
    probes: tuple[str, ...] = ()
    checkpoints: tuple[int, ...] = ()
    references: Path | None = None
    rebase_every: int | None = None
    """As of a policy, for a sequence."""


def run_benchmark(settings: Settings, spec: LineSpec, asked: Benchmark) -> dict[str, Any]:
    """Edit, measure, and write `result.json` into the output folder.

    Raises:
        UsageError: the method cannot work in this mode, what is asked for cannot be measured in it, or the folder
            cannot be.
        ReadError: a file of questions or reference texts cannot be read.
    """
    check_mode(spec.config.method, asked.mode)
    if asked.checkpoints and asked.mode != "sequential":
        raise UsageError(f"--checkpoints are those of a sequence, the mode is '{asked.mode}'; leave one of them out")
    if asked.rebase_every and asked.mode != "sequential":
        raise UsageError(f"--rebase-every is of a sequence, the mode is '{asked.mode}'; leave one of them out")
    every = rebase_every(spec.config, asked.rebase_every) if asked.mode == "sequential" else 0
    if every:
        check_mode(spec.config.method, "rebase")
    sets = read_sets(asked.ability, asked.mode, asked.ability_limit, asked.seed)
    references = read_references(asked.references) if asked.references else {}
    facts = read_facts(asked.data, asked.limit, asked.seed, spec.join)
    warn_of_checkpoints(asked.checkpoints, len(facts.edits))
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the folder '{asked.out}' ({error.strerror}); choose another --out") from error
    statistics_texts = read_text(asked.statistics_text) if asked.statistics_text else None
    session = open_session(spec, settings, statistics_texts=statistics_texts, new=True)
    texts = read_text(asked.text) if asked.text else session.held_out
    measuring = Stopwatch()
    with measuring:
        asker = Asker(session, facts, probes=asked.probes, texts=texts, references=references, seed=asked.seed)
        base = asker.base()
        in_context = asker.in_context(base)
        quality_before = _quality(session, facts.edits, texts, asked)
    curve: list[dict[str, Any]] = []

    def look(count: int) -> None:
        with measuring:
            curve.append(_point(session, asker.so_far(base, count), sets, texts, asked))

    started, before_editing = time.perf_counter(), measuring.seconds
    updates = _edit(session, facts.edits, replace(asked, rebase_every=every), look)
    editing = time.perf_counter() - started - (measuring.seconds - before_editing)
    with measuring:
        edited = asker.edited(base, updates)
        after = _quality if updates is None else partial(_quality_of_each, updates)
        quality_after = after(session, facts.edits, texts, asked)
        ability = at_point(curve, len(facts.edits))
        if updates is None and not ability:  # of independent edits there is no one model
            ability = measure_ability(session, sets, texts)
    result = {
        "edits": len(facts.edits),
        **facts.told,
        "model": spec.model,
        "method": spec.config.method,
        "template": spec.template,
        **({} if spec.system is None else {"system": spec.system}),
        "mode": asked.mode,
        "batch_size": asked.batch_size,
        "rebase_every": every,
        "seed": asked.seed,
        "layers": list(session.method_input.layers),
        "config": session.spec.config.model_dump(mode="json"),
        "seconds_per_edit": editing / len(facts.edits),
        "evaluation_seconds": measuring.seconds,
        "peak_rss_mb": _peak_rss_mb(),
        **described(base, edited, in_context, asker.kinds()),
        "fluency": {"before": quality_before["fluency"], "after": quality_after["fluency"]},
        "perplexity": compared_perplexity(quality_before["perplexity"], quality_after["perplexity"]),
        "curve": curve,
        **ability,
    }
    write_atomically(asked.out / "result.json", json.dumps(result, indent=1).encode())
    rows = [one.to_json() for one in edited.metrics]
    write_atomically(asked.out / "edits.json", json.dumps(rows, indent=1).encode())
    return result


def warn_of_checkpoints(checkpoints: Sequence[int], edits: int) -> None:
    if beyond := [str(one) for one in checkpoints if one > edits]:
        note(f"--checkpoints {','.join(beyond)}: there are only {edits} edits, so nothing is asked there", "warning")


class Stopwatch:
    """Adds up the time inside."""

    def __init__(self) -> None:
        self.seconds, self._started = 0.0, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._started


def _point(
    session: Session, state: State, sets: Sequence[AbilitySet], texts: Sequence[str], asked: Benchmark
) -> dict[str, Any]:
    """All facts so far, asked again after the last of them, and what the model can do in general."""
    point = {"edits": len(state.edits), "metrics": reported(state.metrics), "said": said_shares(state.said)}
    return point | {"perplexity": _perplexity(session, texts, asked)} | measure_ability(session, sets, texts)


def _edit(
    session: Session, edits: Sequence[Edit], asked: Benchmark, look: Callable[[int], None]
) -> list[WeightUpdate] | None:
    """Write the edits, or in independent mode compute one update for each."""
    if asked.mode == "sequential":
        _edit_in_sequence(session, edits, asked, look)
    elif asked.mode == "rebase":
        write_together(session, edits, session.search(edits, _counting(0, len(edits), len(edits))))
    else:
        return _independent_updates(session, edits, asked.batch_size)
    return None


def _counting(before: int, size: int, total: int) -> OnProgress:
    """Progress of a batch of so many edits as progress of the whole."""
    return lambda done, of: progress("edits", before + size * done // of, total)


def _edit_in_sequence(session: Session, edits: Sequence[Edit], asked: Benchmark, look: Callable[[int], None]) -> None:
    """One batch after the other, anew from the base as often as jobs of so many batches do that; a look at the end of
    the batch in which a checkpoint lies."""
    size, standing, found = asked.batch_size, 0, dict[str, Tensor]()
    for start in range(0, len(edits), size):
        batch, end = edits[start : start + size], min(start + size, len(edits))
        values = searched(session, _counting(start, len(batch), len(edits)), found)
        _, made = edit_batch(session, batch, edits[:start], values)
        session.remember([edit.id for edit in batch], made)
        standing += 1
        if asked.rebase_every and standing >= max(asked.rebase_every, 2):
            with stage(f"{end} facts anew from the base"):
                write_together(session, edits[:end], torch.stack([found[edit.id] for edit in edits[:end]]))
            standing = 1
        if any(start < checkpoint <= end for checkpoint in asked.checkpoints):
            look(end)


Values = Callable[[Sequence[Edit], Sequence[Edit]], Tensor]
"""Gives z* of each edit of a batch, knowing the live facts that share a key with one of them."""


def searched(
    session: Session,
    on_progress: OnProgress = unheard,
    found: dict[str, Tensor] | None = None,
) -> Values:
    """Values that are searched now, whatever the cache holds, and kept in `found` by id."""

    def values(batch: Sequence[Edit], sharing: Sequence[Edit]) -> Tensor:
        asked = [*sharing, *batch]
        z_star = session.search(asked, on_progress)
        if found is not None:
            found.update(zip((edit.id for edit in asked), z_star, strict=True))
        return z_star[len(sharing) :]

    return values


def edit_batch(
    session: Session, batch: Sequence[Edit], live: Sequence[Edit], values: Values
) -> tuple[Undo, BatchUpdate]:
    """Write a batch beside the live facts; what undoes it, and what `Session.remember` wants of one that is kept."""
    sharing = session.sharing(batch, live)
    z_star = values(batch, sharing)
    with told(session.method_input, batch) as given:
        made = compute_update(given, batch, z_star, session.config, live=sharing)
    return apply(session.weights, made.update), made


def write_together(session: Session, edits: Sequence[Edit], z_star: Tensor) -> None:
    """All of these facts in one solve from the base, in the place of what stands in the weights."""
    stand_on_base(session)
    with told(session.method_input, edits) as given:
        made = compute_rebase(given, edits, z_star, session.config)
    apply(session.weights, made.update)
    session.remember([edit.id for edit in edits], made)


def _independent_updates(session: Session, edits: Sequence[Edit], size: int) -> list[WeightUpdate]:
    updates: list[WeightUpdate] = []
    for start in range(0, len(edits), size):
        batch = edits[start : start + size]
        z_star = session.search(batch, _counting(start, len(batch), len(edits)))
        with told(session.method_input, batch) as given:
            updates += compute_independent_updates(given, batch, z_star, session.config)
    return updates


def _quality_of_each(
    updates: Sequence[WeightUpdate], session: Session, edits: Sequence[Edit], texts: Sequence[str], asked: Benchmark
) -> dict[str, float]:
    """The mean of a sample of edits, each alone in force."""
    every = max(1, len(edits) // INDEPENDENT_SAMPLE)
    quality: list[dict[str, float]] = []
    for edit, update in list(zip(edits, updates, strict=True))[::every][:INDEPENDENT_SAMPLE]:
        with overlay(session.loaded.model, session.method_input.layout, update):
            quality.append(_quality(session, [edit], texts, asked))
    return {name: sum(one[name] for one in quality) / len(quality) for name in quality[0]}


def _quality(session: Session, edits: Sequence[Edit], texts: Sequence[str], asked: Benchmark) -> dict[str, float]:
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    prompts = [f"{edit.subject} is" for edit in edits[:FLUENCY_PROMPTS]]
    with stage("fluency"):
        written = fluency(model, tokenizer, prompts, max_new_tokens=FLUENCY_TOKENS, seed=asked.seed)
    return {"fluency": written, "perplexity": _perplexity(session, texts, asked)}


def _perplexity(session: Session, texts: Sequence[str], asked: Benchmark) -> float:
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    with stage("perplexity") as tell:
        return perplexity(model, tokenizer, texts, max_tokens=asked.perplexity_tokens, on_progress=tell)


def _peak_rss_mb() -> float:
    """Largest resident memory of this process; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1 << 20 if sys.platform == "darwin" else 1 << 10)
