"""A model whose weights are set aside, in memory or on the disk, is edited as one that lies in its modules."""

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from editing.config import ValueSearchConfig
from editing.layout import layout_of
from editing.measure.scoring import score
from editing.methods import compute_update
from editing.methods.memit import MemitConfig
from editing.models import LoadedModel, base_digest
from editing.placed import is_set_aside
from editing.search.values import search_values
from editing.weights import EditedWeights, overlay
from tests.editing.test_families import EDITS, PREFIXES, input_for, states
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
