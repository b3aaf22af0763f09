"""What stages of a job take of memory, foretold and measured, in a process of its own: what others let go counts.

Prints JSON: of each stage the bytes foretold and the most that were held.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from editing import collection
from editing.cache import Cache
from editing.collection import Unfinished, collect_statistics
from editing.layout import layout_of
from editing.memory import shape_of, stages
from editing.methods.memit import MemitConfig
from editing.streamed import save_tensors
from editing.weights import EditedWeights, Factors
from tests.conftest import byte_tokenizer
from tests.held import most_held

SIZES = {"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 4}
"""Squares of keys are large beside all else."""
LAYERS = (0, 1, 2)
TEXTS = ("The old man said that the river Nile flows through the city. ",) * 70


def statistics(model, tokenizer, cache: Cache) -> None:
    """Collected, kept on the way and at the end, and shrunk."""
    kept = Unfinished(
        lambda: cache.read("kind", "on the way", load_file),
        lambda sums: cache.write("kind", "on the way", partial(save_tensors, tensors=sums)),
        seconds=0.0,
        work_a_write=0.0,
    )
    about = {"base_digest": "base", "source": "test", "max_tokens": 4096}
    found = collect_statistics(model, tokenizer, layout_of(model), LAYERS, TEXTS, **about, unfinished=kept)
    cache.write("kind", "whole", found.save)
    found.shrunk(in_place=True)


def in_parts(model, tokenizer, cache: Cache) -> None:
    """The same of a text of several parts."""
    collection.PART_BATCHES = 1
    statistics(model, tokenizer, cache)


def two_batches(model) -> None:
    """The first that stands, and one that may be taken back."""
    layout = layout_of(model)
    weights = EditedWeights(model, layout)
    change = {layout.weight_name(layer): Factors(torch.ones(256, 1), torch.ones(1, 2048)) for layer in LAYERS}
    undone = [weights.apply(change) for _ in range(2)]
    for undo in reversed(undone):
        weights.revert(undo)


def main() -> None:
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model("llama", **SIZES, num_key_value_heads=2, vocab_size=len(tokenizer))
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    shape = shape_of(config, LAYERS)
    told = {one.name: one.bytes for one in stages(shape, 4, MemitConfig())}
    told |= {f"{one.name} in parts": one.bytes for one in stages(shape, 4, MemitConfig(statistics_tokens=99_999))}
    model(torch.zeros(1, 8, dtype=torch.long))  # what torch begins with
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        collect = partial(statistics, model, tokenizer, Cache(Path(folder)))
        for name, work in (
            ("key statistics", collect),
            ("key statistics, gone on with", collect),
            ("weights as written", partial(two_batches, model)),
            ("key statistics in parts", partial(in_parts, model, tokenizer, Cache(Path(folder, "parts")))),
        ):
            most_held()
            before = most_held()
            work()
            found[name] = told[name.partition(",")[0]], most_held() - before
    print(json.dumps(found))


if __name__ == "__main__":
    main()
