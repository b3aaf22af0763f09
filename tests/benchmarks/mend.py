"""What a MEND edit costs: against one forward and backward pass of its prompt, and against a ROME edit.

The hypernetwork is not trained: what it costs does not depend on what it has learnt.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from editing.config import MethodConfig
from editing.contexts import context_prefixes
from editing.covariance import KeyStatistics
from editing.edit import Edit
from editing.layout import layout_of
from editing.methods import compute_update, edited_layers, method_config
from editing.methods.gradients.features import token_gradients
from editing.methods.gradients.targets import encode_targets, target_loss
from editing.methods.mend.files import load_network, save_network
from editing.methods.mend.options import MendTraining
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.models import LoadedModel
from editing.search.values import search_values
from editing.weights import EditedWeights
from tests.benchmarks.statistics import statistics_of_text
from tests.benchmarks.timing import timed
from tests.hypernetworks import moved, untrained

RANK = MendTraining().rank
PARTS = ("file", "gradient", "hypernetwork", "apply")


def bench_mend(loaded: LoadedModel, edits: list[Edit], rounds: int) -> None:
    """Single edits, each from the base and taken back: seconds of a pass, of MEND and its parts, and of ROME."""
    model, tokenizer, layout = loaded.model, loaded.tokenizer, layout_of(loaded.model)
    weights, rome = EditedWeights(model, layout), method_config("rome")
    prefixes = context_prefixes(model, tokenizer, rome.contexts, rome.context_tokens, rome.seed)
    at_rome = setting_of(loaded, rome, statistics_of_text(loaded, edited_layers(model, layout, rome)), tuple(prefixes))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hypernetwork.safetensors"
        mend = method_config("mend", {"hypernetwork": str(file)})
        whole = mend.model_copy(update={"confidence": None})
        at_mend = setting_of(loaded, mend, KeyStatistics({}, 0, loaded.digest, "none"), ("",))
        save_network(moved(untrained(model, loaded.digest, at_mend.layers, step_size=1e-4, rank=RANK)), file)
        modules = layout.projections(model, at_mend.layers, ())

        def a_pass(edit: Edit, names: list[str]) -> None:
            chosen = [model.get_parameter(name).requires_grad_(True) for name in names]
            torch.autograd.grad(target_loss(model, encode_targets(model, tokenizer, [edit])), chosen)
            for parameter in chosen:
                parameter.requires_grad_(False)

        def mended(edit: Edit, config: MethodConfig = mend) -> None:
            weights.revert(weights.apply(compute_update(at_mend, [edit], torch.zeros(1, 0), config).update))

        def romed(edit: Edit) -> None:
            [found] = search_values(model, tokenizer, layout, [edit], at_rome.layers[-1], rome.search, at_rome.prefixes)
            weights.revert(weights.apply(compute_update(at_rome, [edit], found.z_star[None], rome).update))

        def parts(edit: Edit) -> list[float]:
            reading, network = timed(lambda: load_network(file))
            targets = encode_targets(model, tokenizer, [edit])
            passing, tokens = timed(lambda: token_gradients(model, modules, targets))
            with torch.no_grad():
                computing, [update] = timed(lambda: network.updates(tokens))
            writing, undo = timed(lambda: weights.apply(update))
            weights.revert(undo)
            return [reading, passing, computing, writing]

        every = [name for name, _ in model.named_parameters()]
        ways: dict[str, Callable[[Edit], object]] = {
            "pass": lambda edit: a_pass(edit, every),
            "pass for the edited weights alone": lambda edit: a_pass(edit, list(modules)),
            "mend": mended,
            "mend, updates whole": lambda edit: mended(edit, whole),
            "rome": romed,
        }
        for way in ways.values():
            way(edits[0])  # warm up
        seconds = {name: [] for name in ways}
        shares = []
        for _ in range(rounds):
            for name, way in ways.items():
                seconds[name].append(sum(timed(lambda e=edit, way=way: way(e))[0] for edit in edits) / len(edits))
            shares += [parts(edit) for edit in edits]
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    columns = zip(PARTS, zip(*shares, strict=True), strict=True)
    shown = ", ".join(f"{name} {statistics.median(column):.3f} s" for name, column in columns)
    print(f"a MEND edit at layers {list(at_mend.layers)}, rank {RANK}: {middle['mend']:.3f} s; {shown}")
    for name in list(ways)[:2]:
        times = [m / p for m, p in zip(seconds["mend"], seconds[name], strict=True)]
        print(f"    {statistics.median(times):.2f} times a forward and backward {name} ({middle[name]:.3f} s)")
    for name in ("mend", "mend, updates whole"):
        times = [r / m for r, m in zip(seconds["rome"], seconds[name], strict=True)]
        print(f"    {name}: {statistics.median(times):.1f} times faster than a ROME edit ({middle['rome']:.2f} s)")


def setting_of(
    loaded: LoadedModel, config: MethodConfig, statistics: KeyStatistics, prefixes: tuple[str, ...]
) -> MethodInput:
    layout = layout_of(loaded.model)
    layers = edited_layers(loaded.model, layout, config)
    return MethodInput(loaded.model, loaded.tokenizer, layout, layers, statistics, KeyHistory(), prefixes)
