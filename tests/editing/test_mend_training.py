"""Laws of MEND's training: what it makes small, what it leaves alone, that it can be killed, that it learns."""

import math
import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn.functional import normalize

from editing.digests import tensor_digest
from editing.edit import Edit, Probe
from editing.errors import HypernetworkError, InvalidEdit
from editing.layout import layout_of
from editing.measure.metrics import evaluate, summarise
from editing.methods import compute_update, method_config
from editing.methods.mend.combine import combine
from editing.methods.mend.examples import asked_of, examples_at, spared_by
from editing.methods.mend.files import load_network, save_network
from editing.methods.mend.loss import losses
from editing.methods.mend.method import update_together
from editing.methods.mend.options import MendTraining
from editing.methods.mend.training import MendTrainer
from editing.methods.mend.validation import validate
from editing.models import load_model
from editing.weights import concatenate, overlay
from tests.conftest import tiny_model
from tests.editing.test_mend import a_input
from tests.fact_model import CAPITAL, FACTS, _edit
from tests.hypernetworks import moved, untrained

EDITS = (
    Edit(subject="Ada Lovelace", prompt="{} was born in the city of", target_new="Paris", target_true="London",
         paraphrases=("The birthplace of Ada Lovelace is",), neighborhood=(Probe(prompt="The old man lives in"),)),
    Edit(subject="Nile", prompt="The river {} flows through", target_new="Rome"),
    Edit(subject="the moon", prompt="Beyond {} lies", target_new="nothing", target_true="the sea"),
    Edit(subject="the sun", prompt="In the morning {} is", target_new="seen", paraphrases=("Every day the sun is",)),
)  # fmt: skip
SMALL = MendTraining(rank=6, edit_weight=1.0, batch=3, updates_at_once=2, step_size=0.1)
LAYERS = (1, 2)


@pytest.fixture(params=["llama", "gpt2"])
def tiny(request):
    return tiny_model(request.param)


def started(loaded, config=SMALL, edits=EDITS, layers=LAYERS) -> MendTrainer:
    return MendTrainer.start(loaded, edits, layers, config=config)


def state(trainer: MendTrainer) -> dict[str, torch.Tensor]:
    """All that a step changes, copied."""
    found = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    for name, parameter in trainer.parameters.items():
        found |= {f"adam.{name}.{key}": value.clone() for key, value in trainer.adam.state.get(parameter, {}).items()}
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# The losses.


@pytest.mark.parametrize(("together", "ridge"), [(1, 0.1), (2, None), (2, 0.1)])
def test_the_losses_are_those_of_each_edit_in_a_pass_of_its_own(tiny, together, ridge):
    """−log p of the target and KL(base ‖ edited), text by text, whole sequences through the whole model."""
    model, tokenizer = tiny.model, tiny.tokenizer
    network = moved(untrained(model, tiny.digest, LAYERS, step_size=2.0, ridge=ridge))
    examples = examples_at(EDITS, 0, 4, seed=0)
    trainer = MendTrainer(tiny, EDITS, network, SMALL)
    tokens = trainer.gradients.of([one.edit for one in examples])
    updates = network.updates(tokens)
    edit_loss, locality = 0.0, 0.0

    def logprobs(prompt: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids, goal = tokenizer(prompt)["input_ids"], tokenizer(" " + target)["input_ids"]
        logits = model(input_ids=torch.tensor([ids + goal])).logits[0, len(ids) - 1 : -1]
        return logits.log_softmax(-1), torch.tensor(goal)

    for i, one in enumerate(examples):
        first = i // together * together
        both = slice(first, first + together)
        inputs = {name: one.rows(first, first + together) for name, one in tokens.items()}
        common = concatenate(updates[both]) if ridge is None else combine(updates[both], inputs, ridge)
        with overlay(model, layout_of(model), common):
            said, goal = logprobs(*one.asked)
            after, _ = logprobs(*one.spared)
        before, _ = logprobs(*one.spared)
        edit_loss += -said.gather(1, goal[:, None]).sum()
        locality += torch.nn.functional.kl_div(after, before, log_target=True, reduction="none").sum(1).mean()
    found = losses(tiny, network, examples, tokens, together)
    assert float(locality.detach()) > 1e-4
    torch.testing.assert_close(found[0], edit_loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], locality, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_validation_measures_as_many_edits_together_as_are_asked_for(tiny, together):
    network = moved(untrained(tiny.model, tiny.digest, LAYERS, step_size=2.0, ridge=0.1))
    before = {one.edit_id: one for one in evaluate(tiny.model, tiny.tokenizer, EDITS)}
    found, scores = validate(tiny, network, EDITS, before, together), []
    for start in range(0, len(EDITS), together):
        group = EDITS[start : start + together]
        with overlay(tiny.model, layout_of(tiny.model), update_together(network, tiny.model, tiny.tokenizer, group)):
            scores += evaluate(tiny.model, tiny.tokenizer, group, before=before)
    wanted = summarise(scores)
    judged = [wanted[name] for name in ("efficacy_argmax", "generalization_argmax", "locality_kept_tokens")]
    assert found == pytest.approx(wanted | {"score": sum(judged) / 3})
    assert found["locality_kept_tokens"] < 1


def test_edits_that_count_as_written_before_are_left_alone(tiny):
    config = SMALL.model_copy(update={"edits_before": 2, "batch": 1, "ridge": 0.1})
    network = moved(untrained(tiny.model, tiny.digest, LAYERS, step_size=2.0, ridge=0.1))
    trainer = MendTrainer(tiny, EDITS, network, config)
    [example] = examples_at(EDITS, 0, 1, seed=config.seed)
    before = [one.edit for one in examples_at(EDITS, 0, 2, seed=config.seed + 1) if one.edit != example.edit]
    inputs = {name: normalize(one.u_td.double()) for name, one in trainer.gradients.of(before).items()}
    gradients = trainer.gradients.of([example.edit])
    grams = {name: sum(torch.outer(u, u) for u in U_td) for name, U_td in inputs.items()}
    wanted = [float(loss.detach()) for loss in losses(tiny, network, [example], gradients, earlier=grams)]
    edit, locality, _ = trainer._accumulated(learning=False)  # a step would first let μ and σ hear of the example
    assert before and [edit, locality] == pytest.approx(wanted, rel=1e-4)
    plain, _ = losses(tiny, network, [example], gradients)
    assert edit != pytest.approx(float(plain.detach()), rel=1e-3)


def test_gradients_reach_every_parameter(tiny):
    trainer = started(tiny)
    trainer.train_step()  # at first U is zero, so that V and s have no effect yet
    examples = examples_at(EDITS, 0, 4, seed=0)
    found = losses(tiny, trainer.network, examples, trainer.gradients.of([one.edit for one in examples]))
    for gradient in torch.autograd.grad(found[0] + found[1], list(trainer.parameters.values())):
        assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_an_edit_is_asked_by_all_its_prompts_and_spares_its_neighborhood_and_anothers():
    ada, nile, moon = EDITS[:3]
    assert asked_of(ada) == [(ada.text, "Paris"), ("The birthplace of Ada Lovelace is", "Paris")]
    assert asked_of(nile) == [("The river Nile flows through", "Rome")]
    assert spared_by(ada, None) == [("The old man lives in", "London")]
    assert spared_by(nile, ada) == [("The old man lives in", "London")]
    assert spared_by(ada, nile) == [("The old man lives in", "London"), ("The river Nile flows through", "Paris")]
    assert spared_by(nile, moon) == [("Beyond the moon lies", "the sea")]
    assert spared_by(moon, nile) == [("The river Nile flows through", "nothing")]
    about = ada.model_copy(update={"neighborhood": (Probe(prompt="The Nile and"), Probe(prompt="The end is"))})
    assert spared_by(nile, about) == [("The end is", "London")]


def test_every_pass_has_all_edits_once_and_any_part_of_the_stream_can_be_had_alone():
    stream = examples_at(EDITS, 0, 40, seed=3)
    passes = [[one.edit.subject for one in stream[start : start + 4]] for start in range(0, 40, 4)]
    assert all(Counter(one) == Counter(edit.subject for edit in EDITS) for one in passes)
    assert len({tuple(one) for one in passes}) > 3
    assert len({one.asked for one in stream}) == sum(len(asked_of(edit)) for edit in EDITS)
    assert stream[13:22] == examples_at(EDITS, 13, 9, seed=3) and stream != examples_at(EDITS, 0, 40, seed=4)


# Steps.


def test_steps_and_updates_leave_the_base_alone(tiny, tmp_path):
    model = tiny.model
    before, kind = {name: tensor_digest(tensor) for name, tensor in model.state_dict().items()}, type(model)
    trainer = started(tiny, SMALL.model_copy(update={"step_size": None}))
    for _ in range(3):
        trainer.train_step()
    trainer.save(tmp_path / "h")
    given = replace(a_input("llama"), model=model, tokenizer=tiny.tokenizer, layout=layout_of(model))
    given = replace(given, statistics=replace(given.statistics, base_digest=tiny.digest))
    config = method_config("mend", {"hypernetwork": str(tmp_path / "h")})
    assert compute_update(given, EDITS, torch.zeros(4, 0), config).update
    assert {name: tensor_digest(tensor) for name, tensor in model.state_dict().items()} == before
    assert type(model) is kind and all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_passes_of_a_step_change_nothing_but_memory(tiny):
    whole, parts = (started(tiny, SMALL.model_copy(update={"updates_at_once": count})) for count in (3, 1))
    for _ in range(3):
        one, other = whole.train_step(), parts.train_step()
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-2)


def test_the_gradient_is_clipped(tiny):
    loose, tight = (started(tiny, SMALL.model_copy(update={"clip": clip})) for clip in (1e9, 1e-3))
    norm = loose.train_step().gradient_norm
    assert tight.train_step().gradient_norm == pytest.approx(norm, rel=1e-5) and norm > 1e-3
    for name, parameter in loose.parameters.items():
        kept = tight.adam.state[tight.parameters[name]]["exp_avg"]
        expected = loose.adam.state[parameter]["exp_avg"] * 1e-3 / norm
        torch.testing.assert_close(kept, expected, atol=1e-9, rtol=1e-3)


def test_the_step_sizes_rise_in_the_warm_up_and_fall_in_the_end(tiny_llama):
    trainer = started(tiny_llama, SMALL.model_copy(update={"warm_up": 3, "decay_after": 5}))
    rates = []
    for _ in range(6):
        trainer.train_step()
        rates.append([group["lr"] for group in trainer.adam.param_groups])
    for rate, share in zip(rates, (0.25, 0.5, 0.75, 1, 1, (5 / 6) ** 0.5), strict=True):
        assert rate == pytest.approx([share * SMALL.learning_rate, share * SMALL.step_learning_rate])


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 2])
def test_a_killed_training_goes_on_to_the_very_same_bits(tiny, tmp_path, together):
    config = SMALL.model_copy(update={"edits_together": together})
    whole, killed = started(tiny, config), started(tiny, config)
    seen = [whole.train_step() for _ in range(5)]
    for _ in range(2):
        killed.train_step()
    killed.save(tmp_path / "h")
    del killed
    random.seed(99)
    torch.manual_seed(99)
    resumed = MendTrainer.resume(tmp_path / "h", tiny, EDITS)
    assert [resumed.train_step() for _ in range(3)] == seen[2:]
    assert same(state(resumed), state(whole)) and resumed.step == 5


def test_a_training_can_begin_with_an_earlier_hypernetwork(tiny):
    first = started(tiny)
    first.train_step()
    config = SMALL.model_copy(update={"step_size": None, "ridge": 0.5, "seed": 9})
    second = MendTrainer.start(tiny, EDITS[:3], LAYERS, config=config, network=first.network)
    states = [one.network.state_dict() for one in (first, second)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert second.network.spec.ridge == 0.5 and second.step == 0 and second.network is not first.network
    stepping = SMALL.model_copy(update={"step_size": 0.25})
    again = MendTrainer.start(tiny, EDITS, LAYERS, config=stepping, network=first.network)
    assert list(again.network.step_sizes().values()) == pytest.approx([0.25, 0.25])
    with pytest.raises(HypernetworkError, match="to begin with has rank 6, not 7; give its rank"):
        MendTrainer.start(tiny, EDITS, LAYERS, config=SMALL.model_copy(update={"rank": 7}), network=first.network)
    with pytest.raises(HypernetworkError, match="belongs to the weights"):
        MendTrainer.start(tiny, EDITS, (1,), config=SMALL, network=first.network)


def test_a_bfloat16_base_is_trained_on_in_float32(tmp_path):
    tiny = tiny_model("llama", torch.bfloat16)
    trainer = started(tiny)
    assert not any(trainer.train_step().skipped for _ in range(3))
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    assert {p.dtype for p in tiny.model.parameters()} == {torch.bfloat16}


# What is not finite.


def test_a_step_that_is_not_finite_is_skipped_and_counted(tiny):
    trainer = started(tiny)
    trainer.train_step()
    good = state(trainer)
    weight = tiny.model.get_parameter(layout_of(tiny.model).weight_name(3))
    kept = weight[0, 0].clone()
    weight[0, 0] = float("nan")
    lost = trainer.train_step()
    assert lost.skipped and math.isnan(lost.loss) and same(state(trainer), good)
    weight[0, 0] = kept
    assert not trainer.train_step().skipped
    assert (trainer.step, trainer.skipped, trainer.skipped_in_a_row) == (3, 1, 0)


def test_an_update_that_is_not_finite_is_skipped_until_it_is_too_often(tiny):
    trainer = started(tiny, SMALL.model_copy(update={"max_skipped": 3}))
    trainer.network.set_step_size(1e40)
    begun = state(trainer)
    assert trainer.train_step().skipped and trainer.train_step().skipped
    with pytest.raises(HypernetworkError, match="not finite in 3 steps in a row, the last one step 3; go on from an"):
        trainer.train_step()
    assert same(state(trainer), begun)


# What is refused.


def test_edits_that_cannot_be_trained_on_are_refused_at_the_start(tiny_llama):
    nile = EDITS[1]
    long = nile.model_copy(update={"paraphrases": ("And so on. " * 100,)})
    for edits, kind, says in (
        ((), HypernetworkError, "there are no edits to train on"),
        ((nile, nile), HypernetworkError, "has no neighborhood and no edit is of another subject.*; give"),
        ((*EDITS, long), InvalidEdit, "takes .* tokens with its target, the model reads 256; shorten it"),
    ):
        with pytest.raises(kind, match=says):
            started(tiny_llama, edits=edits)
    assert started(tiny_llama, edits=EDITS[:1]).train_step().step == 1


def test_a_training_goes_on_only_with_what_it_began_with(tiny_llama, tmp_path):
    path, other = tmp_path / "h", tiny_model("gpt2")
    started(tiny_llama).save(path)
    for loaded, edits, config, says in (
        (other, EDITS, None, "belongs to base .*; train one on this model"),
        (tiny_llama, EDITS[::-1], None, "has other edits than these 4; give its own, in their order"),
        (tiny_llama, EDITS, MendTraining(rank=7), "has rank 6 and ridge 0.001, not 7 and 0.001; keep them"),
    ):
        with pytest.raises(HypernetworkError, match=says):
            MendTrainer.resume(path, loaded, edits, config)
    lower = SMALL.model_copy(update={"learning_rate": 1e-5})
    assert MendTrainer.resume(path, tiny_llama, EDITS, lower).config == lower
    save_network(load_network(path), path)
    with pytest.raises(HypernetworkError, match="holds no training to go on with; give what `save` wrote"):
        MendTrainer.resume(path, tiny_llama, EDITS)


# The fact model: it learns.


@dataclass(frozen=True)
class Measured:
    loss: float
    success: float
    kept: float


def measured(trainer: MendTrainer, edits: list[Edit]) -> Measured:
    """L, and shares of held-out edits that say the target and of neighbors that say what they said."""
    facts, examples = trainer.loaded, examples_at(edits, 0, len(edits), seed=0)
    tokens = trainer.gradients.of([one.edit for one in examples])
    with torch.no_grad():
        updates = trainer.network.updates(tokens)
        edit_loss, locality = losses(facts, trainer.network, examples, tokens)
    drawn = [one.edit for one in examples]
    before = {one.edit_id: one for one in evaluate(facts.model, facts.tokenizer, drawn)}
    found = evaluate(facts.model, facts.tokenizer, drawn, before=before, updates=updates)
    assert not any(one.efficacy_argmax for one in before.values())
    success = [one.efficacy_argmax for one in found]
    kept = [one.locality_kept for one in found if one.locality_prob is not None]
    return Measured(float(edit_loss + locality) / len(edits), sum(success) / len(success), sum(kept) / len(kept))


@pytest.mark.slow
def test_a_training_of_seconds_edits_held_out_facts_better_than_any_plain_gradient(fact_model_path, tmp_path):
    facts, rng = load_model(str(fact_model_path), cache=tmp_path), random.Random(3)
    pool = [fact for fact in FACTS if fact.relation is not CAPITAL]
    rng.shuffle(pool)
    held_out = [_edit(fact, set(pool[:40]), rng) for fact in pool[:40]]
    learnt = [_edit(fact, set(pool[:40]), rng) for fact in pool[40:] for _ in range(3)]
    trainer = MendTrainer.start(facts, learnt, (0, 1, 2), config=MendTraining(rank=64, edit_weight=0.5, step_size=0.1))
    plain = []
    for step_size in (0.02, 0.05, 0.1):
        trainer.network.set_step_size(step_size)
        plain.append(measured(trainer, held_out))
    trainer.network.set_step_size(0.1)
    for _ in range(100):
        trainer.train_step()
    made = measured(trainer, held_out)
    assert made.success >= 0.4 and made.kept >= 0.4
    assert made.loss < 0.8 * min(one.loss for one in plain)
    assert all(one.kept < made.kept - 0.05 for one in plain if one.success >= made.success)
