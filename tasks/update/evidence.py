"""What a sample can tell: exact tests of a loss against what is allowed, and how many questions it takes to tell.

The same questions are asked before and after, so what counts are those that changed. Each test is one-sided.

- A share of the same questions, nothing allowed: McNemar's exact test, the sign test of what was lost against what was
  gained (McNemar 1947; https://doi.org/10.1007/BF02295996).
- A loss allowed: the exact distribution of lost less gained, with the rate of gains as the sample makes it worst, which
  is Berger and Boos's way with a nuisance (1994; https://doi.org/10.1080/01621459.1994.10476836).
- A share against a number: the binomial distribution.
- Sizes, such as nats a token on blocks of text: the sign-flip test of the differences, all flips where they are few,
  else a fixed sample of them (Phipson and Smyth 2010; https://doi.org/10.2202/1544-6115.1585).
- Questions of one request stand or fall together. Where they are several, the sign-flip test of the requests' sums is
  taken, too, and the larger p of the two counts.
- Several readings of the same requests, and all of them summed: the sign-flip test of each, all requests' signs shared,
  against the largest of them; and of several levels in a verdict Holm's procedure: tasks/update/families.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from statistics import NormalDist, stdev

import numpy as np

FALSE_ALARMS = 0.05
"""Most clean verdicts in which any level is breached."""
FOUND = 0.9
"""Least share of the losses by RESOLUTION that a sample must find to be called large enough."""
RESOLUTION = 0.05
"""The loss beyond the limit that a verdict has to tell from none: five points, or a twentieth of perplexity."""
NUISANCE = 0.001
"""The chance that the rate of gains is worse than what is assumed; it is added to p."""
GRID = 7
ALL_FLIPS, FLIPS = 12, 3999
MOST_QUESTIONS = 20_000


@dataclass(frozen=True)
class Evidence:
    """A sample against one limit."""

    value: float
    limit: float
    sample: int
    breached: float
    """p of what was found, were the limit just kept."""
    kept: float
    """p of what was found, were it missed by RESOLUTION."""
    needs: "Needs"
    beyond: Mapping[str, float] = field(default_factory=dict)
    """By request, what its questions lost beyond the limit; empty where no request has several."""

    @property
    def is_kept(self) -> bool:
        return self.kept <= FALSE_ALARMS


@dataclass(frozen=True)
class Needs:
    """How many questions it takes; worked out only where somebody asks."""

    allowed: float = 0.0
    gains: float = 0.0
    spread: float | None = None
    """Of sizes: their standard deviation over the resolution."""

    def questions(self, alpha: float) -> int | None:
        """To find a loss of RESOLUTION more than is allowed, in FOUND of the cases; None: more than anybody asks."""
        if self.spread is not None:
            normal = NormalDist()
            return max(8, math.ceil(((normal.inv_cdf(1 - alpha) + normal.inv_cdf(FOUND)) * self.spread) ** 2))
        return _questions(round(self.allowed, 6), round(self.gains, 3), alpha)


def at_least(count: int, of: int, p: float) -> float:
    """P(X ≥ count) of a binomial."""
    if count <= 0 or p >= 1:
        return float(count <= of)
    return _chance(range(count, of + 1), of, p)


def at_most(count: int, of: int, p: float) -> float:
    """P(X ≤ count) of a binomial."""
    if count >= of or p <= 0:
        return float(count >= 0)
    return _chance(range(count + 1), of, p)


def _chance(counts: range, of: int, p: float) -> float:
    if p <= 0 or p >= 1:
        return float((0 if p <= 0 else of) in counts)
    log, log_not, whole = math.log(p), math.log1p(-p), math.lgamma(of + 1)
    logs = (whole - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * log + (of - k) * log_not for k in counts)
    return min(1.0, math.fsum(map(math.exp, logs)))


def p_more_lost(lost: int, gained: int, of: int, allowed: float, *, of_right: bool = False) -> float:
    """p of losing so many net, were the loss in truth `allowed`; `of_right`: nothing could be gained."""
    if of_right:
        return at_least(lost, of, allowed)
    if allowed == 0:
        return at_least(lost, lost + gained, 0.5)
    if lost - gained <= allowed * of:
        return 1.0
    worst = max(
        _net_at_least(lost - gained, of, min(q, (1 - allowed) / 2) + allowed, min(q, (1 - allowed) / 2))
        for q in _gain_rates(gained, of)
    )
    return min(1.0, worst + NUISANCE)


def p_fewer_lost(lost: int, gained: int, of: int, allowed: float, *, of_right: bool = False) -> float:
    """p of losing so few net, were the loss in truth `allowed`, which is more than nothing."""
    if lost - gained >= allowed * of:
        return 1.0
    if of_right:
        return at_most(lost, of, allowed)
    if allowed >= 1:
        return 0.0
    worst = max(
        1 - _net_at_least(lost - gained + 1, of, min(q, (1 - allowed) / 2) + allowed, min(q, (1 - allowed) / 2))
        for q in _gain_rates(gained, of)
    )
    return min(1.0, worst + NUISANCE)


def p_positive(differences: Sequence[float]) -> float:
    """p of a mean so large, were each difference as likely to have the other sign."""
    x = np.asarray([one for one in differences if one], dtype=float)
    if not np.isfinite(x).all():
        return 0.0  # a number that is none is as bad as can be
    if not len(x):
        return 1.0
    slack = 1e-9 * np.abs(x).sum()
    if len(x) <= ALL_FLIPS:
        flips = np.array(list(product((1.0, -1.0), repeat=len(x)))) @ x
        return float((flips >= x.sum() - slack).mean())
    signs = np.random.default_rng(0).integers(0, 2, (FLIPS, len(x)), dtype=np.int8).astype(np.float32)
    sums = 2 * (signs @ x.astype(np.float32)) - x.sum()
    return float(((sums >= x.sum() - 1e-6 * np.abs(x).sum()).sum() + 1) / (FLIPS + 1))


def shares(
    now: Sequence[float],
    before: Sequence[float],
    allowed: float,
    groups: Sequence[str] = (),
) -> Evidence:
    """Questions right now and before, of which a share `allowed` may be lost; `groups`: the request of each."""
    lost = sum(then > is_now for is_now, then in zip(now, before, strict=True))
    gained = sum(then < is_now for is_now, then in zip(now, before, strict=True))
    drops = [then - is_now for is_now, then in zip(now, before, strict=True)]
    return _losses(drops, (lost, gained), allowed, groups, of_right=False)


def share_of(now: Sequence[float], least: float, groups: Sequence[str] = ()) -> Evidence:
    """Questions right now, of which at least a share `least` must be."""
    wrong = [1 - is_now for is_now in now]
    return _losses(wrong, (round(sum(wrong)), 0), 1 - least, groups, of_right=True)


def sizes(now: Sequence[float], before: Sequence[float] | None, allowed: float, resolution: float) -> Evidence:
    """Sizes of blocks, whose mean may be larger by `allowed` than before; with nothing before, than nothing."""
    then = before if before is not None else [0.0] * len(now)
    more = [a - b for a, b in zip(now, then, strict=True)]
    beyond = [one - allowed for one in more]
    spread = stdev(more) / resolution if len(more) > 1 and all(map(math.isfinite, more)) else math.inf
    needs = Needs(spread=spread if math.isfinite(spread) else 0.0)
    kept = p_positive([resolution - one for one in beyond]) if all(map(math.isfinite, more)) else 1.0
    value = math.fsum(more) / len(more) if all(map(math.isfinite, more)) else math.nan
    return Evidence(value, allowed, len(now), p_positive(beyond), kept, needs)


def _losses(
    drops: Sequence[float], counts: tuple[int, int], allowed: float, groups: Sequence[str], *, of_right: bool
) -> Evidence:
    (lost, gained), of = counts, len(drops)
    allowed = max(0.0, allowed)
    breached = p_more_lost(lost, gained, of, allowed, of_right=of_right)
    missed = min(1.0, allowed + RESOLUTION)
    kept = p_fewer_lost(lost, gained, of, missed, of_right=of_right)
    beyond: dict[str, float] = {}
    if len(set(groups)) < len(groups):
        sums: dict[str, list[float]] = {}
        for name, drop in zip(groups, drops, strict=True):
            sums.setdefault(name, []).append(drop)
        beyond = {name: math.fsum(one) - allowed * len(one) for name, one in sums.items()}
        breached = max(breached, p_positive([*beyond.values()]))
        kept = max(kept, p_positive([missed * len(one) - math.fsum(one) for one in sums.values()]))
    if allowed >= 1:  # all may be lost, so nothing breaches it, however few were asked
        breached, kept = 1.0, 0.0
    needs = Needs(allowed, 0.0 if of_right else gained / of)
    return Evidence(math.fsum(drops) / of, allowed, of, breached, kept, needs, beyond)


@lru_cache(maxsize=256)
def _gain_rates(gained: int, of: int) -> tuple[float, ...]:
    """Rates of gains that the sample does not speak against: up to Clopper and Pearson's limit."""
    low, high = gained / of, 1.0
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(gained, of, middle) > NUISANCE else (low, middle)
    return tuple(high * step / (GRID - 1) for step in range(GRID))


def _net_at_least(net: int, of: int, loss: float, gain: float) -> float:
    """P(lost − gained ≥ net) of `of` questions."""
    above = _net_tail(of, loss, gain)
    return float(above[min(max(net + of, 0), 2 * of + 1)])


@lru_cache(maxsize=64)
def _net_tail(of: int, loss: float, gain: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """P(lost − gained ≥ i − of) at index i: the n-th power of a question's characteristic function."""
    one = np.zeros(2 * of + 1)
    one[0], one[1], one[-1] = 1 - loss - gain, loss, gain  # by the difference, modulo 2n + 1
    chances = np.fft.irfft(np.fft.rfft(one) ** of, 2 * of + 1).clip(0)
    ordered = np.concatenate([chances[of + 1 :], chances[: of + 1]])
    return np.concatenate([ordered[::-1].cumsum()[::-1], [0.0]]).clip(0, 1)


@lru_cache(maxsize=256)
def _questions(allowed: float, gains: float, alpha: float) -> int | None:
    normal = NormalDist()
    spreads = [math.sqrt(loss + 2 * gains) for loss in (allowed, allowed + RESOLUTION)]
    about = (normal.inv_cdf(1 - alpha) * spreads[0] + normal.inv_cdf(FOUND) * spreads[1]) ** 2 / RESOLUTION**2
    of = max(10, math.floor(0.7 * about))  # the normal approximation says too few
    while of <= MOST_QUESTIONS and allowed + RESOLUTION + 2 * gains < 1:
        if _power(of, allowed, gains, alpha) >= FOUND:
            return of
        of = math.ceil(of * 1.08)
    return None


def _power(of: int, allowed: float, gains: float, alpha: float) -> float:
    """In which share of the cases a loss of RESOLUTION beyond what is allowed is found; about, where none is."""
    assumed = min(_gain_rates(round(gains * of), of)[-1] if allowed else gains, (1 - allowed) / 2)
    chances = _net_tail(of, allowed + assumed, assumed) + (NUISANCE if allowed else 0.0)
    net = int(np.argmax(chances <= alpha)) - of
    return _net_at_least(net, of, allowed + RESOLUTION + gains, gains)
