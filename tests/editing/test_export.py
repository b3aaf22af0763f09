"""Exported adapters do in PEFT what the update does here, and come back as they were."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from editing.adapters.lora import CONFIG_FILE, WEIGHTS_FILE, export_lora, import_lora
from editing.adapters.rank import truncate
from editing.errors import EditingError, ModelError, SolveError
from editing.layout import layout_of
from editing.weights import EditedWeights, Factors, concatenate
from tests.editing.test_weights import IDS, all_digests, update_for
from tests.families import FAMILIES, tiny_family


def product(factors: Factors) -> torch.Tensor:
    return factors.B.double() @ factors.A.double()


def logits_with_adapter(model, folder) -> torch.Tensor:
    wrapped = PeftModel.from_pretrained(model, folder)
    try:
        return wrapped.eval()(input_ids=IDS).logits
    finally:
        wrapped.unload()


def merged_logits(tiny, update) -> torch.Tensor:
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    undo = weights.apply(update)
    logits = tiny.model(input_ids=IDS).logits
    weights.revert(undo)
    return logits


@pytest.mark.filterwarnings("ignore::FutureWarning", "error:fan_in_fan_out")
@pytest.mark.parametrize("name", FAMILIES)
def test_peft_computes_with_the_adapter_what_the_merged_model_computes(name, tmp_path):
    tiny = tiny_family(name)
    update = update_for(tiny.model)
    base, expected = tiny.model(input_ids=IDS).logits, merged_logits(tiny, update)
    assert export_lora(update, layout_of(tiny.model), "base", tmp_path).rank == 8
    found = logits_with_adapter(tiny.model, tmp_path)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_in_bfloat16_adapter_and_merged_model_differ_by_rounding_only(name, tmp_path):
    tiny = tiny_family(name, torch.bfloat16)
    update = update_for(tiny.model)
    export_lora(update, layout_of(tiny.model), "base", tmp_path)
    found, expected = logits_with_adapter(tiny.model, tmp_path), merged_logits(tiny, update)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (9, 16), (200, 256), (257, 320)])
def test_the_rank_is_padded_to_the_next_that_is_served_and_comes_back_exact(rank, served, tmp_path, tiny_gpt2):
    layout, update = layout_of(tiny_gpt2.model), update_for(tiny_gpt2.model, rank=rank)
    done = export_lora(update, layout, "base", tmp_path)
    assert (done.rank, done.error) == (served, 0.0)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert config["r"] == config["lora_alpha"] == served and config["fan_in_fan_out"]
    back = import_lora(tmp_path)
    assert back.keys() == update.keys()
    for name, factors in update.items():
        assert torch.equal(back[name].B, factors.B) and torch.equal(back[name].A, factors.A)


def test_beyond_the_largest_rank_the_best_approximation_is_written_and_its_error_stated(tmp_path, tiny_llama):
    update = update_for(tiny_llama.model, rank=24)
    done = export_lora(update, layout_of(tiny_llama.model), "base", tmp_path, max_rank=16)
    back, lost, total, best = import_lora(tmp_path), 0.0, 0.0, 0.0
    for name, factors in update.items():
        dense = product(factors)
        lost += (dense - product(back[name])).square().sum().item()
        total += dense.square().sum().item()
        best += torch.linalg.svdvals(dense)[16:].square().sum().item()
    assert done.rank == 16 and done.error > 0.01
    assert done.error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert done.error == pytest.approx((best / total) ** 0.5, rel=1e-4)


def test_many_factors_of_a_small_rank_are_cut_without_loss():
    B, A = torch.randn(32, 4), torch.randn(4, 64)
    mixed = Factors(torch.cat([B] * 5, dim=1), torch.cat([A] * 5))
    cut, lost, total = truncate(mixed, 4)
    assert cut.A.shape == (4, 64) and lost < 1e-12 * total
    torch.testing.assert_close(product(cut), product(mixed), atol=1e-4, rtol=1e-4)


def test_edits_go_on_from_an_imported_adapter(tmp_path, tiny_llama):
    layout, first, second = layout_of(tiny_llama.model), update_for(tiny_llama.model), update_for(tiny_llama.model, 1)
    export_lora(first, layout, "base", tmp_path)
    weights = EditedWeights(tiny_llama.model, layout)
    undo = weights.apply(concatenate([first, second]))
    expected = weights.digests()
    weights.revert(undo)
    weights.apply(import_lora(tmp_path))
    weights.apply(second)
    assert weights.digests() == expected


def test_a_merged_model_is_saved_and_read_as_any_other(tmp_path, tiny_gpt2):
    EditedWeights(tiny_gpt2.model, layout_of(tiny_gpt2.model)).apply(update_for(tiny_gpt2.model))
    tiny_gpt2.model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(tiny_gpt2.model) and all_digests(loaded) == all_digests(tiny_gpt2.model)


def test_scaled_adapters_of_others_are_imported_with_their_scale(tmp_path, tiny_llama):
    update = update_for(tiny_llama.model)
    export_lora(update, layout_of(tiny_llama.model), "base", tmp_path)
    path = tmp_path / CONFIG_FILE
    for changes, scale in (({"lora_alpha": 16}, 2.0), ({"lora_alpha": 16, "use_rslora": True}, 16 / 8**0.5)):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        for name, factors in import_lora(tmp_path).items():
            torch.testing.assert_close(product(factors), scale * product(update[name]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "is LORA with use_dora; only a plain LoRA"),
        ({"peft_type": "IA3"}, "is IA3 with no further settings; only a plain LoRA"),
        ({"bias": "all"}, "is LORA with bias; only a plain LoRA"),
    ],
)
def test_an_adapter_that_is_more_than_a_plain_lora_is_refused(changes, says, tmp_path, tiny_llama):
    export_lora(update_for(tiny_llama.model), layout_of(tiny_llama.model), "base", tmp_path)
    path = tmp_path / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=says):
        import_lora(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x08\x00\x00\x00\x00\x00\x00\x00{}garbage"])
@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_broken_adapter_is_refused_in_one_line(file, damage, tmp_path, tiny_llama):
    export_lora(update_for(tiny_llama.model), layout_of(tiny_llama.model), "base", tmp_path)
    (tmp_path / file).write_bytes(damage)
    with pytest.raises(ModelError, match="adapter") as error:
        import_lora(tmp_path)
    assert "\n" not in str(error.value)


def test_what_cannot_be_exported_leaves_no_folder_that_looks_complete(tmp_path, tiny_llama):
    layout, update = layout_of(tiny_llama.model), update_for(tiny_llama.model)
    with pytest.raises(EditingError, match="holds no weights"):
        export_lora({}, layout, "base", tmp_path)
    with pytest.raises(EditingError, match=r"ranks are \[\]"):
        export_lora(update, layout, "base", tmp_path, max_rank=0)
    next(iter(update.values())).A[0, 0] = float("inf")
    with pytest.raises(SolveError, match="not finite"):
        export_lora(update, layout, "base", tmp_path)
    assert not list(tmp_path.iterdir())
