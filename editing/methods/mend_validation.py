"""How good a hypernetwork is on edits that it does not learn from: each alone, on the base."""

from collections.abc import Mapping, Sequence

from editing.edit import Edit
from editing.methods.mend import updates_of
from editing.methods.mend_network import MendNetwork
from editing.metrics import EditScores, evaluate, summarise
from editing.models import LoadedModel

JUDGED = ("efficacy_argmax", "generalization_argmax", "locality_kept_tokens")
"""The shares whose mean is the score: the target is said, in other words too, and neighbors answer as before."""
EVALUATED_AT_ONCE = 50
"""Edits evaluated together: fills batches, and bounds the memory for their updates."""


def validate(
    loaded: LoadedModel, network: MendNetwork, edits: Sequence[Edit], before: Mapping[str, EditScores]
) -> dict[str, float]:
    """The metrics' means over `edits`, each with its own update in force alone, and their `score`.

    Args:
        before: the edits' scores on the base, by id.

    Raises:
        SearchError: the base's loss is not finite.
    """
    scores: list[EditScores] = []
    for start in range(0, len(edits), EVALUATED_AT_ONCE):
        chunk = edits[start : start + EVALUATED_AT_ONCE]
        updates = updates_of(network, loaded.model, loaded.tokenizer, chunk)
        scores += evaluate(loaded.model, loaded.tokenizer, chunk, before=before, updates=updates)
    means = summarise(scores)
    judged = [means[name] for name in JUDGED if name in means]
    return means | {"score": sum(judged) / len(judged)}
