"""A version comes out as it was recorded: rounded once, or twice where release 0.1 wrote it so."""

import pytest
import torch

from editing.layout import layout_of
from editing.methods.shared.interface import BatchUpdate
from editing.models import LoadedModel, base_digest
from editing.rounding import rounded, rounded_by_way_of_float32
from editing.weights import EditedWeights, Factors, Rounding
from tasks.stores.batches import pack, restore_weights
from tasks.stores.errors import DigestMismatch
from tasks.stores.manifest import Manifest
from tests.conftest import tiny_model

NAME = "model.layers.1.mlp.down_proj.weight"
BESIDE = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def of_ones(dtype: torch.dtype) -> LoadedModel:
    tiny = tiny_model("llama", dtype)
    tiny.model.get_parameter(NAME).data.fill_(1.0)
    return LoadedModel(tiny.model, tiny.tokenizer, tiny.reference, base_digest(tiny.model))


def beside_a_middle(dtype: torch.dtype) -> BatchUpdate:
    """What takes one number of the weight from 1 to just beyond the middle between 1 and the next."""
    B, A = torch.zeros(32, 2), torch.zeros(2, 64)
    B[0, 0], A[0, 0], B[0, 1], A[1, 0] = BESIDE[dtype], 1.0, 2.0**-40, 1.0
    return BatchUpdate({NAME: Factors(B, A)}, {})


def version(loaded: LoadedModel, batch: BatchUpdate, rounding: Rounding) -> tuple[Manifest, dict[str, torch.Tensor]]:
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    undo = weights.apply(batch.update, rounding)
    manifest = Manifest(
        line="main",
        version=1,
        parent=None,
        base="tiny",
        base_digest=loaded.digest,
        config={},
        request_ids=("a",),
        tensor_digests=weights.digests(),
        batch=1,
    )
    weights.revert(undo)
    return manifest, pack(batch, torch.zeros(1, 0))


@pytest.mark.parametrize("dtype", BESIDE)
@pytest.mark.parametrize("rounding", [rounded, rounded_by_way_of_float32])
def test_a_version_comes_out_rounded_as_it_was_written(dtype, rounding):
    loaded = of_ones(dtype)
    batch = beside_a_middle(dtype)
    stored = version(loaded, batch, rounding)
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    assert restore_weights(loaded, weights, None, [stored]) == ["a"]
    assert weights.digests() == stored[0].tensor_digests
    once = 1 + 2 * BESIDE[dtype]
    assert loaded.model.get_parameter(NAME)[0, 0].item() == (once if rounding is rounded else 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, *BESIDE])
def test_a_version_that_neither_rounding_gives_is_refused_and_changes_nothing(dtype):
    loaded = of_ones(dtype)
    manifest, tensors = version(loaded, beside_a_middle(torch.bfloat16), rounded)
    wrong = manifest.model_copy(update={"tensor_digests": {NAME: "0" * 64}})
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    with pytest.raises(DigestMismatch, match="gives other tensors than recorded"):
        restore_weights(loaded, weights, None, [(wrong, tensors)])
    assert base_digest(loaded.model) == loaded.digest


def test_what_is_written_next_is_rounded_once_again():
    loaded, dtype = of_ones(torch.bfloat16), torch.bfloat16
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    restore_weights(loaded, weights, None, [version(loaded, beside_a_middle(dtype), rounded_by_way_of_float32)])
    weights.apply({NAME: Factors(torch.zeros(32, 1), torch.zeros(1, 64))})
    assert loaded.model.get_parameter(NAME)[0, 0].item() == 1 + 2 * BESIDE[dtype]
