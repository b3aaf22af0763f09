"""What a model samples from itself: contexts for facts, and text for key statistics."""

from collections import Counter

import pytest

from editing.contexts import (
    APPENDED_WORDS,
    ROWS_AT_ONCE,
    TEXT_OPENINGS,
    TEXT_TOKENS,
    append_words,
    context_prefixes,
    sample_texts,
)
from tests.families import tiny_family

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
    texts = sample_texts(model, tokenizer, 1, seed=3)
    begun = [
        opening
        for opening in TEXT_OPENINGS
        for text in texts
        if text.startswith((f"{opening} river", f"{opening} Ohio"))
    ]
    assert len(texts) == ROWS_AT_ONCE and set(begun) == set(TEXT_OPENINGS)
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
    texts = sample_texts(tiny.model, tiny.tokenizer, 1, seed=0)
    assert all(text.startswith(TEXT_OPENINGS[i % len(TEXT_OPENINGS)]) for i, text in enumerate(texts))


def test_later_texts_are_had_without_the_earlier_ones(tiny_llama):
    """The seed of a chunk is the seed and the number of texts before: the text held out needs no other."""
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    both = sample_texts(model, tokenizer, 2 * ROWS_AT_ONCE * TEXT_TOKENS, seed=1)
    assert both[ROWS_AT_ONCE:] == sample_texts(model, tokenizer, 1, seed=1 + ROWS_AT_ONCE)
    assert both[:ROWS_AT_ONCE] != both[ROWS_AT_ONCE:]


def test_prefixes_are_one_line_that_is_no_template(tiny_llama):
    bare, *others = context_prefixes(tiny_llama.model, tiny_llama.tokenizer, 4, 8, seed=0)
    assert bare == "" and len(others) == 3
    assert all(prefix.endswith(". ") and not set(prefix) & set("{}\n") for prefix in others)
