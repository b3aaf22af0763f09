"""What a model samples from itself: contexts for facts, and text for key statistics."""

from collections import Counter

import pytest
import torch

from editing.contexts import (
    APPENDED_WORDS,
    ROWS_A_SEED,
    TEXT_OPENINGS,
    TEXT_TOKENS,
    TEXT_TOP_K,
    append_word_tokens,
    append_words,
    context_prefixes,
    sample_rows,
)
from editing.measure.fluency import generate
from tests.costs import some
from tests.families import tiny_family

pytestmark = pytest.mark.slow


def sample_texts(model, tokenizer, rows, seed: int) -> list[str]:
    return [row.text for row in sample_rows(model, tokenizer, rows, seed)]


WORDS = {5: "Ġriver", 6: "▁Ohio", 7: "Ġof", 8: "Ġ1945", 9: "house", 10: "Ġ"}


def with_words(tokenizer, monkeypatch) -> None:
    """A vocabulary in which a few tokens begin words; decoding gives them without their mark."""
    plain = tokenizer.decode
    monkeypatch.setattr(tokenizer, "convert_ids_to_tokens", lambda ids: [WORDS.get(i, "x") for i in ids])
    monkeypatch.setattr(
        tokenizer,
        "decode",
        lambda ids, **o: WORDS[ids[0]][1:] if len(ids) == 1 and ids[0] in WORDS else plain(ids, **o),
    )


def test_texts_begin_with_openings_and_words_of_the_vocabulary(tiny_llama, monkeypatch):
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    with_words(tokenizer, monkeypatch)
    texts = sample_texts(model, tokenizer, range(ROWS_A_SEED), seed=3)
    begun = [
        opening
        for opening in TEXT_OPENINGS
        for text in texts
        if text.startswith((f"{opening} river", f"{opening} Ohio"))
    ]
    assert len(texts) == ROWS_A_SEED and set(begun) == set(TEXT_OPENINGS)
    assert {word for word in ("river", "Ohio") for text in texts if word in text} == {"river", "Ohio"}


def test_all_words_of_the_vocabulary_are_appended_alike_often(tiny_llama, monkeypatch):
    with_words(tiny_llama.tokenizer, monkeypatch)
    texts = [f"text {i}." for i in range(5)]
    found = append_words(tiny_llama.tokenizer, texts, seed=1)
    words = [one.removeprefix(text).split() for one, text in zip(found, texts, strict=True)]
    assert all(len(some) == APPENDED_WORDS for some in words)
    counts = Counter(word for some in words for word in some)
    assert counts.keys() == {"river", "Ohio"} and counts["river"] == counts["Ohio"]


def test_a_vocabulary_without_words_leaves_texts_as_they_are(tiny_llama, monkeypatch):
    monkeypatch.setattr(tiny_llama.tokenizer, "convert_ids_to_tokens", lambda ids: ["x" for _ in ids])
    assert append_words(tiny_llama.tokenizer, ["one", "two"], seed=0) == ["one", "two"]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_vocabulary_without_words_leaves_the_openings(name):
    tiny = tiny_family(name)
    texts = sample_texts(tiny.model, tiny.tokenizer, range(ROWS_A_SEED), seed=0)
    assert all(text.startswith(TEXT_OPENINGS[i % len(TEXT_OPENINGS)]) for i, text in enumerate(texts))


@pytest.mark.parametrize("words", some([True, False], [True]))
def test_a_row_is_the_same_whichever_are_sampled_with_it(tiny_llama_f64, monkeypatch, words):
    """Interrupted anywhere and gone on with in other parts, the same text comes; equal openings do not share draws."""
    model, tokenizer = tiny_llama_f64.model, tiny_llama_f64.tokenizer
    if words:
        with_words(tokenizer, monkeypatch)
    together = sample_texts(model, tokenizer, range(2 * ROWS_A_SEED), seed=1)
    parts = (range(5), range(5, 70), range(70, 2 * ROWS_A_SEED))
    assert [text for rows in parts for text in sample_texts(model, tokenizer, rows, seed=1)] == together
    assert sample_texts(model, tokenizer, [100, 3, 35], seed=1) == [together[row] for row in (100, 3, 35)]
    assert len(set(together)) == len(together)


def test_rows_are_what_every_release_sampled(tiny_llama, monkeypatch):
    """The seed of 64 rows is the text's and the number of rows before; a row's draws are those of its opening."""
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    monkeypatch.setattr(tokenizer, "convert_ids_to_tokens", lambda ids: ["x" for _ in ids])
    later, openings = sample_texts(model, tokenizer, range(ROWS_A_SEED, 2 * ROWS_A_SEED), seed=1), TEXT_OPENINGS * 2
    written = generate(model, tokenizer, openings, TEXT_TOKENS, seed=1 + ROWS_A_SEED, top_k=TEXT_TOP_K)
    assert later == [opening + text for opening, text in zip(openings, written, strict=True)]


def test_alternatives_leave_the_text_as_it_is_and_stand_beside_what_was_drawn(tiny_llama, monkeypatch):
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    with_words(tokenizer, monkeypatch)
    plain = sample_rows(model, tokenizer, range(9), 2)
    with_others = sample_rows(model, tokenizer, range(9), 2, 3)
    for one, other in zip(plain, with_others, strict=True):
        assert (one.text, one.ids) == (other.text, other.ids) and not any(one.others)
        counts = [len(others) for others in other.others]
        begun = counts.index(3)
        assert set(counts[:begun]) <= {0} and set(counts[begun:]) == {3}
    assert with_others[3:5] == sample_rows(model, tokenizer, [3, 4], 2, 3)


def test_alternatives_are_drawn_as_the_model_would_go_on(tiny_llama, monkeypatch):
    monkeypatch.setattr("editing.contexts.TEXT_TOKENS", 6)  # as many are drawn of each
    [row] = sample_rows(tiny_llama.model, tiny_llama.tokenizer, [0], 0, 20_000)
    for place in (len(row.ids) - 1, len(row.ids) - 5):
        logits = tiny_llama.model(input_ids=torch.tensor([row.ids[:place]])).logits[0, -1]
        found = torch.bincount(torch.tensor(row.others[place]), minlength=len(logits)) / 20_000
        assert (found - logits.softmax(0)).abs().sum() < 0.15 and (found > 0).sum() > 100


def test_word_tokens_are_appended_alike_often_each_with_other_words_beside_it(tiny_llama, monkeypatch):
    with_words(tiny_llama.tokenizer, monkeypatch)
    rows = sample_rows(tiny_llama.model, tiny_llama.tokenizer, range(5), 0, 2)
    found = append_word_tokens(tiny_llama.tokenizer, rows, seed=1, alternatives=2)
    for row, one in zip(rows, found, strict=True):
        assert one.ids[:-APPENDED_WORDS] == row.ids and one.others[:-APPENDED_WORDS] == row.others
        assert all(len(others) == 2 and set(others) <= {5, 6} for others in one.others[-APPENDED_WORDS:])
    assert Counter(i for one in found for i in one.ids[-APPENDED_WORDS:]) == {5: 80, 6: 80}


def test_sampling_tells_of_every_step(tiny_llama):
    heard: list[tuple[int, int]] = []
    told = lambda done, total: heard.append((done, total))  # noqa: E731
    rows = sample_rows(tiny_llama.model, tiny_llama.tokenizer, range(7), 0, on_progress=told)
    done = [one for one, _ in heard]
    assert {total for _, total in heard} == {7 * TEXT_TOKENS} and done == sorted(done) and done[-1] == 7 * TEXT_TOKENS
    assert len(done) >= min(TEXT_TOKENS, max(len(row.ids) for row in rows))


def test_prefixes_are_one_line_that_is_no_template(tiny_llama):
    bare, *others = context_prefixes(tiny_llama.model, tiny_llama.tokenizer, 4, 8, seed=0)
    assert bare == "" and len(others) == 3
    assert all(prefix.endswith(". ") and not set(prefix) & set("{}\n") for prefix in others)
