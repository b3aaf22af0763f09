"""A GGUF adapter holds the update's factors under GGUF's own names."""

import gguf
import pytest
import torch

from editing.adapters.gguf import ARCHITECTURES, export_gguf_lora
from editing.errors import EditingError, ModelError
from editing.layout import LAYOUTS
from editing.weights import Factors
from tests.editing.test_weights import update_for
from tests.families import FAMILIES, tiny_family

UNKNOWN_TO_LLAMA_CPP = {"gpt_neo", "opt"}
READ_THERE = [name for name, (model_type, _) in FAMILIES.items() if model_type in ARCHITECTURES]


def test_every_layout_has_a_gguf_architecture_or_is_refused_by_name(tmp_path):
    assert ARCHITECTURES.keys() == LAYOUTS.keys() - UNKNOWN_TO_LLAMA_CPP
    model = tiny_family("opt").model
    with pytest.raises(ModelError, match=r"llama\.cpp does not know the architecture 'opt'.*in PEFT's format"):
        export_gguf_lora(update_for(model), model, tmp_path / "adapter.gguf")


@pytest.mark.parametrize("name", READ_THERE)
def test_a_reader_finds_the_factors_and_a_scale_of_one(name, tmp_path):
    model, path = tiny_family(name).model, tmp_path / "adapter.gguf"
    update = update_for(model)
    done = export_gguf_lora(update, model, path)
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.type"] == "adapter" and fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == done.rank == 3
    assert fields["general.architecture"] == gguf.MODEL_ARCH_NAMES[ARCHITECTURES[model.config.model_type]]
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    for layer, factors in zip((1, 2), update.values(), strict=True):
        assert torch.equal(tensors.pop(f"blk.{layer}.ffn_down.weight.lora_a"), factors.A)
        assert torch.equal(tensors.pop(f"blk.{layer}.ffn_down.weight.lora_b"), factors.B)
    assert not tensors


def test_what_cannot_be_written_leaves_nothing(tmp_path, tiny_llama):
    path = tmp_path / "adapter.gguf"
    with pytest.raises(EditingError, match="holds no weights"):
        export_gguf_lora({}, tiny_llama.model, path)
    with pytest.raises(ModelError, match=r"weight 'model\.nowhere\.weight' has no name in GGUF"):
        export_gguf_lora({"model.nowhere.weight": Factors(torch.ones(2, 1), torch.ones(1, 2))}, tiny_llama.model, path)
    assert not list(tmp_path.iterdir())
