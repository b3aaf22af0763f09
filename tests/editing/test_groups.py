"""Facts that share a key: one value says them all, at once or one after the other, and costs no other fact anything."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from editing.config import MethodConfig, ValueSearchConfig
from editing.edit import Edit
from editing.errors import UsageError
from editing.groups import KeyNames
from editing.layout import layout_of
from editing.methods import compute_independent_updates, compute_update, method_config
from editing.methods.alike import NEAR_COSINE, nearly_alike
from editing.methods.located import locate
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import MethodInput
from editing.models import LoadedModel
from editing.search.values import search_values
from editing.weights import EditedWeights
from tests.editing.test_methods import EVERY_SEARCH, SEARCHING, states, strong, tiny_input, wanted
from tests.reference import plain_search

ADA = (
    Edit(subject="Ada Lovelace", prompt="{} was born in the city of", target_new="Paris"),
    Edit(subject="Ada Lovelace", prompt="{} works as a", target_new="very old sailor"),
    Edit(subject="Ada Lovelace", prompt="{} speaks", target_new="Greek"),
)
NILE = Edit(subject="Nile", prompt="The river {} flows through", target_new="Rome")
OTHER_BEGINNING = Edit(subject="Ada Lovelace", prompt="The house of {} is in", target_new="Rome")
PREFIXES = ("", "The old man said so. ")


def test_facts_are_together_whose_texts_are_the_same_up_to_the_subjects_end(tiny_llama):
    edits = [ADA[0], NILE, ADA[1], OTHER_BEGINNING, ADA[2]]
    keys = KeyNames(tiny_llama.tokenizer, PREFIXES)
    assert keys.groups(edits) == [(0, 2, 4), (1,), (3,)]
    assert keys.sharing([ADA[1], NILE], edits) == [ADA[0], NILE, ADA[1], ADA[2]]
    along = [Edit(subject="Nile", prompt=f"The river {{}} {verb}", target_new="x") for verb in ("ends in", "is in")]
    assert keys.groups([*along, NILE]) == [(0, 1, 2)]


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12), size=st.integers(1, 10), mix=st.randoms())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_batch_cuts_facts_of_one_key_that_it_can_hold(tiny_llama, sizes, size, mix):
    edits = [
        Edit(subject=f"Person {chr(65 + person)}", prompt=f"{{}} says {number}", target_new="x")
        for person, count in enumerate(sizes)
        for number in range(count)
    ]
    mix.shuffle(edits)
    keys = KeyNames(tiny_llama.tokenizer, ("",))
    batches = keys.batches(edits, size)
    assert sorted(edit.id for batch in batches for edit in batch) == sorted(edit.id for edit in edits)
    assert all(1 <= len(batch) <= size for batch in batches)
    for group in keys.groups(edits):
        own = [edits[number] for number in group]
        holding = [[edit for edit in batch if edit in own] for batch in batches]
        assert [edit for batch in holding for edit in batch] == own
        assert len([batch for batch in holding if batch]) == -(-len(own) // size)
    alone = [edit for edit in edits if sizes[ord(edit.subject[-1]) - 65] == 1]
    assert [edit for batch in keys.batches(alone, size) for edit in batch] == alone


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_gpt2"])
def test_the_search_for_a_group_equals_the_plain_loop_over_all_its_targets(architecture, request):
    tiny = request.getfixturevalue(architecture)
    config = ValueSearchConfig(
        steps=6, stop_loss=0.0, learning_rate=0.1, clamp=0.2, optimiser="adam", products="weights"
    )
    edits = [ADA[0], NILE, *ADA[1:]]
    found = search_values(tiny.model, tiny.tokenizer, layout_of(tiny.model), edits, 1, config, PREFIXES)
    assert torch.equal(found[0].z_star, found[2].z_star) and torch.equal(found[0].z_star, found[3].z_star)
    for value, some in ((found[0], ADA), (found[1], (NILE,))):
        expected = plain_search(tiny.model, tiny.tokenizer, some[0], 1, config, PREFIXES, *some[1:])
        torch.testing.assert_close(value.z_star, expected, atol=1e-4, rtol=1e-4)


def test_a_group_that_has_more_members_than_are_searched_at_once_is_searched_whole(tiny_llama):
    config = ValueSearchConfig(steps=2, edits_at_once=2, products="weights")
    layout = layout_of(tiny_llama.model)
    found = search_values(tiny_llama.model, tiny_llama.tokenizer, layout, [NILE, *ADA], 1, config, PREFIXES)
    [alone] = search_values(tiny_llama.model, tiny_llama.tokenizer, layout, [NILE], 1, config, PREFIXES)
    torch.testing.assert_close(found[0].z_star, alone.z_star, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value.z_star, found[1].z_star) for value in found[2:])


@EVERY_SEARCH
def test_a_group_is_one_column_to_the_solve_and_as_many_facts_to_the_history(tiny_llama_f64, method):
    given = tiny_input(tiny_llama_f64, method)
    z_star = wanted(given)[:2]
    once = compute_update(given, [ADA[0], NILE], z_star, strong(method))
    all_of_it = compute_update(given, [*ADA, NILE], z_star[[0, 0, 0, 1]], strong(method))
    assert all(pair.B.shape[1] == 2 for pair in all_of_it.update.values())
    grams = [{layer: keys.T @ keys for layer, keys in made.keys.items()} for made in (once, all_of_it)]
    ada = {layer: keys[:1].T @ keys[:1] for layer, keys in once.keys.items()}
    first = min(ada)  # the keys of later layers depend on what was written below
    torch.testing.assert_close(grams[1][first], grams[0][first] + 2 * ada[first])


@EVERY_SEARCH
def test_members_of_a_group_have_one_update_of_their_own(tiny_llama_f64, method):
    given = tiny_input(tiny_llama_f64, method)
    z_star = wanted(given)[:2]
    alone = compute_independent_updates(given, [ADA[0], NILE], z_star, strong(method))
    ada, nile, also_ada = compute_independent_updates(given, [ADA[0], NILE, ADA[1]], z_star[[0, 1, 0]], strong(method))
    assert ada is also_ada
    for found, expected in ((ada, alone[0]), (nile, alone[1])):
        for name, pair in expected.items():
            torch.testing.assert_close(found[name].B @ found[name].A, pair.B @ pair.A)


@pytest.mark.parametrize("method", [*SEARCHING, "exact_order"])
def test_a_group_that_grows_time_after_time_reaches_each_new_value(tiny_llama_f64, method):
    """Held to its old value as other facts are, it would come half the way, and less each time."""
    exact, method = method == "exact_order", "memit" if method == "exact_order" else method
    given, config = standing(tiny_llama_f64, method), strong(method)
    if method == "memit":
        config = config.model_copy(update={"exact_order": exact, "statistics_weight": 1.0})
    z_star, known = wanted(given)[:2], list[Edit]()
    for time, batch in enumerate(([ADA[0], NILE], [ADA[1]], [ADA[2]])):
        if time:
            z_star[0] += 0.3 - 0.6 * (z_star[0] - states(given)[0]).sign()
        before = (states(given)[:2] - z_star).norm(dim=1)
        grow(given, batch, z_star, config, known)
        after = (states(given)[:2] - z_star).norm(dim=1)
        if time:  # ROME meets its constraint at the mean key, not at the bare prompt's
            assert after[0] < (0.5 if method == "rome" else 0.25) * before[0]
        if method == "memit":
            assert after[1] < 0.5  # of 1.5 before it was written


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
def test_the_history_of_a_group_that_grew_is_that_of_one_written_at_once(tiny_llama_f64, method):
    config = strong(method)
    z_star, grams = wanted(tiny_input(tiny_llama_f64, method))[:2], []
    for parts in ([[*ADA, NILE]], [[ADA[0], NILE], [ADA[1]], [ADA[2]]]):
        given, known = standing(tiny_llama_f64, method), list[Edit]()
        first = given.layers[0]  # the keys of later layers depend on what was written below
        for batch in parts:
            grow(given, batch, z_star, config, known)
        grams.append(given.history.gram(first, given.layout.key_size(given.model, first)))
        assert torch.linalg.eigvalsh(grams[-1])[0] > -1e-9
        given.weights.to_base()
    torch.testing.assert_close(grams[1], grams[0], atol=0.02 * grams[0].abs().max().item(), rtol=0)


def test_what_grew_fact_by_fact_comes_to_what_is_written_at_once(tiny_llama_f64):
    """Nearly: what other facts left at its key is not told apart from what it wrote itself."""
    config = method_config("memit", {"statistics_weight": 1.0, "layers": (1,)})
    z_star, changes = None, []
    for parts in ([[*ADA, NILE]], [[ADA[0], NILE], [ADA[1]], [ADA[2]]]):
        given, known = standing(tiny_llama_f64, "memit"), list[Edit]()
        given = replace(given, layers=(1,), prefixes=("",))
        z_star = wanted(given)[:2] if z_star is None else z_star
        for batch in parts:
            grow(given, batch, z_star, config, known)
        changes.append(given.weights.change(given.layout.weight_name(1)))
        given.weights.to_base()
    assert (changes[1] - changes[0]).norm() < 0.02 * changes[0].norm()


def test_facts_that_are_written_anew_want_the_edited_weights(tiny_llama_f64):
    given = tiny_input(tiny_llama_f64, "memit")
    with pytest.raises(UsageError, match="about a subject that has some needs the original weights"):
        compute_update(given, [ADA[1]], wanted(given)[:1], strong("memit"), live=[ADA[0]])


def standing(tiny: LoadedModel, method: str) -> MethodInput:
    """What a method is given where facts come one after another."""
    given = tiny_input(tiny, method)
    return replace(given, weights=EditedWeights(given.model, given.layout), history=KeyHistory())


def grow(given: MethodInput, batch: list[Edit], z_star: Tensor, config: MethodConfig, live: list[Edit]) -> None:
    """Write a batch, each fact with the value of its subject, Ada's first; those of Ada are live then."""
    values = torch.stack([z_star[int(edit is NILE)] for edit in batch])
    made = compute_update(given, batch, values, config, live=live)
    given.weights.apply(made.update)
    given.history.add(made.keys, gone=made.gone)
    live += [edit for edit in batch if edit is not NILE]


def test_facts_are_near_whose_keys_are_alike_and_not_the_same(tiny_llama_f64, monkeypatch):
    given = tiny_input(tiny_llama_f64, "memit")
    byron = Edit(subject="Lord Lovelace", prompt="{} speaks", target_new="Greek")
    others = [ADA[1], NILE, byron, OTHER_BEGINNING]
    names = KeyNames(given.tokenizer, given.prefixes)

    def found(edit: Edit, some: list[Edit]) -> list[int]:
        return [some.index(one.other) for one in nearly_alike(given, names, [edit], some)]

    near = found(ADA[0], others)
    keys = [locate(given, [edit], torch.zeros(1, 32), given.layers[-1], [{}]).bare_nd for edit in (ADA[0], *others)]
    alike = [torch.nn.functional.cosine_similarity(keys[0], key).item() for key in keys[1:]]
    assert near == [i for i in (2, 3) if alike[i] >= NEAR_COSINE] and 2 in near and alike[0] > 0.999
    everything = [ADA[0], *others]
    pairs = {(one.edit.id, one.other.id): one.cosine for one in nearly_alike(given, names, everything, [])}
    plain = {edit.id: locate(given, [edit], torch.zeros(1, 32), given.layers[-1], [{}]).bare_nd for edit in everything}
    for one, other in permutations(everything, 2):
        alike_now = torch.nn.functional.cosine_similarity(plain[one.id], plain[other.id]).item()
        same = names.of(one) == names.of(other)
        assert ((one.id, other.id) in pairs) == (alike_now >= NEAR_COSINE and not same), (one, other)
        assert pairs.get((one.id, other.id), alike_now) == pytest.approx(alike_now, abs=1e-5)
    monkeypatch.setattr("editing.methods.alike.NEAR_AT_MOST", 1)
    assert found(ADA[0], others) == [i for i in near if i == 3]
    assert found(NILE, [ADA[0]]) == []
