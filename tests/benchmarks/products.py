"""float32 products by torch's own function, by oneDNN and turned round, on this processor.

    python -m tests.benchmarks.products

A line is one shape of weights; of each number of tokens, how many times as fast as torch's own function each is. Then
the same of whole passes of the embedded model, by what is chosen for this processor.
"""

import argparse
import statistics
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from editing import linear
from editing.linear import Product, fast_linear, fastest_product
from editing.models import load_model
from tasks.settings import load_settings
from tests.benchmarks.timing import timed

PASSES = ((1, 1), (8, 1), (24, 1), (48, 1), (64, 1), (8, 16), (8, 64))
SHAPES = ((576, 192), (576, 576), (576, 1536), (1536, 576), (896, 4864), (2048, 8192), (576, 49152))
TOKENS = (1, 4, 8, 16, 32, 48, 64, 128, 256)
ROUNDS = 5
OPERATIONS = 3e8
"""Of a round, about."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    torch.set_num_threads(parser.parse_args().threads)
    chosen = fastest_product()
    name = "torch's own" if chosen is None else chosen.__name__
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, chosen: {name}", flush=True)
    _passes()
    linear.TURNED_WEIGHTS, linear.TURNED_TOKENS, linear.FEWEST_TOKENS = 1, range(1, 10_000), 1
    for product in (linear.by_onednn, linear.turned):
        print(f"\n{product.__name__:15s}" + "".join(f"{tokens:>7d}" for tokens in TOKENS))
        for d, m in SHAPES:
            gains = "".join(f"{_gain(product, d, m, tokens):>7.2f}" for tokens in TOKENS)
            print(f"{d:>6d} x {m:<6d}{gains}", flush=True)


def _passes() -> None:
    model = load_model("embedded", cache=load_settings().cache_folder).model
    print("\npasses, rows x tokens:", end="")
    for rows, tokens in PASSES:
        ids = torch.randint(0, 1000, (rows, tokens))

        def run(context: AbstractContextManager[None], ids: Tensor = ids) -> float:
            with torch.no_grad(), context:
                return timed(lambda: model(ids))[0]

        run(nullcontext())
        gains = [run(nullcontext()) / run(fast_linear(model)) for _ in range(3 * ROUNDS)]
        print(f"  {rows} x {tokens}: {statistics.median(gains):.2f}", end="", flush=True)
    print()


def _gain(product: Product, d: int, m: int, tokens: int) -> float:
    weights = [torch.randn(m, d) for _ in range(max(1, 8_000_000 // (d * m)))]  # more than the caches hold
    x = torch.randn(tokens, d)
    calls = max(1, min(20, int(OPERATIONS / (2 * d * m * tokens * len(weights)))))

    def run(by: Product) -> Tensor:
        for _ in range(calls):
            for W_md in weights:
                made = by(x, W_md, None)
        return made

    with torch.no_grad():
        run(product), run(nn.functional.linear)
        times = [(timed(lambda: run(nn.functional.linear))[0], timed(lambda: run(product))[0]) for _ in range(ROUNDS)]
    return statistics.median(plain / fast for plain, fast in times)


if __name__ == "__main__":
    main()
