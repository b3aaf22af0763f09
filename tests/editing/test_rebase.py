"""All facts written together from the base are what batches in sequence come to."""

from dataclasses import replace

import pytest
import torch

from editing.chat import ChatTemplate
from editing.digests import tensor_digest
from editing.edit import Edit
from editing.errors import UsageError
from editing.groups import canonical_order, content_digest
from editing.methods import METHODS, check_mode, compute_rebase, compute_replay, compute_update, method_config
from editing.methods.shared.history import KeyHistory
from editing.weights import EditedWeights, overlay
from tests.conftest import tiny_model
from tests.editing.test_chat import TEMPLATE
from tests.editing.test_methods import EDITS, EVERY_OTHER, make_input, quick, strong, tiny_input, wanted
from tests.families import tiny_family

CAN = pytest.mark.parametrize("method", ["memit", "alphaedit", "emmet", "rome"])
ADA = (
    Edit(subject="Ada Lovelace", prompt="{} works as a", target_new="very old sailor"),
    Edit(subject="Ada Lovelace", prompt="{} speaks", target_new="Greek"),
)
"""They share a key with the first of EDITS."""


@pytest.fixture(params=["tiny_llama_f64", "tiny_gpt2_f64"])
def tiny(request):
    return request.getfixturevalue(request.param)


def in_sequence(given, z_star, config) -> EditedWeights:
    """Facts one by one, each kept."""
    weights = EditedWeights(given.model, given.layout)
    for i in canonical_order(EDITS):
        made = compute_update(given, [EDITS[i]], z_star[i : i + 1], config)
        weights.apply(made.update)
        given.history.add(made.keys)
    return weights


def check_same(given, z_star, config) -> None:
    together = compute_rebase(given, EDITS, z_star, config)
    weights = in_sequence(given, z_star, config)
    for name, pair in together.update.items():
        expected = weights.sums[name]
        found, scale = pair.B.double() @ pair.A.double(), float(expected.abs().max())
        torch.testing.assert_close(found, expected, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("method", ["memit", "alphaedit", "rome"])
def test_at_one_layer_and_context_a_rebase_is_the_sequence(tiny, method):
    given = replace(tiny_input(tiny, method), layers=(2,), prefixes=("",))
    check_same(given, wanted(given), strong(method))


@pytest.mark.parametrize("mean_key", [True, False])
def test_romes_edits_see_what_those_before_them_wrote_behind_a_norm_too(mean_key):
    tiny = tiny_family("gemma2")
    given = make_input(tiny, (1,), prefixes=("", "I. "))
    check_same(given, wanted(given), method_config("rome", {"mean_key": mean_key}))


@CAN
def test_a_rebase_reaches_the_wanted_states_and_leaves_the_model_alone(tiny, method):
    given = tiny_input(tiny, method)
    z_star, before = wanted(given), {name: tensor_digest(t) for name, t in tiny.model.state_dict().items()}
    made = compute_rebase(given, EDITS, z_star, strong(method))
    assert {name: tensor_digest(t) for name, t in tiny.model.state_dict().items()} == before
    assert given.history.count == 0 and all(keys.shape[0] == len(EDITS) for keys in made.keys.values())
    with overlay(tiny.model, given.layout, made.update):
        assert (wanted_miss(given, z_star)) < 0.9 * 0.3 * z_star.numel() ** 0.5


def wanted_miss(given, z_star) -> float:
    """How far the states are from z*, which was made 0.3 away in each coordinate."""
    return float((wanted(given) - 0.3 * noise(z_star) - z_star).norm())


def noise(z_star: torch.Tensor) -> torch.Tensor:
    return torch.randn(*z_star.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).float()


@CAN
def test_no_pass_is_larger_for_more_facts(tiny_llama, method, monkeypatch):
    given, seen = tiny_input(tiny_llama, method), []
    edits = [edit.model_copy(update={"prompt": f"{i} {edit.prompt}"}) for i in range(20) for edit in EDITS]
    z_star = wanted(given).repeat(20, 1)
    z_star = z_star + 0.01 * torch.randn(z_star.shape, generator=torch.Generator().manual_seed(1))
    handle = tiny_llama.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr("editing.methods.located.TOKENS_AT_ONCE", 64)
    made = compute_rebase(given, edits, z_star, strong(method))
    handle.remove()
    assert len(seen) > 10 and max(seen) <= 64
    assert all(pair.B.shape[1] == len(edits) for pair in made.update.values())


def test_no_facts_are_the_base(tiny_llama):
    made = compute_rebase(tiny_input(tiny_llama, "memit"), [], torch.zeros(0, 32), method_config("memit"))
    assert not made.update and not made.keys


def test_a_history_of_facts_is_refused(tiny_llama):
    given = tiny_input(tiny_llama, "memit")
    given.history.add({1: torch.randn(2, 64), 2: torch.randn(2, 64)})
    with pytest.raises(UsageError, match=r"starts from the base, the history holds 2 facts; put the base back"):
        compute_rebase(given, EDITS, wanted(given), method_config("memit"))


def test_values_of_other_edits_are_refused(tiny_llama):
    given = replace(tiny_input(tiny_llama, "memit"), history=KeyHistory())
    with pytest.raises(UsageError, match=r"3 edits have 2 values z\*; search one for each edit"):
        compute_rebase(given, EDITS, wanted(given)[:2], method_config("memit"))


def test_a_method_that_trains_is_refused_with_those_that_can():
    with pytest.raises(
        UsageError,
        match=r"'finetune' cannot write all facts together from the base; use sequential mode, or one of memit",
    ):
        check_mode("finetune", "rebase")
    assert {name for name, method in METHODS.items() if "rebase" in method.modes} >= {
        "memit",
        "alphaedit",
        "emmet",
        "rome",
    }
    with pytest.raises(UsageError, match="mode is 'all'; choose one of sequential, independent, rebase"):
        check_mode("memit", "all")


# One order, whatever way the facts came in.


def written(given, edits, values, config) -> dict[str, str]:
    """Digests of the weights with all of these facts."""
    weights = EditedWeights(given.model, given.layout)
    undo = weights.apply(compute_rebase(given, edits, torch.stack([values[edit.id] for edit in edits]), config).update)
    found = weights.digests()
    weights.revert(undo)
    return found


@CAN
@pytest.mark.parametrize("chat", [False, True])
def test_equal_facts_give_equal_bits_in_whatever_order(method, chat):
    tiny = tiny_model("llama")
    given = tiny_input(tiny, method)
    if chat:
        tiny.tokenizer.chat_template = TEMPLATE
        given = replace(given, chat=ChatTemplate(tiny.tokenizer))
    edits, config = [*EDITS, *ADA], strong(method)
    z_star = wanted(given)
    values = {edit.id: z_star[0 if edit.subject == EDITS[0].subject else i] for i, edit in enumerate(edits)}
    first = written(given, edits, values, config)
    again = replace(given, model=tiny_model("llama").model)
    for order in ([4, 1, 0, 3, 2], [2, 3, 4, 0, 1]):
        assert written(again, [edits[i] for i in order], values, config) == first
    assert written(given, [edits[0], *edits[2:]], values, config) != first


@CAN
def test_a_fact_taken_out_leaves_the_bits_of_a_line_that_never_held_it(tiny_llama, method):
    given, config = tiny_input(tiny_llama, method), strong(method)
    values = {edit.id: value for edit, value in zip(EDITS, wanted(given), strict=True)}
    weights = EditedWeights(given.model, given.layout)
    for edit in EDITS:  # a line that held all three, batch by batch
        made = compute_update(given, [edit], values[edit.id][None], config)
        weights.apply(made.update)
        given.history.add(made.keys)
    weights.to_base()
    given = replace(given, history=KeyHistory())
    left = written(given, [EDITS[2], EDITS[0]], values, config)
    never = replace(tiny_input(tiny_model("llama"), method), statistics=given.statistics)
    assert written(never, [EDITS[0], EDITS[2]], values, config) == left


@EVERY_OTHER
def test_a_method_without_values_replays_equal_facts_in_equal_order_to_equal_bits(tiny_llama, method, monkeypatch):
    monkeypatch.setattr("editing.methods.REPLAYED_AT_ONCE", 2)
    given = tiny_input(tiny_llama, method)
    config, base = quick(given, method), {name: tensor_digest(t) for name, t in tiny_llama.model.state_dict().items()}
    weights = EditedWeights(given.model, given.layout)
    one, other = (compute_replay(given, weights, EDITS, config) for _ in range(2))
    assert {name: tensor_digest(t) for name, t in tiny_llama.model.state_dict().items()} == base
    for name, pair in one.update.items():
        assert torch.equal(pair.A, other.update[name].A) and torch.equal(pair.B, other.update[name].B)
    first = compute_update(given, EDITS[:2], torch.zeros(2, 0), config).update
    for name, pair in first.items():  # a batch of two, then the rest on top of it
        assert torch.equal(one.update[name].B[:, : pair.B.shape[1]], pair.B)
        assert one.update[name].B.shape[1] > pair.B.shape[1]


def test_what_a_value_is_known_by_is_what_the_facts_of_a_group_say():
    one, other = EDITS[0], ADA[0]
    assert content_digest([one, other]) == content_digest([other.model_copy(update={"id": "x"}), one])
    asked = one.model_copy(update={"question": "Where was {} born?"})
    changed = one.model_copy(update={"target_new": "Rome"})
    assert len({content_digest(some) for some in ([one], [one, other], [asked], [changed], [other])}) == 5
    more = one.model_copy(update={"target_true": "London", "paraphrases": ("Born where?",)})
    assert content_digest([more]) == content_digest([one])
