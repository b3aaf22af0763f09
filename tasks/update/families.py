"""Levels judged together, so that a clean verdict has a false alarm among all of them in at most one of twenty cases.

What is asked of the same requests in several ways is one family, such as the counts of neighbors. Its readings and
their sum are tested at once: the same signs are flipped in all of them, request by request, and each is held against
the largest of them, as Westfall and Young do (Resampling-Based Multiple Testing, 1993). Readings that go together cost
little so, and what each shows faintly their sum shows. No reading counts as breached that is not by itself, nor the sum
where none is: sign flips trust that losses and gains are spread alike, the test of a single reading need not.

Families are judged by Holm's procedure (1979, https://www.jstor.org/stable/4615733), each weighed by its readings.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from tasks.update.evidence import ALL_FLIPS, FALSE_ALARMS, FLIPS, Evidence


def holm(ps: Sequence[float], weights: Sequence[float] = (), alpha: float = FALSE_ALARMS) -> list[float]:
    """The p at which each is significant, so that any false one among them has at most the chance alpha; 0: it is not.

    Args:
        weights: what share of alpha each may use up; none, all alike.
    """
    weighed = list(weights) or [1.0] * len(ps)
    found, left = [0.0] * len(ps), sum(weighed)
    for place in sorted(range(len(ps)), key=lambda i: ps[i] / weighed[i]):
        threshold = alpha * weighed[place] / left
        if ps[place] > threshold:
            break
        found[place] = threshold
        left -= weighed[place]
    return found


def together(readings: Sequence[Evidence]) -> list[Evidence]:
    """Readings of the same requests, of which the last is the sum of the others, with p for being several."""
    *single, _ = readings
    alone = min(one.breached for one in single)
    guards = [*(one.breached for one in single), max(alone, readings[-1].breached)]
    kept = [*(one.kept for one in single), max(one.kept for one in readings)]
    corrected = _against_the_largest(readings)
    return [
        replace(one, breached=max(p, guard), kept=well)
        for one, p, guard, well in zip(readings, corrected, guards, kept, strict=True)
    ]


def _against_the_largest(readings: Sequence[Evidence]) -> list[float]:
    """p of each reading's mean, were each request as likely to have the other sign in all of them."""
    names = list(dict.fromkeys(name for one in readings for name in one.beyond))
    x = np.array([[one.beyond.get(name, 0.0) for name in names] for one in readings])
    x = x[:, np.abs(x).sum(0) > 0]
    if not x.shape[1]:
        return [1.0] * len(readings)
    x = x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True)), 1e-12)
    count = x.shape[1]
    if count <= ALL_FLIPS:
        signs, more = np.array(list(product((1.0, -1.0), repeat=count))), 0
    else:
        signs, more = np.random.default_rng(0).choice([-1.0, 1.0], (FLIPS, count)), 1
    largest = (signs @ x.T).max(1)
    return [float(((largest >= t - 1e-9).sum() + more) / (len(signs) + more)) for t in x.sum(1)]
