"""A model whose weights are set aside, in memory or on the disk, is edited as one that lies in its modules."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from editing.config import ValueSearchConfig
from editing.devices import checked_device
from editing.errors import ModelError
from editing.layout import layout_of
from editing.measure.scoring import score
from editing.methods import METHODS, compute_update, edited_layers, method_config
from editing.methods.memit import MemitConfig
from editing.models import LoadedModel, base_digest, load_model
from editing.placed import is_set_aside
from editing.search.values import search_values
from editing.weights import EditedWeights, overlay
from tests.editing.test_families import EDITS, PREFIXES, input_for, states
from tests.editing.test_methods import quick
from tests.families import tiny_family

SEARCH = ValueSearchConfig(steps=4, products="weights")
PAIRS = [(edit.text, edit.target_new) for edit in EDITS]


def set_aside(name: str, where: str, folder: Path) -> LoadedModel:
    tiny = tiny_family(name)
    if where == "disk":
        disk_offload(tiny.model, folder)
    else:
        cpu_offload(tiny.model)
    assert is_set_aside(tiny.model)
    return tiny


def worked(tiny: LoadedModel) -> dict[str, torch.Tensor]:
    """What a batch does with a model, from the search to the weights and back."""
    layout, weights = layout_of(tiny.model), EditedWeights(tiny.model, layout_of(tiny.model))
    given = input_for(tiny, (1, 2), PREFIXES)
    z = torch.stack(
        [one.z_star for one in search_values(tiny.model, tiny.tokenizer, layout, EDITS, 2, SEARCH, PREFIXES)]
    )
    update = compute_update(given, EDITS, z, MemitConfig(statistics_weight=1e-3)).update

    def scores() -> torch.Tensor:
        return torch.tensor([one.mean_logprob for one in score(tiny.model, tiny.tokenizer, PAIRS)])

    told = {"z": z, "before": scores()}
    with overlay(tiny.model, layout, update):
        told["overlay"] = scores()
    undo = weights.apply(update)
    told["after"], told["keys"] = scores(), states(tiny, EDITS, 2, prefixes=PREFIXES).keys
    assert base_digest(tiny.model) != tiny.digest
    with weights.at_base():
        torch.testing.assert_close(scores(), told["before"], rtol=0, atol=0)
    weights.revert(undo)
    assert base_digest(tiny.model) == tiny.digest
    return told


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "gemma2"])
def test_set_aside_weights_are_searched_written_and_put_back_as_if_they_lay_in_the_model(tmp_path, name, where):
    plain, other = worked(tiny_family(name)), worked(set_aside(name, where, tmp_path))
    assert (plain["after"] - plain["before"]).abs().max() > 1e-3
    for what, tensor in plain.items():
        torch.testing.assert_close(
            other[what], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, what=what: f"{what}: {text}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "gemma2"])
def test_a_model_is_spread_by_its_device_and_known_by_the_same_digest(tmp_path, name):
    tiny, folder = tiny_family(name), tmp_path / "model"
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    plain = load_model(str(folder), cache=tmp_path)
    spread = load_model(str(folder), device="auto:cpu=20KB", cache=tmp_path)
    assert is_set_aside(spread.model) and not is_set_aside(plain.model) and spread.digest == plain.digest
    assert not is_set_aside(load_model(str(folder), device="auto", cache=tmp_path).model)  # there is room
    for what, tensor in worked(plain).items():
        torch.testing.assert_close(worked(spread)[what], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("auto:gpu=3GB", "limits 'gpu', here are cpu"),
        ("auto:cpu", "the size '', which is none"),
        ("auto:cpu=much", "the size 'much', which is none; e.g. 'auto:cpu=8GiB'"),
        ("auto:7=1GB", "limits '7', here are cpu"),
        ("automatic", "cannot be used here"),
    ],
)
def test_a_device_that_says_no_place_is_refused(device, message):
    with pytest.raises(ModelError, match=message):
        checked_device(device)


GIB = 2**30


class Handed(Exception):
    pass


@pytest.mark.parametrize(
    ("device", "free", "handed"),
    [
        ("auto", {0: 100, 1: 60, "cpu": 200}, {0: 90, 1: 54, "cpu": 180}),
        ("auto:cpu=48GiB", {0: 100, 1: 60, "cpu": 200}, {0: 90, 1: 54, "cpu": 48}),
        ("auto:0=20GiB", {0: 100, 1: 60, "cpu": 200}, {0: 20, 1: 54, "cpu": 180}),
        ("auto:cpu=48GiB,1=20GiB,0=0GiB", {0: 100, 1: 60, "cpu": 200}, {0: 0, 1: 20, "cpu": 48}),
        ("auto", {"mps": 100}, {"cpu": 90}),
        ("auto:cpu=8GiB", {"mps": 100}, {"cpu": 8}),
    ],
)
def test_a_place_that_is_not_limited_is_used_as_far_as_it_is_free(monkeypatch, saved, device, free, handed):
    def read(*arguments: object, max_memory: dict[int | str, int], **options: object) -> None:
        raise Handed({name: size / GIB for name, size in max_memory.items()})

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: {name: size * GIB for name, size in free.items()})
    monkeypatch.setattr("editing.models.read_weights", read)
    with pytest.raises(Handed) as ended:
        load_model(str(saved), device=device, cache=saved)
    assert list(ended.value.args[0].items()) == list(handed.items())


def test_lora_refuses_weights_that_are_set_aside_before_any_work(tmp_path):
    tiny = set_aside("llama-tied", "memory", tmp_path)
    with pytest.raises(ModelError, match="does not reach weights that are set aside"):
        edited_layers(tiny.model, layout_of(tiny.model), method_config("lora"))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("lora", "alphaedit")])
def test_every_other_method_writes_the_same_into_weights_that_are_set_aside(tmp_path, method):
    changes = []
    for tiny in (tiny_family("llama-tied"), set_aside("llama-tied", "disk", tmp_path)):
        layers = (1,) if METHODS[method].config.one_layer else (1, 2)
        given = input_for(tiny, layers, PREFIXES)
        given = replace(given, weights=EditedWeights(tiny.model, given.layout))
        z_star = torch.randn(len(EDITS), 32, generator=torch.Generator().manual_seed(0))
        made = compute_update(given, EDITS, z_star, quick(given, method))
        changes.append({name: pair.B @ pair.A for name, pair in made.update.items()})
    for name, change in changes[0].items():
        torch.testing.assert_close(changes[1][name], change, rtol=1e-4, atol=1e-6)
