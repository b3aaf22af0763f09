"""Texts that share a row give what each gives alone, and every token stands in it once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.measure.scoring import hidden_states, score
from editing.trees import Tree, grow, lay_out, may_branch
from tests.families import FAMILIES, tiny_family
from tests.reference import plain_logprob

texts = st.sets(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple))
PAIRS = [("Ada was", "born in Rome"), ("Ada was", "born"), ("Ada was", "seen"), ("Nile", "flows"), ("Ad", "x y")]


def spelled(tree: Tree, text: tuple[int, ...]) -> bool:
    """Whether the text's path goes from its beginning, parent by parent, to its last token."""
    path = tree.paths[text]
    follows = [tree.parents[index] for index in path] == [-1, *path[:-1]]
    places = [tree.positions[index] for index in path] == list(range(len(text)))
    return follows and places and tuple(tree.ids[index] for index in path) == text


@given(texts, st.integers(1, 40), st.booleans())
def test_every_text_is_spelled_by_one_tree_of_bounded_size(rows, size, branches):
    trees = grow(rows, size, branches=branches)
    assert sorted(text for tree in trees for text in tree.paths) == sorted(rows)
    for tree in trees:
        longest = max(map(len, tree.paths))
        assert all(spelled(tree, text) for text in tree.paths)
        assert len(tree) == longest if not branches else len(tree) <= max(size, 2 * longest)


@given(texts)
def test_with_room_a_token_stands_once_for_every_beginning_it_ends(rows):
    beginnings = {text[:end] for text in rows for end in range(1, len(text) + 1)}
    trees = grow(rows, 10**6, branches=True)
    assert sum(map(len, trees)) == len(beginnings) and len(trees) == (1 if rows else 0)


@given(texts, st.data())
def test_beginnings_of_a_tree_are_the_tree_of_the_beginnings(rows, data):
    for tree in grow(rows, 30, branches=True):
        lengths = {text: data.draw(st.integers(0, len(text))) for text in tree.paths}
        begun, places = tree.beginnings(lengths)
        assert all(spelled(begun, text[:length]) for text, length in lengths.items() if length)
        assert [tree.ids[place] for place in places] == begun.ids
        assert len(begun) == len({text[:end] for text, length in lengths.items() for end in range(1, length + 1)})


@given(texts)
def test_without_branches_a_text_shares_a_row_only_with_its_beginnings(rows):
    for tree in grow(rows, 10**6, branches=False):
        longest = max(tree.paths, key=len)
        assert not tree.branched and all(longest[: len(text)] == text for text in tree.paths)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_texts_in_one_row_give_what_they_give_alone(name, dtype):
    tiny = tiny_family(name, dtype)
    rows = [(5, 6, 7), (5, 6, 8, 9), (5, 6), (4, 6, 7, 8, 2), (4, 3)]
    trees = grow(rows, 100, branches=may_branch(tiny.model, 5))
    hidden = hidden_states(tiny.model, lay_out([*trees, Tree([1, 2], [-1, 0], [0, 1])], 0, tiny.model))
    for i, tree in enumerate(trees):
        for text, path in tree.paths.items():
            alone = tiny.model.base_model(input_ids=torch.tensor([text])).last_hidden_state[0]
            close = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.05}
            torch.testing.assert_close(hidden[i, path], alone, **close)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_scores_in_shared_rows_as_one_pair_at_a_time(name):
    tiny = tiny_family(name, bos=True)
    for pair, found in zip(PAIRS, score(tiny.model, tiny.tokenizer, PAIRS), strict=True):
        assert found.mean_logprob == pytest.approx(plain_logprob(tiny.model, tiny.tokenizer, *pair), abs=1e-4)


def test_a_model_whose_mask_is_its_own_gets_no_branches():
    assert may_branch(tiny_family("llama").model, 100)
    assert not may_branch(tiny_family("bloom").model, 1)  # ALiBi is made from the mask
    mistral = tiny_family("mistral").model
    assert may_branch(mistral, 5) and not may_branch(mistral, 6)  # its window
    mistral.config._attn_implementation = "flash_attention_2"
    assert not may_branch(mistral, 1)
