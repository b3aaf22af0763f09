"""How good a hypernetwork is on edits that it does not learn from: on the base, each alone or some together."""

from collections.abc import Mapping, Sequence

from editing.edit import Edit
from editing.measure.metrics import EditScores, evaluate, summarise
from editing.methods.mend.method import update_together
from editing.methods.mend.network import MendNetwork
from editing.models import LoadedModel
from editing.progress import OnProgress, unheard

JUDGED = ("efficacy_argmax", "generalization_argmax", "locality_kept_tokens")
"""The shares whose mean is the score: the target is said, in other words too, and neighbors answer as before."""
EVALUATED_AT_ONCE = 50
"""Edits evaluated together: fills batches, and bounds the memory for their updates."""


def validate(
    loaded: LoadedModel,
    network: MendNetwork,
    edits: Sequence[Edit],
    before: Mapping[str, EditScores],
    together: int = 1,
    on_progress: OnProgress = unheard,
) -> dict[str, float]:
    """The metrics' means over `edits`, each `together` of them with their one update in force, and their `score`.

    Args:
        before: the edits' scores on the base, by id.
        on_progress: hears how many of the edits are measured, of how many.

    Raises:
        SearchError: the base's loss is not finite.
    """
    scores: list[EditScores] = []
    model, tokenizer = loaded.model, loaded.tokenizer
    groups = [edits[start : start + together] for start in range(0, len(edits), together)]
    at_once = max(1, EVALUATED_AT_ONCE // together)
    for start in range(0, len(groups), at_once):
        some = groups[start : start + at_once]
        updates = [update_together(network, model, tokenizer, group) for group in some]
        asked = [(edit, update) for group, update in zip(some, updates, strict=True) for edit in group]
        scores += evaluate(
            model,
            tokenizer,
            [edit for edit, _ in asked],
            before=before,
            updates=[update for _, update in asked],
            on_progress=_part_of(on_progress, len(scores), len(asked), len(edits)),
        )
    means = summarise(scores)
    judged = [means[name] for name in JUDGED if name in means]
    return means | {"score": sum(judged) / len(judged)}


def _part_of(on_progress: OnProgress, before: int, size: int, total: int) -> OnProgress:
    """Progress of a part of `size`, `before` being done, as progress of the whole."""
    return lambda done, of: on_progress(before + size * done // of, total)
