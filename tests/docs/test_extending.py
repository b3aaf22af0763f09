"""The method that the page on extending shows is one: it writes what is wanted, and the registry takes it."""

import pytest
import torch

from editing.methods import METHODS
from editing.methods import compute_update as by_registry
from editing.weights import overlay
from tests.docs.pages import ROOT, blocks
from tests.editing.test_methods import EDITS, make_input, states, wanted


@pytest.fixture(scope="module")
def shown():
    """What the first block of Python of the page defines."""
    block = next(block for block in blocks(ROOT / "docs/extending.md") if block.language == "python")
    defined: dict[str, object] = {"__name__": "shown"}
    exec(compile(block.text, block.place, "exec"), defined)
    return defined


def test_the_shown_method_writes_what_is_wanted(shown, tiny_llama_f64, monkeypatch):
    monkeypatch.setitem(METHODS, "ridge", shown["RIDGE"])
    given = make_input(tiny_llama_f64, (1, 2), prefixes=("",))
    z_star = wanted(given)
    made = by_registry(given, EDITS, z_star, shown["RidgeConfig"](ridge=1e-9))
    with overlay(given.model, given.layout, made.update):
        torch.testing.assert_close(states(given), z_star, atol=1e-3, rtol=0)
    assert set(made.keys) == {1, 2}
