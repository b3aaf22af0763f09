"""What it costs to write very many facts together, by formula and by measurement, on random keys.

    python -m tests.benchmarks.scale [--sizes 1024 2048 4096] [--facts 2048 8192] [--full 10000]

Of one layer with d keys and m values: products of n facts, one factorisation, one solve. Each size is measured in a
process of its own, whose peak of memory is told beside the formula's; the rates that follow give a layer of 8B's size
(d = 14,336, m = 4,096) for 10,000 and 100,000 facts. `--full N` measures that layer itself, with N facts.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from unittest.mock import patch

import torch

from editing.methods.shared import blocks
from editing.methods.shared.solve import cholesky

LARGE = 14_336, 4_096
BLOCK = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--facts", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--full", type=int, help="facts of a layer of 8B's size to be measured")
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(*asked.one)))
        return
    rates: list[dict[str, float]] = []
    for d in asked.sizes:
        rates += [told(d, 2 * d // 7, n) for n in asked.facts]
    if asked.full:
        told(*LARGE, asked.full)
    d, m = LARGE
    rate = {name: statistics.median(one[name] for one in rates) for name in ("products", "factor", "solve")}
    print("rates, GFLOP/s: " + ", ".join(f"{name} {value:.0f}" for name, value in rate.items()))
    for n in (10_000, 100_000, 1_000_000):
        flops, memory = work(d, m, n), held(d, m)
        seconds = {name: flops[name] / rate[name] / 1e9 for name in flops}
        print(
            f"d = {d}, m = {m}, {n} facts: {sum(seconds.values()):.0f} s a layer on this one ("
            + ", ".join(f"{name} {flops[name] / 1e12:.2f} TFLOP, {seconds[name]:.0f} s" for name in flops)
            + f"), {memory / 2**30:.1f} GiB; all keys at once would be {4 * n * d / 2**30:.1f} GiB"
        )


def work(d: int, m: int, n: int) -> dict[str, float]:
    """Operations of one layer: the lower half of K Kᵀ with R Kᵀ, the factor, and m right-hand sides."""
    return {"products": n * d * (d + blocks.WIDTH) + 2 * n * m * d, "factor": d**3 / 3, "solve": 2 * m * d * d}


def held(d: int, m: int) -> float:
    """Bytes: M, its factor and LAPACK's copy of that, R Kᵀ and what is solved; a block, and its products, widened."""
    return 8 * (3 * d * d + 2 * d * m + d * blocks.WIDTH) + 4 * (BLOCK * (d + m) + d * blocks.WIDTH)


def told(d: int, m: int, n: int) -> dict[str, float]:
    """Measured in a process of its own: GFLOP/s by part."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--one", str(d), str(m), str(n)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    flops = work(d, m, n)
    rates = {name: flops[name] / found[name] / 1e9 for name in flops}
    parts = ", ".join(f"{name} {found[name]:.2f} s ({rates[name]:.0f} GFLOP/s)" for name in flops)
    print(
        f"d = {d}, m = {m}, {n} facts: {parts}, of processor time; {found['memory'] / 2**20:.0f} MiB at most, by "
        f"formula {held(d, m) / 2**20:.0f}",
        flush=True,
    )
    return rates


def measure(d: int, m: int, n: int) -> dict[str, float]:
    """Seconds of processor time by part, and the bytes that the peak rose by."""
    generator, making = torch.Generator().manual_seed(0), [0.0]
    torch.linalg.cholesky_ex(torch.eye(8, dtype=torch.float64))  # what it loads is not counted
    before = peak()
    M_dd = torch.eye(d, dtype=torch.float64).mul_(2600.0)

    def coming() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, n, BLOCK):
            begun, size = time.process_time(), min(BLOCK, n - start)
            block = torch.randn(size, d, generator=generator), torch.randn(size, m, generator=generator)
            making[0] += time.process_time() - begun
            yield block
            del block

    times = [time.process_time()]

    def noting(M: torch.Tensor, remedy: str) -> torch.Tensor:
        times.append(time.process_time())
        factor = cholesky(M, remedy)
        times.append(time.process_time())
        return factor

    with patch.object(blocks, "cholesky", noting):
        blocks.delta_in_blocks(M_dd, coming())
    times.append(time.process_time())
    begun, summed, factored, solved = times
    return {
        "products": summed - begun - making[0],
        "factor": factored - summed,
        "solve": solved - factored,
        "memory": peak() - before,
    }


def peak() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
