"""What cannot be carried out is an error of the library that says what and how to go on; no bit of the model moves."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from editing.covariance import KeyStatistics
from editing.edit import Edit
from editing.errors import EditingError, ErrataError, InvalidEdit, ModelError, SearchError, SolveError, StatisticsError
from editing.methods import METHODS, compute_independent_updates, compute_update, method_config
from editing.methods.shared.interface import MethodInput
from editing.models import base_digest
from editing.search.values import search_values
from tests.conftest import tiny_model
from tests.editing.test_methods import EDITS, strong, tiny_input

LONG = Edit(id="long", subject="Ada", prompt="And so on. " * 60 + "{} was born in", target_new="Rome")
SOLVING = [name for name, method in METHODS.items() if method.searches]
Attempt = Callable[[MethodInput, str], object]
Prepare = Callable[[MethodInput], MethodInput]


def values(given: MethodInput, edits) -> torch.Tensor:
    return torch.zeros(len(edits), given.model.config.hidden_size)


def update(edits=EDITS) -> Attempt:
    return lambda made, method: compute_update(made, edits, values(made, edits), strong(method))


def alone(edits=EDITS) -> Attempt:
    return lambda made, method: compute_independent_updates(made, edits, values(made, edits), strong(method))


def search(edits=EDITS, layer: int = 2) -> Attempt:
    def attempt(made: MethodInput, method: str) -> object:
        config = method_config(method).search
        return search_values(made.model, made.tokenizer, made.layout, edits, layer, config, made.prefixes)

    return attempt


def as_it_is(made: MethodInput) -> MethodInput:
    return made


def with_layers(*layers: int) -> Prepare:
    return lambda made: replace(made, layers=layers)


def with_weight(layer: int, value: float) -> Prepare:
    """A model one number of which is not finite."""

    def prepare(made: MethodInput) -> MethodInput:
        made.model.get_parameter(f"model.layers.{layer}.mlp.up_proj.weight")[0, 0] = value
        return made

    return prepare


def with_moments(change: Callable[[torch.Tensor], torch.Tensor]) -> Prepare:
    def prepare(made: MethodInput) -> MethodInput:
        moments = {layer: change(C) for layer, C in made.statistics.moments.items()}
        return replace(made, statistics=KeyStatistics(moments, 1, "other", "test"))

    return prepare


class Deaf:
    """A tokenizer that no longer knows where its tokens come from."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)

    def __call__(self, text: str, **options):
        encoding = self.tokenizer(text, **options)
        return {**encoding, "offset_mapping": [(0, 0)] * len(encoding["input_ids"])}


def without_offsets(made: MethodInput) -> MethodInput:
    return replace(made, tokenizer=Deaf(made.tokenizer))


TOO_LONG = "edit 'long': prompt and target take .* tokens, the model reads 256 .*; shorten the prompt"
LOST = "subject 'Ada Lovelace' is lost when .* is tokenised; write it without unusual characters"
DIVERGED = "the loss became nan at step 1; lower search.step_length .* or leave the edit out"
ANY_METHOD = {
    "a prompt too long to write": (as_it_is, update([*EDITS, LONG]), InvalidEdit, TOO_LONG),
    "a prompt too long to try": (as_it_is, alone([LONG]), InvalidEdit, TOO_LONG),
    "a subject lost in writing": (without_offsets, update(), InvalidEdit, LOST),
    "layers that are not there": (with_layers(9), update(), ModelError, "choose layers (below 3|of 0 to 3)"),
    "layers that fall": (with_layers(2, 1), update(), ModelError, r"\[2, 1\] must be distinct, rising"),
}
ANY_SOLVE = {
    "NaN in a search": (with_weight(3, float("nan")), search(), SearchError, DIVERGED),
    "infinity in a search": (with_weight(3, float("inf")), search(), SearchError, DIVERGED),
    "a prompt too long to search": (as_it_is, search([LONG]), InvalidEdit, TOO_LONG),
    "a subject lost in the search": (without_offsets, search(), InvalidEdit, LOST),
    "a layer to search that is not there": (
        as_it_is, search(layer=9), ModelError, "has 4 layers; choose layers below 3"),
    "statistics of other layers": (
        with_layers(0), update(), StatisticsError, "no key statistics of layer 0 .* only of layers .*; collect them"),
    "statistics of another model": (
        with_moments(lambda C: C[:9, :9]), update(), StatisticsError, "of size 64, for keys of size 9; collect them"),
    "keys that are not finite": (
        with_weight(1, float("nan")), update(), SolveError, "edit '.*': its keys at layer . .* not finite; leave it"),
}  # fmt: skip


def check(case, method: str) -> None:
    """The error, and neither a bit of the model moved nor a hook stayed."""
    prepare, attempt, kind, says = case
    made = prepare(tiny_input(tiny_model("llama"), method))
    before = base_digest(made.model)
    with pytest.raises(kind, match=says) as raised:
        attempt(made, method)
    assert isinstance(raised.value, ErrataError) and "\n" not in str(raised.value)
    assert base_digest(made.model) == before and made.history.count == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.model.modules())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ANY_METHOD)
def test_what_no_method_can_carry_out_is_refused(name, method):
    check(ANY_METHOD[name], method)


@pytest.mark.parametrize("method", SOLVING)
@pytest.mark.parametrize("name", ANY_SOLVE)
def test_what_no_search_or_solve_can_work_with_is_refused(name, method):
    check(ANY_SOLVE[name], method)


@pytest.mark.parametrize("method", ["memit", "emmet", "rome"])
def test_a_singular_solve_is_refused(method):
    says = "is singular: (raise|choose) .* or collect key statistics from more text"
    check((with_moments(torch.zeros_like), update(), SolveError, says), method)


def test_statistics_without_a_null_space_are_refused():
    flat = with_moments(lambda C: torch.eye(len(C), dtype=C.dtype))
    check((flat, strict_null_space, EditingError, r"no null space at layer 1: .*; raise it or choose"), "alphaedit")


def strict_null_space(made: MethodInput, method: str) -> object:
    return compute_update(made, EDITS, values(made, EDITS), method_config(method, {"nullspace_threshold": 0.5}))
