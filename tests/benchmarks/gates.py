"""False alarms and finds of the default policy, on jobs that are made up and judged by the real judge.

    python -m tests.benchmarks.gates [--jobs 400] [--loss 0.05] [--one-limit]

A clean job loses and gains neighbors by chance alone, and those of one fact together rather than singly; a harmed one
loses so many more, in what is left of it: facts that lose more than `max_edit_locality_drop` were undone with their
batch. Counted is what the verdict as a whole says: fails, cannot tell, or holds.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from tasks.update.judge import judge
from tasks.update.measured import Lost, Measured, Paired
from tasks.update.policy import NEIGHBORS, Policy, make_policy

FACTS = (10, 25, 50, 100, 200, 400)
PROBES = 5
BLOCKS = 32


@dataclass(frozen=True)
class Planted:
    """What a job is made up of."""

    facts: int
    loss: float = 0.0
    """Share of the neighbors that are lost for good, of those of the facts that are kept."""
    churn: float = 0.01
    """Share that are lost by chance, and as many that are gained."""
    together: float = 0.1
    """Correlation of what happens to the neighbors of one fact."""
    perplexity: float = 1.01


@dataclass(frozen=True)
class Rates:
    """In which share of the verdicts it fails, does not and cannot tell of neighbors, or holds throughout."""

    failed: float
    unclear: float
    held: float


def rates(planted: Planted, jobs: int, seed: int, policy: Policy | None = None) -> Rates:
    """What a policy (the default one) says of so many jobs."""
    rng, used = np.random.default_rng(seed), policy or Policy()
    counts = [0, 0, 0]
    for _ in range(jobs):
        checks = judge(made_up(planted, rng), used, at="job")
        failed = any(check.fails for check in checks)
        unclear = any(not check.told for check in checks if check.measure.startswith("neighbors_"))
        counts[0 if failed else 1 if unclear else 2] += 1
    failed_share, unclear_share, held_share = (count / jobs for count in counts)
    return Rates(failed_share, unclear_share, held_share)


def made_up(planted: Planted, rng: np.random.Generator) -> Measured:
    """One job: every fact takes, and chance does the rest."""
    lost = _kept(planted, _before_undoing(planted), rng)
    ratio = rng.normal(np.log(planted.perplexity), 0.02, BLOCKS)
    base = rng.normal(3.0, 0.3, BLOCKS)
    metrics = {
        "efficacy_prob": 1.0,
        "fluency_ratio": float(rng.normal(1.0, 0.02)),
        "perplexity_ratio": float(np.exp(ratio.mean())),
        "retained_efficacy_prob": rng.binomial(20, 0.98) / 20,
    }
    samples = {"efficacy": planted.facts, "fluency": 5, "retained": 20}
    text = Paired(list(base + ratio), list(base))
    return Measured(metrics, lost, samples, paired={"perplexity": text})


def _kept(planted: Planted, loss: float, rng: np.random.Generator) -> dict[str, Lost]:
    """What the facts of a job lost, without those whose batch was undone for what they alone lost."""
    lost: dict[str, Lost] = {}
    while len(lost) < planted.facts:
        down = _together(planted.churn + loss, planted.together, rng, 2)
        up = _together(planted.churn, planted.together, rng, 2)
        here = Lost(int(down[0] - up[0]), PROBES, int(down[1] - up[1]), PROBES)
        if not here.exceeds(Policy().max_edit_locality_drop):
            lost[str(len(lost))] = here
    return lost


@lru_cache
def _before_undoing(planted: Planted) -> float:
    """The share that has to be lost for the planted one to be left in what is kept."""
    loss = planted.loss
    for _ in range(4 if loss else 0):
        kept = _kept(replace(planted, facts=4000), loss, np.random.default_rng(0))
        left = sum(one.unpreferred + one.unsaid for one in kept.values()) / (2 * PROBES * len(kept))
        loss *= planted.loss / left
    return loss


def _together(share: float, correlation: float, rng: np.random.Generator, counts: int) -> Sequence[int]:
    """How many of a fact's neighbors, by each count, where the share differs from fact to fact (beta-binomial)."""
    if share == 0:
        return [0] * counts
    scale = 1 / correlation - 1
    own = rng.beta(share * scale, (1 - share) * scale)
    return [int(one) for one in rng.binomial(PROBES, own, counts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=400, help="jobs of each size")
    parser.add_argument("--loss", type=float, default=0.05, help="share of the neighbors that a harmed job loses")
    parser.add_argument("--churn", type=float, default=0.01, help="share that is lost, and gained, by chance")
    parser.add_argument("--one-limit", action="store_true", help="one limit of neighbors for all counts, a point")
    arguments = parser.parse_args()
    policy = make_policy(levels={"neighbors": NEIGHBORS["neighbors"]}) if arguments.one_limit else Policy()
    print(f"{arguments.jobs} jobs a row, {PROBES} neighbors a fact, churn {arguments.churn:.1%}")
    print(f"{'facts':>6} {'clean: fails':>13} {'cannot tell':>12} {'holds':>7}", end="")
    print(f" {f'-{arguments.loss:.0%}: fails':>13} {'cannot tell':>12} {'holds':>7}")
    for facts in FACTS:
        clean = rates(Planted(facts, churn=arguments.churn), arguments.jobs, facts, policy)
        harmed = rates(Planted(facts, arguments.loss, arguments.churn), arguments.jobs, facts + 1, policy)
        cells = [f"{one.failed:13.1%} {one.unclear:12.1%} {one.held:7.1%}" for one in (clean, harmed)]
        print(f"{facts:6d} {' '.join(cells)}")


if __name__ == "__main__":
    main()
