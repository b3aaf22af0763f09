"""Independent edits, each measured on the model that holds it alone: all together against one after the other."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from editing.edit import Edit
from editing.layout import layout_of
from editing.measure.metrics import EditScores, evaluate
from editing.models import LoadedModel
from editing.weights import EditedWeights, Factors, WeightUpdate
from tests.benchmarks.statistics import preset_layers
from tests.benchmarks.timing import ratio, timed
from tests.reference import plain_metrics


def bench_independent(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """One evaluation with an update for each row; weights written, evaluated and put back; and the published way."""
    edits = [edit for edit in edits if edit.target_true is not None]  # the published way compares two targets
    model, tokenizer, layout = loaded.model, loaded.tokenizer, layout_of(loaded.model)
    updates = random_updates(loaded, len(edits))
    weights = EditedWeights(model, layout)

    def together() -> list[EditScores]:
        return evaluate(model, tokenizer, edits, updates=updates)

    def swapped() -> list[EditScores]:
        scores: list[EditScores] = []
        for edit, update in zip(edits, updates, strict=True):
            undo = weights.apply(update)
            scores += evaluate(model, tokenizer, [edit])
            weights.revert(undo)
        return scores

    def published() -> list[dict[str, float]]:
        metrics = []
        for edit, update in zip(edits, updates, strict=True):
            kept = {name: model.get_parameter(name).clone() for name in update}
            for name, factors in update.items():
                model.get_parameter(name).add_(layout.oriented(factors.B @ factors.A))
            metrics.append(plain_metrics(model, tokenizer, edit))
            for name, tensor in kept.items():
                model.get_parameter(name).copy_(tensor)
        return metrics

    ways: dict[str, Callable[[], Any]] = {
        "together": together,
        "written, evaluated and reverted": swapped,
        "written and evaluated as published": published,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    tokens, found = {}, {}
    with passing_tokens(loaded) as passed:
        for _ in range(rounds):
            for name, way in ways.items():
                passed.clear()
                seconds, found[name] = timed(way)
                times[name].append(seconds)
                tokens[name] = sum(passed)
    alone, plain = list(found.values())[1:]
    same = sum(one == two for one, two in zip(found["together"], alone, strict=True))
    near = sum(two.items() <= one.numbers().items() for one, two in zip(found["together"], plain, strict=True))
    print(f"independent edits: {same} of {len(edits)} measure the same one by one, {near} in the published way")
    for name, rounds_of in times.items():
        each = f"{statistics.median(rounds_of) / len(edits):.3f} s and {tokens[name] / len(edits):.0f} tokens an edit"
        print(f"    {name}: {each}; together is {ratio(rounds_of, times['together'])}")


def random_updates(loaded: LoadedModel, count: int) -> list[WeightUpdate]:
    """As a locate-then-edit method makes them: rank one at each layer of the model's preset."""
    layout, layers = layout_of(loaded.model), preset_layers(loaded.model)
    generator, updates = torch.Generator().manual_seed(0), list[WeightUpdate]()
    for _ in range(count):
        update = {}
        for layer in layers:
            name = layout.weight_name(layer)
            m, d = layout.oriented(loaded.model.get_parameter(name)).shape
            B, A = torch.randn(m, 1, generator=generator), torch.randn(1, d, generator=generator)
            update[name] = Factors(0.03 * B, 0.03 * A)
        updates.append(update)
    return updates


@contextmanager
def passing_tokens(loaded: LoadedModel) -> Iterator[list[int]]:
    """The tokens, padding included, of every batch that passes the first layer."""
    seen: list[int] = []
    layer = layout_of(loaded.model).layer_list(loaded.model)[0]
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2].numel()))
    try:
        yield seen
    finally:
        handle.remove()
