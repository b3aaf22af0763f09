"""What takes long tells how far it is: it never falls, and ends with all of it."""

from collections.abc import Callable

import pytest

from editing.config import ValueSearchConfig
from editing.edit import Edit
from editing.layout import layout_of
from editing.measure.fluency import entropies, generate
from editing.measure.metrics import evaluate
from editing.measure.perplexity import perplexity
from editing.search.values import search_values

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
