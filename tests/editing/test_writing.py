"""Rows that are written together end one by one, and each says what it says alone."""

import pytest
import torch

from editing.measure.fluency import entropies, generate, rows_of, uniform_draws, weighted_entropy
from editing.measure.said import written, written_and_scored
from editing.measure.scoring import encode_queries, score
from editing.measure.writing import Writing
from editing.tokens import pad_token
from tests.families import tiny_family

PROMPTS = ["Ada lives in", "The", "The river Nile", "The river Rhine", "The river Rhine"]


@pytest.fixture
def tokens_run(tiny_llama):
    """How many tokens, padding included, each pass of the model has run."""
    sizes: list[tuple[int, int]] = []
    handle = tiny_llama.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield sizes
    handle.remove()


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma2"])
def test_greedy_text_is_that_of_transformers_own_loop(name):
    tiny, steps = tiny_family(name), 12
    written = generate(tiny.model, tiny.tokenizer, PROMPTS, steps)
    for prompt, text in zip(PROMPTS, written, strict=True):
        ids = torch.tensor([tiny.tokenizer(prompt)["input_ids"]])
        own = tiny.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False)
        assert text == tiny.tokenizer.decode(own[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("seed", [None, 5])
def test_a_row_that_has_enough_leaves_the_batch_and_changes_no_other(tiny_llama, tokens_run, seed):
    model, tokenizer, limits = tiny_llama.model, tiny_llama.tokenizer, [3, 12, 5, 9, 1]
    whole = generate(model, tokenizer, PROMPTS, 12, seed=seed)
    tokens_run.clear()
    heard: list[str] = []
    listens = lambda text: bool(heard.append(text))  # noqa: E731
    enough = [None, listens, None, None, None]
    found = generate(model, tokenizer, PROMPTS, limits, seed=seed, enough=enough)
    assert all(text.startswith(short) for text, short in zip(whole, found, strict=True))
    assert found[1] == whole[1] and len(heard) == 11
    assert tokens_run[1:] == [(4, 1)] * 2 + [(3, 1)] * 2 + [(2, 1)] * 4 + [(1, 1)] * 3
    ends = [lambda text, to=text: len(text) >= len(to) for text in found]
    assert generate(model, tokenizer, PROMPTS, 12, seed=seed, enough=ends) == found


def test_what_prompts_begin_with_in_common_runs_once(tiny_llama, tokens_run):
    encoded = [tuple(ids) for ids in tiny_llama.tokenizer(PROMPTS)["input_ids"]]
    together = {ids[:end] for ids in encoded for end in range(1, len(ids) + 1)}
    generate(tiny_llama.model, tiny_llama.tokenizer, PROMPTS, 1)
    assert tokens_run == [(1, len(together))]


def test_rows_that_wait_go_on_to_what_they_would_have_been(tiny_llama):
    model, tokenizer, begun = tiny_llama.model, tiny_llama.tokenizer, ["Ada is", "Bob is"]
    rows = rows_of(model, tokenizer, PROMPTS, 4) + rows_of(model, tokenizer, begun, 20, uniform_draws(begun, 20, 0))
    writing = Writing(model, tokenizer, rows, pad_token(tokenizer), 5)
    writing.run(range(len(PROMPTS)))
    said = [tokenizer.decode(ids, skip_special_tokens=True) for ids in writing.ids]
    assert said[: len(PROMPTS)] == generate(model, tokenizer, PROMPTS, 4)
    assert all(len(ids) == 4 for ids in writing.ids[len(PROMPTS) :]) and writing.done == 4 * len(rows)
    writing.run()
    assert writing.done == writing.total
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in writing.ids[len(PROMPTS) :]]
    found = [weighted_entropy(prompt + text) for prompt, text in zip(begun, texts, strict=True)]
    assert found == entropies(model, tokenizer, begun, max_new_tokens=20)


PAIRS = [(prompt, target) for prompt in PROMPTS for target in ("Rome", "the old town", "Rome")] + [("Else", "Rome")]
"""Some twice, and one of a prompt that nobody goes on from."""


@pytest.mark.parametrize("name", ["llama", "gpt2", "cohere"])
def test_targets_are_scored_while_their_prompt_is_read_and_what_is_said_stays(name):
    model, tokenizer = (tiny := tiny_family(name)).model, tiny.tokenizer
    asked = [(prompt, 6, None) for prompt in PROMPTS]
    texts, known = written_and_scored(model, tokenizer, asked, PAIRS)
    assert texts == written(model, tokenizer, asked)
    alone = dict(zip(PAIRS, score(model, tokenizer, PAIRS), strict=True))
    assert set(known) == {pair for pair in PAIRS if pair[0] in PROMPTS}
    for pair, found in known.items():
        assert found.predicted == alone[pair].predicted and found.argmax == alone[pair].argmax
        assert found.mean_logprob == pytest.approx(alone[pair].mean_logprob, abs=1e-5)


def test_targets_cost_no_second_reading_of_their_prompt(tiny_llama, tokens_run):
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    asked = [(prompt, 1, None) for prompt in PROMPTS]
    rows = [query.row for query in encode_queries(model, tokenizer, PAIRS[:-1]).values()]
    together = {row[:end] for row in rows for end in range(1, len(row) + 1)}
    written_and_scored(model, tokenizer, asked, PAIRS)
    assert tokens_run == [(1, len(together))]


@pytest.mark.parametrize("name", ["bloom", "gptneo", "gemma2"])
def test_a_model_that_takes_one_text_a_row_or_has_a_window_scores_nothing_beside_what_it_says(name):
    tiny = tiny_family(name)
    asked = [(prompt, 6, None) for prompt in PROMPTS]
    texts, known = written_and_scored(tiny.model, tiny.tokenizer, asked, PAIRS)
    assert (texts, known) == (written(tiny.model, tiny.tokenizer, asked), {})
