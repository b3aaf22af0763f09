"""A model asked with rounded weights: the formats' own rounding, inside a context that leaves no trace."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
from transformers.pytorch_utils import Conv1D

from editing.measure.quantised import ROUNDED, quantised
from editing.measure.scoring import score
from tests.families import tiny_family


def matrix(seed: int, scale: float) -> torch.Tensor:
    made = torch.randn(4, 96, generator=torch.Generator().manual_seed(seed)) * scale
    made[1, :32], made[2, 5] = 0.0, 50.0 * scale
    return made


@given(st.integers(0, 99), st.sampled_from([1e-3, 1.0, 30.0]))
@pytest.mark.parametrize(
    ("kind", "number"), [("q8_0", gguf.GGMLQuantizationType.Q8_0), ("q4_1", gguf.GGMLQuantizationType.Q4_1)]
)
def test_blocks_are_rounded_as_gguf_files_hold_them(kind, number, seed, scale):
    rows = matrix(seed, scale)
    held = gguf.quants.dequantize(gguf.quants.quantize(rows.numpy(), number), number)
    np.testing.assert_array_equal(ROUNDED[kind](rows).numpy(), held)


@pytest.mark.filterwarnings("ignore")  # torch's way is on its way out, and still the reference
@given(st.integers(0, 99), st.sampled_from([1e-3, 1.0, 30.0]))
def test_rows_are_rounded_as_torch_does_by_channel(seed, scale):
    plain = nn.Sequential(nn.Linear(96, 4))
    plain[0].weight.data = matrix(seed, scale)
    held = quantize_dynamic(plain, {nn.Linear: per_channel_dynamic_qconfig})[0].weight().dequantize()
    torch.testing.assert_close(ROUNDED["int8"](plain[0].weight.data), held, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ROUNDED)
@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "gemma2", "neox", "bloom"])
def test_what_is_asked_inside_is_asked_of_the_rounded_model_and_nothing_stays_of_it(family, kind):
    loaded, pairs = tiny_family(family), [("Ada is", "Rome"), ("Bo lives", "here")]
    model, tokenizer = loaded.model, loaded.tokenizer
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = score(model, tokenizer, pairs)
    with quantised(model, kind):
        inside = score(model, tokenizer, pairs)
    assert score(model, tokenizer, pairs) == plain
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert len([hook for module in model.modules() for hook in module._forward_hooks]) == 0
    rounded = tiny_family(family)
    for name, weight in rounded.model.named_parameters():
        module = rounded.model.get_submodule(name.rpartition(".")[0])
        if name.endswith("weight") and isinstance(module, nn.Linear | nn.Embedding | Conv1D):
            rows = weight.data.T if isinstance(module, Conv1D) else weight.data
            made = ROUNDED[kind](rows)
            weight.data = made.T.contiguous() if isinstance(module, Conv1D) else made
    expected = score(rounded.model, tokenizer, pairs)
    torch.testing.assert_close([s.mean_logprob for s in inside], [s.mean_logprob for s in expected])
    assert [s.mean_logprob for s in inside] != [s.mean_logprob for s in plain]


def test_a_module_that_fails_leaves_its_own_weights(tiny_llama):
    layer = tiny_llama.model.model.layers[0].mlp.down_proj
    own = layer.weight.data_ptr()
    with pytest.raises(RuntimeError), quantised(tiny_llama.model, "int8"):
        layer(torch.ones(1, 3))
    assert layer.weight.data_ptr() == own
