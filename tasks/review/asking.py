"""Questions to a line: the same prompts to base, champion and challenger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from editing.layout import layout_of
from editing.measure.fluency import generate
from editing.models import load_model
from editing.weights import EditedWeights, Undo
from tasks.lines.specs import LineSpec
from tasks.progress import progress
from tasks.stores.batches import restore_weights
from tasks.stores.manifest import Head, Manifest, Version
from tasks.workplace import Workplace

AT_ONCE = 16
"""Prompts that are answered together."""


@dataclass(frozen=True)
class Column:
    """A state of a line that answers."""

    name: str
    snapshot: str | None
    """None: the base."""


def columns_of(head: Head | None, waiting: Sequence[Version]) -> list[Column]:
    """The base, the version in service and the newest that waits, as they were when HEAD and queue were read."""
    found = [Column("base", None)]
    if head is not None and head.snapshot is not None:
        found.append(Column(f"champion (version {head.version})", head.snapshot))
    if waiting:
        found.append(Column(f"challenger (version {waiting[-1].number})", waiting[-1].snapshot))
    return found


def ask_all(
    workplace: Workplace, spec: LineSpec, columns: Sequence[Column], prompts: Sequence[str], tokens: int
) -> list[dict[str, Any]]:
    """Each prompt with the answers (at most `tokens` long) by column, from one model in memory.

    Raises:
        DigestMismatch: a stored file or a resulting tensor is not what was recorded.
    """
    settings, store = workplace.settings, workplace.store
    loaded = load_model(spec.model, dtype=spec.dtype, device=settings.device, cache=settings.cache_folder)
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    standing: list[Manifest] = []
    answers: dict[str, list[str]] = {}
    for column in columns:
        chain = store.chain(column.snapshot)
        if chain[: len(standing)] != standing:  # it does not build on the one before
            weights.revert(Undo(dict(weights.base), {}))
            standing = []
        restore_weights(loaded, weights, None, ((m, store.tensors(m)) for m in chain[len(standing) :]))
        standing = chain
        said = answers[column.name] = []
        while len(said) < len(prompts):
            progress("answers", (len(answers) - 1) * len(prompts) + len(said), len(columns) * len(prompts))
            said += generate(loaded.model, loaded.tokenizer, prompts[len(said) : len(said) + AT_ONCE], tokens)
    progress("answers", len(columns) * len(prompts), len(columns) * len(prompts))
    return [
        {"prompt": prompt, "answers": {name: said[i].strip() for name, said in answers.items()}}
        for i, prompt in enumerate(prompts)
    ]
