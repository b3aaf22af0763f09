"""Edits in sequence, measured on the way: what the quality table and the search for parameters share."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from editing.edit import Edit
from editing.measure.counterfact import SCORED
from editing.measure.metrics import EditScores, evaluate, summarise
from editing.measure.perplexity import perplexity
from editing.methods import method_config
from flows.benchmark import edit_batch, read_benchmark, searched
from tasks.lines.specs import LineSpec
from tasks.parquet import read_text
from tasks.settings import load_settings
from tasks.update.session import Session, open_session

BATCH = 10
PERPLEXITY_TOKENS = 16384


@dataclass(frozen=True)
class Point:
    """All edits so far, asked again after the last of them."""

    edits: int
    seconds_per_edit: float
    efficacy_prob: float
    efficacy_argmax: float
    generalization_prob: float
    generalization_argmax: float
    locality_prob: float
    locality_change: float
    locality_kept: float
    perplexity_ratio: float
    facts: tuple[tuple[float, ...], ...] = ()
    """What CounterFact's score is made of, fact by fact."""


class Data:
    """Edits of a file in the order of a seeded shuffle, and text for perplexity."""

    def __init__(self, data: Path, text: Path, first: int, count: int, seed: int = 0) -> None:
        self.edits, self.text = read_benchmark(data, first + count, seed)[first:], text
        self.base_perplexity: dict[str, float] = {}

    @cached_property
    def texts(self) -> list[str]:
        return read_text(self.text)

    @property
    def further_texts(self) -> list[str]:
        """Two thirds of the text, of which perplexity sees nothing: it is taken on the beginning."""
        return self.texts[len(self.texts) // 3 :]


def open_method(method: str, options: dict[str, Any], statistics_texts: Sequence[str] | None = None) -> Session:
    line = LineSpec(line="bench", model="embedded", config=method_config(method, options))
    return open_session(line, load_settings(), statistics_texts=statistics_texts)


def follow(session: Session, data: Data, points: Sequence[int], *, cached: bool) -> Iterator[Point]:
    """Write batches of ten and measure where the number of edits is in `points`; 1 is the first edit alone.

    With `cached`, values come from the cache when they are there, and the seconds say nothing.
    """
    before = session.base_scores(data.edits, None)
    digest = session.loaded.digest
    if digest not in data.base_perplexity:
        data.base_perplexity[digest] = perplexity_of(session, data)
    base, seconds = data.base_perplexity[digest], 0.0
    for size in sorted(points):
        if size == 1:
            undo, alone = write_batch(session, data.edits[:1], cached, keep=False)
            yield _measure(session, data, before, base, 1, alone)
            session.weights.revert(undo)
            continue
        for start in range(len(session.live), size, BATCH):
            seconds += write_batch(
                session, data.edits[start : min(start + BATCH, size)], cached, keep=True, live=data.edits[:start]
            )[1]
        yield _measure(session, data, before, base, size, seconds / size)


def write_batch(
    session: Session, batch: Sequence[Edit], cached: bool, keep: bool, live: Sequence[Edit] = ()
) -> tuple[Any, float]:
    """What undoes it, and the seconds; with those of the live facts that share a key, which are searched again."""
    started = time.perf_counter()
    undo, made = edit_batch(session, batch, live, session.values if cached else searched(session))
    if keep:
        session.remember([edit.id for edit in batch], made)
    return undo, time.perf_counter() - started


def _measure(
    session: Session, data: Data, before: dict[str, EditScores], base: float, size: int, seconds: float
) -> Point:
    edits = data.edits[:size]
    scores = evaluate(session.loaded.model, session.loaded.tokenizer, edits, before=before)
    after = summarise(scores)
    first = summarise([before[edit.id] for edit in edits])
    shown = {name: after[name] for name in Point.__dataclass_fields__ if name in after}
    return Point(
        edits=size,
        seconds_per_edit=seconds,
        locality_change=after["locality_prob"] - first["locality_prob"],
        perplexity_ratio=perplexity_of(session, data) / base,
        facts=tuple(tuple(float(getattr(one, name)) for name in SCORED) for one in scores),
        **shown,
    )


def perplexity_of(session: Session, data: Data) -> float:
    return perplexity(session.loaded.model, session.loaded.tokenizer, data.texts, max_tokens=PERPLEXITY_TOKENS)


def markdown(named: Sequence[tuple[str, Point]]) -> str:
    """A table, a line a point."""
    head = "| | edits | efficacy | says it | paraphrases | says it | neighbors | keep answer | perplexity | s/edit |"
    lines = [head, "|---" + "|---:" * 9 + "|"]
    for name, p in named:
        shares = (p.efficacy_prob, p.efficacy_argmax, p.generalization_prob, p.generalization_argmax)
        lines.append(
            f"| {name} | {p.edits} | "
            + " | ".join(f"{100 * share:.0f}" for share in shares)
            + f" | {100 * p.locality_change:+.1f} | {100 * p.locality_kept:.0f} | x{p.perplexity_ratio:.3f}"
            f" | {p.seconds_per_edit:.2f} |"
        )
    return "\n".join(lines)
