"""Every architecture obeys the same laws: search, keys, solve, writing and reverting, in any precision."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from editing.collection import collect_statistics
from editing.config import ValueSearchConfig
from editing.covariance import KeyStatistics
from editing.edit import Edit
from editing.errors import ModelError
from editing.keys import SubjectReader, capture_inputs
from editing.layout import LAYOUTS, layout_of
from editing.measure.fluency import generate
from editing.measure.scoring import score
from editing.methods.memit import MemitConfig, MethodInput, compute_update
from editing.methods.shared.history import KeyHistory
from editing.models import base_digest
from editing.search.values import search_values
from editing.tokens import encode_in_context, target_ids
from editing.weights import EditedWeights
from tests.costs import case
from tests.families import FAMILIES, KINDS, of_each_kind, tiny_family
from tests.reference import plain_search

LAYER = 1
CONFIG = ValueSearchConfig(
    products="weights", steps=5, stop_loss=0.0, learning_rate=0.1, optimiser="adam", edits_at_once=10
)
PREFIXES = ("", "The old man said so. ")
EDITS = (
    Edit(subject="Ada Lovelace", prompt="{} lives in", target_new="Rome"),
    Edit(subject="Nile", prompt="The river {} flows through", target_new="a very long canyon"),
    Edit(subject="x", prompt="{}", target_new="y"),
)

every_family = pytest.mark.parametrize("name", FAMILIES)


def test_every_layout_has_a_family_in_these_tests():
    assert {model_type for model_type, _ in FAMILIES.values()} == set(LAYOUTS)


@pytest.mark.slow
@of_each_kind()
def test_batched_search_equals_the_plain_loop(name):
    tiny = tiny_family(name)
    found = search_values(tiny.model, tiny.tokenizer, layout_of(tiny.model), EDITS, LAYER, CONFIG, PREFIXES)
    for edit, value in zip(EDITS, found, strict=True):
        expected = plain_search(tiny.model, tiny.tokenizer, edit, LAYER, CONFIG, PREFIXES)
        torch.testing.assert_close(value.z_star, expected, atol=1e-4, rtol=1e-4)


def input_for(tiny, layers=(1,), prefixes=("",)) -> MethodInput:
    """Statistics of uncorrelated keys as large as those of the edits."""
    layout = layout_of(tiny.model)
    unit = torch.eye(layout.key_size(tiny.model), dtype=torch.float64)
    moments = {layer: states(tiny, EDITS, layer).keys.double().square().mean() * unit for layer in layers}
    statistics = KeyStatistics(moments, 1, tiny.digest, "test")
    return MethodInput(tiny.model, tiny.tokenizer, layout, layers, statistics, KeyHistory(), prefixes)


def states(tiny, edits, layer, hidden_layer=None, prefixes=("",)):
    prompts = [encode_in_context(tiny.tokenizer, prefixes, 0, edit.prompt, edit.subject) for edit in edits]
    return SubjectReader(tiny.model, layout_of(tiny.model), 0).states(prompts, layer, hidden_layer or layer)


def reachable(tiny, edits, layer):
    """Hidden states that some output of the layer's MLP gives, as long as it is: a norm's epsilon counts against it."""
    module = layout_of(tiny.model).projection(tiny.model, layer)
    shift = torch.randn(len(edits), 1, 32, generator=torch.Generator().manual_seed(1))

    def shifted(module, args, output):  # OPT's has the tokens of all rows in one
        moved = (output.view(len(edits), -1, 32) + shift * output.norm()).view(output.shape)
        return moved * output.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)

    handle = module.register_forward_hook(shifted)
    found = states(tiny, edits, layer).hidden
    handle.remove()
    return found


@every_family
def test_the_weight_times_the_key_is_what_the_projection_writes(name):
    tiny = tiny_family(name)
    layout, found = layout_of(tiny.model), states(tiny, EDITS, LAYER)
    weight_md = layout.oriented(tiny.model.get_parameter(layout.weight_name(LAYER)))
    bias = getattr(layout.projection(tiny.model, LAYER), "bias", None)
    expected = found.keys @ weight_md.T + (0 if bias is None else bias)
    torch.testing.assert_close(found.written, expected, atol=1e-6, rtol=1e-5)


@every_family
def test_with_no_weight_on_general_text_the_wanted_state_is_reached(name):
    tiny = tiny_family(name)
    wanted, before = reachable(tiny, EDITS, LAYER), states(tiny, EDITS, LAYER).hidden
    update = compute_update(input_for(tiny), EDITS, wanted, MemitConfig(statistics_weight=1e-7)).update
    EditedWeights(tiny.model, layout_of(tiny.model)).apply(update)
    assert (wanted - before).norm() > 0.1
    torch.testing.assert_close(states(tiny, EDITS, LAYER).hidden, wanted, atol=1e-4, rtol=1e-4)


@every_family
def test_revert_is_bit_exact(name):
    tiny = tiny_family(name)
    weights = EditedWeights(tiny.model, layout_of(tiny.model))
    wanted = states(tiny, EDITS, 1, 2).hidden + 0.3
    batch = compute_update(input_for(tiny, (1, 2), PREFIXES), EDITS, wanted, MemitConfig(statistics_weight=1.0))
    undo = weights.apply(batch.update)
    assert base_digest(tiny.model) != tiny.digest
    weights.revert(undo)
    assert base_digest(tiny.model) == tiny.digest


@pytest.mark.slow
@of_each_kind()
def test_bfloat16_runs_from_search_to_written_weights(name):
    tiny = tiny_family(name, torch.bfloat16)
    layout, given = layout_of(tiny.model), input_for(tiny, (1, 2), PREFIXES)
    found = search_values(tiny.model, tiny.tokenizer, layout, EDITS, 2, CONFIG, PREFIXES)
    z_star = torch.stack([value.z_star for value in found])
    batch = compute_update(given, EDITS, z_star, MemitConfig(statistics_weight=1e-6))
    before, distance = dict(tiny.model.named_parameters()), (z_star - states(tiny, EDITS, 1, 2, PREFIXES).hidden).norm()
    before = {name: before[name].clone() for name in batch.update}
    EditedWeights(tiny.model, layout).apply(batch.update)
    for weight, old in before.items():
        new = tiny.model.get_parameter(weight)
        assert new.dtype == torch.bfloat16 and new.isfinite().all() and not torch.equal(new, old)
    assert (z_star - states(tiny, EDITS, 1, 2, PREFIXES).hidden).norm() < distance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bos"),
    [
        *(case(name, False, kept=name in KINDS) for name in FAMILIES),
        ("llama", True),
        case("gpt2", True, kept=False),
    ],
)
def test_a_batch_gives_what_single_runs_give(name, bos):
    tiny, config = tiny_family(name, bos=bos), CONFIG.model_copy(update={"steps": 2})
    layout = layout_of(tiny.model)
    together = search_values(tiny.model, tiny.tokenizer, layout, EDITS, LAYER, config, PREFIXES)
    batch = states(tiny, EDITS, LAYER, 2)
    for i, edit in enumerate(EDITS):
        [alone] = search_values(tiny.model, tiny.tokenizer, layout, [edit], LAYER, config, PREFIXES)
        torch.testing.assert_close(together[i].z_star, alone.z_star, atol=1e-4, rtol=1e-4)
        single = states(tiny, [edit], LAYER, 2)
        torch.testing.assert_close(batch.keys[i], single.keys[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(batch.hidden[i], single.hidden[0], atol=1e-5, rtol=1e-4)


@every_family
@pytest.mark.parametrize("bos", [False, True])
def test_log_probabilities_are_those_of_the_models_own_forward(name, bos):
    tiny = tiny_family(name, bos=bos)
    pairs = [(edit.text, edit.target_new) for edit in EDITS]
    for (prompt, target), found in zip(pairs, score(tiny.model, tiny.tokenizer, pairs), strict=True):
        ids, goal = tiny.tokenizer(prompt)["input_ids"], target_ids(tiny.tokenizer, prompt, target)
        logprobs = tiny.model(input_ids=torch.tensor([ids + goal])).logits[0].log_softmax(-1)
        expected = logprobs[len(ids) - 1 : -1].gather(1, torch.tensor(goal)[:, None]).mean()
        assert abs(found.mean_logprob - expected.item()) < 1e-4


@pytest.mark.parametrize(
    ("model_type", "sizes", "says"),
    [
        ("mixtral", {"num_local_experts": 4}, "'mixtral' .*cannot be edited: .*over 4 experts.*choose a dense model"),
        ("qwen3_moe", {"num_experts": 6}, "'qwen3_moe' .*cannot be edited: .*over 6 experts.*choose a dense model"),
        ("mamba", {}, "'mamba' .*cannot be edited: its layers keep a running state .*choose a dense model"),
        ("qwen3_5_text", {}, "'qwen3_5_text' .*cannot be edited: most of its layers are gated delta nets"),
        ("bart", {"is_encoder_decoder": True}, "'bart' .*cannot be edited: an encoder reads .*choose a dense model"),
        ("helium", {}, "no layout for architecture 'helium' .*without one it cannot be edited, choose another model"),
    ],
)
def test_a_model_without_a_single_down_projection_is_refused_by_name(model_type, sizes, says):
    small = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model(model_type, **{**small, **(heads if model_type != "mamba" else {}), **sizes})
    with torch.device("meta"), pytest.raises(ModelError, match=says):
        layout_of(AutoModelForCausalLM.from_config(config))


def test_a_quantised_weight_is_refused():
    model = tiny_family("llama").model
    projection = model.model.layers[0].mlp.down_proj
    projection.weight = torch.nn.Parameter(torch.zeros(1024, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match=r"down_proj.weight' .*uint8 of shape \(1024, 1\).*without quantisation"):
        layout_of(model)


def test_a_wrapped_model_is_refused():
    model = tiny_family("llama").model
    model.model.layers[0].mlp.down_proj = torch.nn.Sequential(model.model.layers[0].mlp.down_proj)
    with pytest.raises(ModelError, match=r"has no weight 'model\.layers\.0\.mlp\.down_proj\.weight'; wrapped"):
        layout_of(model)


def test_float64_is_refused_where_padding_would_become_nan():
    with pytest.raises(ModelError, match=r"'gemma2' .*gives NaN in float64; load it in float32"):
        layout_of(tiny_family("gemma2", torch.float64).model)


@every_family
def test_text_written_in_a_batch_is_the_argmax_of_the_plain_forward(name):
    tiny = tiny_family(name, bos=True)
    prompts, steps = [edit.text for edit in EDITS], 6
    for prompt, written in zip(prompts, generate(tiny.model, tiny.tokenizer, prompts, steps), strict=True):
        ids = tiny.tokenizer(prompt)["input_ids"]
        start = len(ids)
        for _ in range(steps):
            ids.append(tiny.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
        assert tiny.tokenizer.eos_token_id not in ids[start:]
        assert written == tiny.tokenizer.decode(ids[start:], skip_special_tokens=True)


@every_family
def test_key_statistics_are_the_mean_over_texts_run_one_by_one(name):
    tiny = tiny_family(name)
    layout, texts = layout_of(tiny.model), [edit.text for edit in EDITS]
    keys, modules = [], {LAYER: layout.projection(tiny.model, LAYER)}
    for text in texts:
        with capture_inputs(modules) as inputs:
            tiny.model(input_ids=torch.tensor([tiny.tokenizer(text)["input_ids"]]), use_cache=False)
        keys.append(inputs[LAYER].reshape(-1, layout.key_size(tiny.model)).double())
    K = torch.cat(keys)
    found = collect_statistics(
        tiny.model, tiny.tokenizer, layout, (LAYER,), texts, base_digest=tiny.digest, source="test", max_tokens=1000
    )
    assert found.tokens == len(K)
    torch.testing.assert_close(found.moments[LAYER].double(), K.T @ K / len(K), atol=1e-6, rtol=1e-4)
