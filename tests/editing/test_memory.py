"""Memory is foretold from a configuration alone, and where it does not suffice the setting to lower is named."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from editing.collection import collect_statistics
from editing.config import ValueSearchConfig
from editing.contexts import sample_rows
from editing.devices import checked_device
from editing.errors import ModelError, OutOfMemory
from editing.layout import layout_of
from editing.measure.fluency import entropies, generate
from editing.measure.kl import divergence, read_states
from editing.measure.perplexity import perplexity
from editing.measure.scoring import score
from editing.memory import bytes_a_fact, peak, shape_of, stages
from editing.methods import compute_independent_updates, compute_update
from editing.methods.memit import MemitConfig
from editing.methods.mend.files import load_network, save_network
from editing.methods.mend.network import MendNetwork
from editing.models import load_model
from editing.search.tail import TailGroup
from editing.search.values import search_values
from editing.shortage import within_memory
from editing.weights import EditedWeights, Factors
from tests.editing.test_families import EDITS, input_for
from tests.editing.test_mend_training import SMALL, started
from tests.families import tiny_family
from tests.hypernetworks import untrained

MORE_THAN_ANY = 2**50
TEXTS = ("The old man said that the river Nile flows through the city. ",)

ROOT = Path(__file__).parents[2]


def too_much(*arguments, **options):
    """What no machine has room for, asked of torch as anything is."""
    return torch.empty(MORE_THAN_ANY)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "gemma3", "falcon-groups", "opt"])
def test_the_shape_of_a_configuration_is_that_of_the_loaded_model(name):
    model = tiny_family(name).model
    layout = layout_of(model)
    shape = shape_of(model.config, (1, 2))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.keys, shape.hidden) == (layout.key_size(model), 32)
    assert (shape.layers, shape.edited, shape.above) == (4, 2, 1)
    assert bytes_a_fact(shape) == 2 * (shape.keys + 32) * 4


def test_what_a_stage_is_told_to_be_less_by_makes_it_less():
    shape = shape_of(tiny_family("llama").model.config, (1, 2))
    method, fewer = MemitConfig(), MemitConfig(search=ValueSearchConfig(edits_at_once=1))
    whole, half = ({one.name: one.bytes for one in stages(shape, width, method)} for width in (4, 2))
    assert half["weights"] * 2 == whole["weights"]
    assert {one.name: one.bytes for one in stages(shape, 4, fewer)}["search of values"] < whole["search of values"]
    assert peak(stages(shape, 4, method)) >= sum(one.stands for one in stages(shape, 4, method))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system keeps no account")
def test_a_stage_takes_what_was_foretold():
    given = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # what is let go is given back at once
    command = [sys.executable, "-m", "tests.editing.held_stages"]
    ran = subprocess.run(command, env=os.environ | given, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert found.keys() == {
        *("key statistics", "key statistics, gone on with", "key statistics in parts"),
        "weights as written",
    }
    for stage, (told, held) in found.items():
        assert 0.75 * told < held < 1.25 * told, stage


def test_a_search_without_memory_says_what_to_lower_and_leaves_the_model(monkeypatch):
    tiny = tiny_family("llama")
    monkeypatch.setattr(TailGroup, "logprobs", lambda group, delta: torch.empty(MORE_THAN_ANY))
    with pytest.raises(
        OutOfMemory, match=r"^out of memory .* search fewer edits at once \(option search.edits_at_once\)"
    ):
        search_values(tiny.model, tiny.tokenizer, layout_of(tiny.model), EDITS, 2, ValueSearchConfig(), ("",))
    assert all("forward" not in vars(module) for module in tiny.model.modules())


def statistics(tiny):
    layout = layout_of(tiny.model)
    told = {"base_digest": tiny.digest, "source": "test", "max_tokens": 64}
    return collect_statistics(tiny.model, tiny.tokenizer, layout, (1,), TEXTS, **told)


def kl(tiny):
    base = torch.zeros(27, 32)  # as many tokens as TEXTS has
    return divergence(tiny.model, tiny.tokenizer, TEXTS, 1024, base, EditedWeights(tiny.model, None).at_base)


def update(tiny, compute=compute_update):
    return compute(tiny.given, EDITS, torch.zeros(len(EDITS), 32), MemitConfig(layers=(1,)))


STAGES = {
    "statistics": (statistics, "edit fewer layers"),
    "update": (update, "smaller batch"),
    "independent": (lambda tiny: update(tiny, compute_independent_updates), "smaller batch"),
    "score": (lambda tiny: score(tiny.model, tiny.tokenizer, [("The", " old")]), "neighborhood_probes"),
    "write": (lambda tiny: generate(tiny.model, tiny.tokenizer, ["The"], 4), "fluency_tokens"),
    "fluency": (lambda tiny: entropies(tiny.model, tiny.tokenizer, ["The"]), "fluency_tokens"),
    "sampled text": (lambda tiny: sample_rows(tiny.model, tiny.tokenizer, range(2), 0), "fewer tokens at once"),
    "perplexity": (lambda tiny: perplexity(tiny.model, tiny.tokenizer, TEXTS), "perplexity_tokens"),
    "states of the base": (lambda tiny: read_states(tiny.model, tiny.tokenizer, TEXTS, 1024), "kl_tokens"),
    "divergence": (kl, "kl_tokens"),
    "training": (lambda tiny: tiny.trainer.train_step(), "updates_at_once"),
    "training, begun": (lambda tiny: started(tiny.loaded, SMALL.model_copy(update={"step_size": None})), "rank"),
}
"""What passes tokens through a model, and of what its message speaks."""


class Tiny:
    """A model and what is made of it while there is memory."""

    def __init__(self) -> None:
        self.loaded = tiny_family("llama")
        self.model, self.tokenizer, self.digest = self.loaded.model, self.loaded.tokenizer, self.loaded.digest
        self.given, self.trainer = input_for(self.loaded), started(self.loaded)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_without_memory_says_in_one_line_what_to_lower(stage):
    work, less = STAGES[stage]
    tiny = Tiny()
    handle = layout_of(tiny.model).projection(tiny.model, 1).register_forward_pre_hook(too_much)
    with pytest.raises(OutOfMemory, match=rf"^out of memory \([^\n]*memory[^\n]*\) [^\n]*{less}[^\n]*errata doctor"):
        work(tiny)
    handle.remove()
    work(tiny)  # the model is as it was


def test_loading_without_memory_is_not_taken_for_a_broken_folder(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"vocab_size": MORE_THAN_ANY}))
    with pytest.raises(OutOfMemory, match=r"^out of memory [^\n]* load it in bfloat16 \(dtype\)"):
        load_model(str(saved), cache=saved)


def test_writing_weights_without_memory_leaves_them():
    tiny = tiny_family("llama")
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    name = weights.layout.weight_name(1)
    before = tiny.model.get_parameter(name).clone()
    change = {name: Factors(torch.ones(32, 1), torch.ones(1, weights.layout.key_size(tiny.model)))}
    with pytest.raises(OutOfMemory, match=r"^out of memory [^\n]* edit fewer layers"):
        weights.apply(change, too_much)
    assert torch.equal(tiny.model.get_parameter(name), before) and not weights.sums


def test_a_hypernetwork_that_finds_no_room_is_not_broken(tmp_path, monkeypatch):
    tiny = tiny_family("llama")
    save_network(untrained(tiny.model, tiny.digest, (1,)), tmp_path / "network")
    monkeypatch.setattr(MendNetwork, "load_state_dict", too_much)
    with pytest.raises(OutOfMemory, match=r"^out of memory [^\n]*"):
        load_network(tmp_path / "network")


NO_ROOM = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError(),
)


@pytest.mark.parametrize("error", NO_ROOM, ids=str)
def test_every_device_says_it_in_the_same_words(error):
    with pytest.raises(OutOfMemory, match="lower this; errata doctor --model"), within_memory("lower this"):
        raise error
    with pytest.raises(RuntimeError, match=r"^shapes$"), within_memory("lower this"):
        raise RuntimeError("shapes")
    with pytest.raises(FileNotFoundError), within_memory("lower this"):
        raise FileNotFoundError(errno.ENOENT, "no such file")


def test_of_two_stages_around_each_other_the_inner_one_is_heard_once():
    heard = pytest.raises(OutOfMemory, match=r"^out of memory \(MemoryError.\) inner; [^;]*$")
    with heard, within_memory("outer"), within_memory("inner"):
        raise MemoryError


def test_a_device_without_float64_is_refused_by_name():
    with pytest.raises(ModelError, match="device 'mps' has no float64"):
        checked_device("mps")
