"""What takes long tells how far it is: it never falls, and ends with all of it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from editing.config import ValueSearchConfig
from editing.edit import Edit
from editing.layout import layout_of
from editing.measure.fluency import entropies, generate
from editing.measure.metrics import evaluate
from editing.measure.perplexity import perplexity
from editing.methods import (
    METHODS,
    REPLAYED_AT_ONCE,
    compute_independent_updates,
    compute_replay,
    compute_update,
    method_config,
)
from editing.progress import unheard
from editing.search.values import search_values
from editing.weights import EditedWeights, Factors
from tests.editing.test_methods import EDITS as WRITTEN
from tests.editing.test_methods import quick, strong, tiny_input, wanted

PROMPTS = ["Ada was born in", "The moon", "x"]
EDITS = [Edit(subject=name, prompt="{} lives in", target_new="Rome", target_true="Oslo") for name in ("Ada", "Eve")]
SEARCH = ValueSearchConfig(steps=4, stop_loss=5.6, edits_at_once=1, products="weights")
Tell = Callable[[int, int], None]


def ask(tiny, tell: Tell) -> object:
    many = [EDITS[0].model_copy(update={"subject": f"{number} Ada"}) for number in range(40)]
    return evaluate(tiny.model, tiny.tokenizer, many, batch_tokens=1, on_progress=tell)


def read(tiny, tell: Tell) -> object:
    texts = ["the cat sat on the mat " * 5]
    return perplexity(tiny.model, tiny.tokenizer, texts, window=16, batch_tokens=16, on_progress=tell)


def write(tiny, tell: Tell) -> object:
    return generate(tiny.model, tiny.tokenizer, PROMPTS, 5, on_progress=tell)


def vary(tiny, tell: Tell) -> object:
    return entropies(tiny.model, tiny.tokenizer, PROMPTS, max_new_tokens=5, on_progress=tell)


def search(tiny, tell: Tell) -> object:
    return search_values(tiny.model, tiny.tokenizer, layout_of(tiny.model), EDITS, 1, SEARCH, ("", "I. "), tell)


@pytest.mark.parametrize("work", [ask, read, write, vary, search])
def test_what_is_done_rises_to_all_of_it_and_changes_nothing(tiny_llama, work):
    told: list[tuple[int, int]] = []
    found = work(tiny_llama, lambda done, total: told.append((done, total)))
    done = [done for done, _ in told]
    assert len(done) > 2 and done == sorted(done) and done[-1] == told[-1][1]
    assert len({total for _, total in told}) == 1 and done[0] < done[-1]
    if work is not search:
        assert found == work(tiny_llama, lambda done, total: None)


def test_what_is_known_is_not_asked_and_what_is_asked_is_known(tiny_llama):
    asked: list[int] = []
    known: dict = {}
    first = evaluate(tiny_llama.model, tiny_llama.tokenizer, EDITS[:1], known=known)
    pairs = len(known)
    both = evaluate(
        tiny_llama.model, tiny_llama.tokenizer, EDITS, known=known, on_progress=lambda done, total: asked.append(total)
    )
    assert both[0] == first[0] and len(known) == 2 * pairs and asked
    assert both == evaluate(tiny_llama.model, tiny_llama.tokenizer, EDITS, known=known)
    assert both[1].efficacy_prob == evaluate(tiny_llama.model, tiny_llama.tokenizer, EDITS[1:])[0].efficacy_prob


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("compute", [compute_update, compute_independent_updates])
def test_writing_tells_how_far_it_is(tiny_llama, method, compute):
    made = tiny_input(tiny_llama, method)
    assert made.on_progress is unheard
    told: list[tuple[int, int]] = []
    given = replace(made, on_progress=lambda done, total: told.append((done, total)))
    z_star = wanted(given) if METHODS[method].searches else torch.zeros(len(WRITTEN), 0)
    config = quick(given, method, {"minibatch": 1} if method == "finetune" else None)
    compute(given, WRITTEN, z_star, config)
    rises_to_all(told, parts=1 if method in ("ultraedit", "mend") else 2)


@pytest.mark.parametrize("fields", [{}, {"exact_order": True}])
def test_writing_facts_anew_tells_of_taking_them_out_as_well(tiny_llama, fields):
    made, weights = tiny_input(tiny_llama, "memit"), EditedWeights(tiny_llama.model, layout_of(tiny_llama.model))
    config, told = strong("memit").model_copy(update=fields), list[tuple[int, int]]()
    made = replace(made, weights=weights)
    undo = weights.apply(compute_update(made, WRITTEN, wanted(made), config).update)
    given = replace(made, on_progress=lambda done, total: told.append((done, total)))
    again = [WRITTEN[0].model_copy(update={"id": "other", "prompt": "{} died in"})]
    compute_update(given, again, wanted(given)[:1], config, live=WRITTEN[:1])
    weights.revert(undo)
    rises_to_all(told, parts=4)


def test_a_replay_tells_of_all_its_batches(tiny_llama):
    told: list[tuple[int, int]] = []
    given = replace(tiny_input(tiny_llama, "finetune"), on_progress=lambda done, total: told.append((done, total)))
    many = [edit.model_copy(update={"id": f"{edit.id}{number}"}) for number in range(10) for edit in WRITTEN]
    weights = EditedWeights(tiny_llama.model, given.layout)
    compute_replay(given, weights, many, quick(given, "finetune"))
    rises_to_all(told, parts=len(many) // REPLAYED_AT_ONCE)


def test_a_descent_that_ends_early_says_no_more_than_was_done(tiny_llama):
    told: list[tuple[int, int]] = []
    given = replace(tiny_input(tiny_llama, "finetune"), on_progress=lambda done, total: told.append((done, total)))
    compute_update(
        given, WRITTEN, torch.zeros(len(WRITTEN), 0), method_config("finetune", {"steps": 50, "stop_loss": 1e9})
    )
    assert told == [(0, 50 * len(WRITTEN)), (len(WRITTEN), 50 * len(WRITTEN))]


def test_weights_tell_how_much_of_their_sum_there_is(tiny_llama, monkeypatch):
    weights = EditedWeights(tiny_llama.model, layout_of(tiny_llama.model))
    name = weights.layout.weight_name(1)
    m, d = weights.layout.oriented(tiny_llama.model.get_parameter(name)).shape
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("editing.weights.SUMMED_AT_ONCE", 8 * d)
    undo = weights.apply(
        {name: Factors(torch.ones(m, 3) / 1e4, torch.ones(3, d))},
        on_progress=lambda done, total: told.append((done, total)),
    )
    weights.revert(undo)
    assert told == [(3 * rows, 3 * m) for rows in range(0, m + 1, 8)]


def rises_to_all(told: list[tuple[int, int]], parts: int) -> None:
    done = [done / total for done, total in told]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 1
    assert len({*done} - {0}) >= parts, done
