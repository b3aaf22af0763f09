"""How full a line is, and about how many more facts it takes within the policy."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from editing.config import LocatingConfig
from editing.errors import EditingError
from editing.methods.standing import directions_used, relative_drift
from tasks.meter import Meter
from tasks.stores.manifest import Manifest
from tasks.update.policy import Policy
from tasks.update.session import Session

FEWEST_POINTS, FEWEST_FACTS = 3, 10
PAST = 60
"""Versions that tell how a line grew: the newest so many, roots and what they took the place of alike."""
LEAST_POWER, MOST_POWER = 0.5, 2.0
POWER, POWER_ERROR = 1.0, 0.05
"""Before a line tells: each fact harms as much as the one before. Fitted to a dozen versions, whose perplexity is no
surer than a third of what it rose by, the power alone foretold a line of 330 facts to take 554
(tests/benchmarks/capacity.py)."""


def capacity_of(session: Session, manifests: Sequence[Manifest], policy: Policy) -> dict[str, Any]:
    """Facts, drift and directions used by layer of the model as it stands, and the room that is left.

    `manifests`: the versions that came to this one, oldest first, whose numbers tell how perplexity rose with facts.
    """
    given, config = session.method_input, session.config
    found: dict[str, Any] = {"facts": len(session.live)}
    if not session.live or not isinstance(config, LocatingConfig):
        return found
    weight = getattr(config, "statistics_weight", None)
    layers = {}
    meter = Meter("how full the layers are", len(given.layers))
    for layer in given.layers:
        tell = meter.part(1)
        row = {"drift": round(relative_drift(given, session.weights, layer), 6)}
        if weight is not None and given.history.count:
            with suppress(EditingError):  # general text leaves directions open: nobody can say how many are used
                row["used"] = round(directions_used(given, layer, float(weight)), 1)
            row["directions"] = given.layout.key_size(given.model, layer)
        layers[str(layer)] = row
        tell(1, 1)
    found["layers"] = layers
    return found | room(grown(manifests), policy.max_perplexity_ratio)


def grown(manifests: Sequence[Manifest]) -> list[tuple[int, float]]:
    """Facts and the multiple of the base's perplexity, version by version, from the first whose facts are all known."""
    known = next((i for i, one in enumerate(manifests) if one.follows is None or one.live is not None), len(manifests))
    facts, points = 0, []
    for manifest in manifests[known:]:
        facts = len(manifest.live) if manifest.live is not None else facts + len(manifest.facts)
        if "perplexity_ratio" in manifest.metrics:
            points.append((facts, manifest.metrics["perplexity_ratio"]))
    return points


def room(points: Sequence[tuple[int, float]], most: float) -> dict[str, Any]:
    """About how many more facts there is room for, by log perplexity = c · facts^p, fitted to `points`.

    p is what is known of it before and what the points tell, each weighed by how sure it is: least squares in
    logarithms with a normal prior. Empty where too few versions rose above the base to tell.
    """
    rising = [(n, math.log(ratio)) for n, ratio in points if ratio > 1 and n >= FEWEST_FACTS]
    if len(rising) < FEWEST_POINTS or rising[-1][0] == rising[0][0]:
        return {}
    xs, ys = [math.log(n) for n, _ in rising], [math.log(rise) for _, rise in rising]
    x0, y0 = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x0) ** 2 for x in xs)
    slope = sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / spread
    error = sum((y - y0 - slope * (x - x0)) ** 2 for x, y in zip(xs, ys, strict=True)) / (len(xs) - 2) / spread
    power = (slope * POWER_ERROR**2 + POWER * error) / (POWER_ERROR**2 + error)
    power = min(max(power, LEAST_POWER), MOST_POWER)
    at_limit = math.exp((math.log(math.log(most)) - y0) / power + x0) if most > 1 else 0.0
    return {
        "room": max(0, round(at_limit) - points[-1][0]),
        "by": f"log perplexity as facts^{power:.2f}, from {len(rising)} versions, to max_perplexity_ratio {most:g}",
    }
