"""Whatever an edited model was stored as, it comes back with every bit, and further edits go on from there."""

import pytest
import torch

from editing.adapters.gguf import export_gguf_lora, import_gguf_lora
from editing.adapters.lora import export_lora, import_lora
from editing.errors import ModelError
from editing.layout import layout_of
from editing.methods import compute_update, method_config
from editing.models import LoadedModel, base_digest, load_model, quiet_transformers
from editing.weights import EditedWeights
from tests.conftest import tiny_model
from tests.editing.test_export_gguf import READ_THERE
from tests.editing.test_methods import EDITS, make_input, wanted
from tests.editing.test_weights import update_for
from tests.families import tiny_family

CONFIG = method_config("memit", {"statistics_weight": 1e-3})


def merged(edited: LoadedModel, update, folder) -> tuple[LoadedModel, EditedWeights]:
    with quiet_transformers():
        edited.model.save_pretrained(folder)
        edited.tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder), cache=folder)
    assert loaded.digest == base_digest(edited.model)
    return loaded, EditedWeights(loaded.model, layout_of(loaded.model))


def peft(edited: LoadedModel, update, folder) -> tuple[LoadedModel, EditedWeights]:
    export_lora(update, layout_of(edited.model), "base", folder)
    return applied(edited, import_lora(folder))


def gguf(edited: LoadedModel, update, folder) -> tuple[LoadedModel, EditedWeights]:
    export_gguf_lora(update, edited.model, folder / "adapter.gguf")
    return applied(edited, import_gguf_lora(folder / "adapter.gguf", edited.model))


def applied(edited: LoadedModel, update) -> tuple[LoadedModel, EditedWeights]:
    """The update on the base as it was loaded first."""
    base = tiny_model("gpt2" if "gpt2" in edited.reference else "llama")
    weights = EditedWeights(base.model, layout_of(base.model))
    weights.apply(update)
    return base, weights


@pytest.mark.parametrize("stored", [merged, peft, gguf])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_editing_goes_on_from_what_was_stored(architecture, stored, tmp_path):
    edited = tiny_model(architecture)
    base = make_input(edited, (1, 2))
    weights = EditedWeights(edited.model, base.layout)
    first = compute_update(base, EDITS[:2], wanted(base)[:2], CONFIG)
    weights.apply(first.update)
    loaded, gone_on = stored(edited, first.update, tmp_path)
    assert base_digest(loaded.model) == base_digest(edited.model)
    settings = [make_input(one, (1, 2)) for one in (edited, loaded)]
    z_star = wanted(settings[0])[2:]
    for given, one in zip(settings, (weights, gone_on), strict=True):
        one.apply(compute_update(given, EDITS[2:], z_star, CONFIG).update)
    if stored is merged:  # rounded once when it was saved, and once now
        for name in first.update:
            found, expected = (model.model.get_parameter(name) for model in (loaded, edited))
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    else:
        assert gone_on.digests() == weights.digests()


@pytest.mark.parametrize("name", READ_THERE)
def test_a_gguf_adapter_comes_back_bit_for_bit(name, tmp_path):
    model, path = tiny_family(name).model, tmp_path / "adapter.gguf"
    update = update_for(model)
    export_gguf_lora(update, model, path)
    back = import_gguf_lora(path, model)
    assert back.keys() == update.keys()
    for weight, factors in update.items():
        assert torch.equal(back[weight].B, factors.B) and torch.equal(back[weight].A, factors.A)


def test_a_gguf_file_that_is_no_adapter_of_this_model_is_refused(tmp_path, tiny_llama, tiny_gpt2):
    path = tmp_path / "adapter.gguf"
    with pytest.raises(ModelError, match=r"cannot be read as GGUF \(.*; give what export_gguf_lora wrote"):
        import_gguf_lora(path, tiny_llama.model)
    path.write_bytes(b"GGUF and no more")
    with pytest.raises(ModelError, match=r"cannot be read as GGUF"):
        import_gguf_lora(path, tiny_llama.model)
    export_gguf_lora(update_for(tiny_gpt2.model), tiny_gpt2.model, path)
    with pytest.raises(ModelError, match="is lora for gpt2; give a LoRA adapter for llama"):
        import_gguf_lora(path, tiny_llama.model)
    wide = tiny_family("llama").model
    wide.model.layers[1].mlp.down_proj = torch.nn.Linear(65, 32, bias=False)
    export_gguf_lora(update_for(wide, layers=(1,)), wide, path)
    with pytest.raises(ModelError, match=r"does not fit 'model\.layers\.1\.mlp\.down_proj\.weight' .*\(32 x 64\)"):
        import_gguf_lora(path, tiny_llama.model)
