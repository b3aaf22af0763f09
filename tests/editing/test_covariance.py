"""Laws of the key statistics, against a plain computation of E[k kᵀ]."""

import pickle
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sklearn.covariance import ledoit_wolf

from editing import collection
from editing.collection import Unfinished, collect_statistics, sum_part
from editing.covariance import KeyStatistics, text_digest
from editing.errors import StatisticsError
from editing.key_sums import PART_BATCHES, STEP_BATCHES, KeySums, PartSums
from editing.layout import layout_of
from editing.models import LoadedModel
from editing.token_rows import TokenRow
from tests.conftest import SENTENCES, tiny_model

LAYERS = (1, 2)
TEXTS = [*SENTENCES, "I.", "", "München 🎻 and a very long text about the sea and the old man. " * 12, "The end"]
ARCHITECTURES = ["tiny_llama", "tiny_gpt2"]


@pytest.fixture(params=ARCHITECTURES)
def tiny(request) -> LoadedModel:
    return request.getfixturevalue(request.param)


def collect(tiny: LoadedModel, texts: list[str], layers=LAYERS, max_tokens: int = 100_000, **options) -> KeyStatistics:
    return collect_statistics(
        tiny.model,
        tiny.tokenizer,
        layout_of(tiny.model),
        layers,
        iter(texts),
        base_digest=tiny.digest,
        source="test",
        max_tokens=max_tokens,
        **options,
    )


def assert_same(found: KeyStatistics, expected: KeyStatistics) -> None:
    assert found.tokens == expected.tokens and found.moments.keys() == expected.moments.keys()
    assert found.fourth_powers == pytest.approx(expected.fourth_powers, rel=1e-5)
    for layer, C in expected.moments.items():
        torch.testing.assert_close(found.moments[layer], C, atol=1e-9, rtol=1e-5)


def plain_keys(tiny: LoadedModel, texts: list[str], layer: int) -> torch.Tensor:
    """All keys, (tokens, d) float64, one text at a time."""
    name = layout_of(tiny.model).weight_name(layer).removesuffix(".weight")
    seen: list[torch.Tensor] = []
    handle = tiny.model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for text in texts:
        ids = tiny.tokenizer(text)["input_ids"]
        for start in range(0, len(ids), 128):
            tiny.model(input_ids=torch.tensor([ids[start : start + 128]]))
    handle.remove()
    return torch.cat([batch[0] for batch in seen]).double()


def plain_moment(tiny: LoadedModel, texts: list[str], layer: int) -> torch.Tensor:
    """The mean of k kᵀ over all tokens, one token at a time."""
    keys = plain_keys(tiny, texts, layer)
    return sum(torch.outer(key, key) for key in keys) / len(keys)


def test_statistics_are_the_plain_mean_of_k_kt(tiny):
    found = collect(tiny, TEXTS)
    for layer in LAYERS:
        torch.testing.assert_close(
            found.moments[layer].double(), plain_moment(tiny, TEXTS, layer), atol=1e-8, rtol=1e-4
        )


def test_statistics_of_shards_merge_to_those_of_the_whole(tiny):
    assert_same(collect(tiny, TEXTS[:2]).merge(collect(tiny, TEXTS[2:])), collect(tiny, TEXTS))


def test_shrunk_moments_are_those_of_scikit_learn(tiny):
    found = collect(tiny, TEXTS).shrunk()
    for layer in LAYERS:
        expected, alpha = ledoit_wolf(plain_keys(tiny, TEXTS, layer).numpy(), assume_centered=True)
        assert 0.001 < alpha < 1
        torch.testing.assert_close(found.moments[layer].double(), torch.from_numpy(expected), atol=1e-8, rtol=1e-4)


def test_shrunk_moments_are_the_best_on_the_way_to_the_identity(tiny):
    """Derived anew, token by token: α = E|C - E C|² / |C - µ I|², where the error of a mean of n is that of one / n."""
    found = collect(tiny, TEXTS).shrunk()
    for layer in LAYERS:
        keys = plain_keys(tiny, TEXTS, layer)
        C, n, d = plain_moment(tiny, TEXTS, layer), *keys.shape
        target = C.diagonal().mean() * torch.eye(d).double()
        error = sum((torch.outer(key, key) - C).norm() ** 2 for key in keys) / n**2
        alpha = error / (C - target).norm() ** 2
        torch.testing.assert_close(
            found.moments[layer].double(), (1 - alpha) * C + alpha * target, atol=1e-8, rtol=1e-4
        )


@pytest.mark.parametrize("tokens", [2, 5])
def test_of_hardly_any_text_all_is_the_identity_and_its_mass_stays(tiny, tokens):
    plain = collect(tiny, TEXTS, max_tokens=tokens)
    found = plain.shrunk()
    for layer in LAYERS:
        assert found.moments[layer].trace().item() == pytest.approx(plain.moments[layer].trace().item())
        expected, _ = ledoit_wolf(plain_keys(tiny, [TEXTS[0]], layer)[:tokens].numpy(), assume_centered=True)
        torch.testing.assert_close(found.moments[layer].double(), torch.from_numpy(expected), atol=1e-8, rtol=1e-4)


def test_moments_that_are_a_multiple_of_the_identity_stay():
    moments = {1: 2 * torch.eye(4, dtype=torch.float64)}
    found = KeyStatistics(moments, 8, "base", "made", {1: 8 * 64.0}).shrunk()
    assert torch.equal(found.moments[1], moments[1])


def test_shards_are_merged_first_and_then_shrunk(tiny):
    merged = collect(tiny, TEXTS[:2]).merge(collect(tiny, TEXTS[2:])).shrunk()
    whole = collect(tiny, TEXTS).shrunk()
    for layer in LAYERS:
        torch.testing.assert_close(merged.moments[layer], whole.moments[layer], atol=1e-9, rtol=1e-5)
    plain = collect(tiny, TEXTS)
    for wrong in (whole.shrunk, lambda: whole.merge(plain), lambda: plain.merge(whole)):
        with pytest.raises(
            StatisticsError, match=r"shrunk\) have no sums .* of layers \[1, 2\]; merge first and shrink"
        ):
            wrong()


def collected_keeping_all(tiny: LoadedModel, texts: list[str]) -> tuple[KeyStatistics, list[dict[str, torch.Tensor]]]:
    """Statistics, and the sums on the way as often as there are some to keep."""
    states: list[dict[str, torch.Tensor]] = []
    keeps = Unfinished(lambda: None, lambda state: states.append(deepcopy(state)), seconds=0.0, work_a_write=0.0)
    return collect(tiny, texts, unfinished=keeps), states


def test_what_takes_long_to_keep_is_kept_seldom(tiny_llama):
    states: list[dict[str, torch.Tensor]] = []
    keeps = Unfinished(lambda: None, states.append, seconds=0.0, work_a_write=1e12)
    collect(tiny_llama, [text for text in TEXTS * 16 if text], unfinished=keeps)
    assert len(states) == 1


@pytest.fixture
def small_parts(monkeypatch) -> None:
    """Parts of four batches."""
    monkeypatch.setattr(collection, "PART_BATCHES", STEP_BATCHES)


def parts_elsewhere(tiny: LoadedModel, texts: list[str]) -> list[PartSums]:
    """The sums of each part of a text, as another process finds them."""
    parts = collection.parts_of(tiny.model, tiny.tokenizer, texts, 100_000)
    about = (tiny.model, tiny.tokenizer, layout_of(tiny.model), LAYERS)
    return [sum_part(*about, [row for rows in part for row in rows]) for part in parts]


@pytest.mark.parametrize("taken", [(), (0,), (0, 1, 2), (1,), (0, 2)])
def test_whoever_sums_a_part_the_statistics_are_the_same_to_the_last_bit(tiny, small_parts, taken):
    many = [text for text in TEXTS * 14 if text]
    whole, parts = collect(tiny, many), parts_elsewhere(tiny, many)
    assert [part.batches for part in parts[:-1]] == [STEP_BATCHES] * (len(parts) - 1) and len(parts) > 2
    passed, real, heard = [], collection.run_body, list[int]()

    def elsewhere(number: int, sums: KeySums) -> bool:
        if number in taken:
            sums.take(parts[number])
        return number in taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "run_body", lambda *args, **rest: passed.append(1) or real(*args, **rest))
        found = collect(tiny, many, elsewhere=elsewhere, on_progress=heard.append)
    assert len(passed) == sum(part.batches for number, part in enumerate(parts) if number not in taken)
    assert replace(found, moments={}) == replace(whole, moments={}) and heard == sorted(heard)
    assert heard[-1] == found.tokens == sum(part.tokens for part in parts)
    assert all(torch.equal(C, whole.moments[layer]) for layer, C in found.moments.items())


def test_what_is_summed_in_parts_is_what_it_is_in_one(tiny, monkeypatch):
    many = [text for text in TEXTS * 14 if text]
    whole = collect(tiny, many)
    monkeypatch.setattr(collection, "PART_BATCHES", STEP_BATCHES)
    assert_same(collect(tiny, many), whole)


@pytest.mark.parametrize("name", ["another size", "not finite", "a layer less", "damaged"])
def test_sums_of_a_part_that_are_none_change_nothing(tiny_llama, small_parts, name):
    many = [text for text in TEXTS * 14 if text]
    whole, [first, *_] = collect(tiny_llama, many), parts_elsewhere(tiny_llama, many)

    def upper(layer: int) -> torch.Tensor:
        if layer == LAYERS[0]:
            return first.upper(layer)
        if name == "damaged":
            raise OSError("no such file")
        return first.upper(layer)[:-1] if name == "another size" else first.upper(layer) * float("nan")

    powers = {LAYERS[0]: 1.0} if name == "a layer less" else first.fourth_powers
    refused = []

    def elsewhere(number: int, sums: KeySums) -> bool:
        with pytest.raises((ValueError, LookupError, OSError)):
            sums.take(replace(first, upper=upper, fourth_powers=powers))
        refused.append(number)
        return False

    found = collect(tiny_llama, many, elsewhere=elsewhere)
    assert len(refused) > 2 and replace(found, moments={}) == replace(whole, moments={})
    assert all(torch.equal(C, whole.moments[layer]) for layer, C in found.moments.items())


@pytest.mark.slow
@pytest.mark.parametrize("batches", [STEP_BATCHES, PART_BATCHES])
def test_what_is_kept_on_the_way_is_gone_on_with_to_the_last_bit(tiny, monkeypatch, batches):
    monkeypatch.setattr(collection, "PART_BATCHES", batches)
    many = [text for text in TEXTS * 16 if text]
    whole, states = collected_keeping_all(tiny, many)
    assert len(states) > 2
    for state in states:
        heard: list[int] = []
        again = collect(tiny, many, unfinished=Unfinished(lambda s=state: s, states.append), on_progress=heard.append)
        assert heard[0] == int(state["done"][1]) > 0  # nothing stands beside them
        assert replace(again, moments={}) == replace(whole, moments={})
        assert all(torch.equal(C, whole.moments[layer]) for layer, C in again.moments.items())
    bare = collect(tiny, many)
    assert all(torch.equal(C, whole.moments[layer]) for layer, C in bare.moments.items())


def other_layers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace(".1", ".3"): tensor for name, tensor in state.items()}


def other_sizes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor[:-1] if tensor.ndim == 2 else tensor for name, tensor in state.items()}


def not_finite(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def nothing(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {}


@pytest.mark.parametrize("change", [other_layers, other_sizes, not_finite, nothing])
def test_what_is_kept_of_anything_else_is_not_gone_on_with(tiny_llama, change):
    many = [text for text in TEXTS * 10 if text]
    whole, states = collected_keeping_all(tiny_llama, many)
    again = collect(tiny_llama, many, unfinished=Unfinished(lambda: change(states[0]), states.append))
    assert all(torch.equal(C, whole.moments[layer]) for layer, C in again.moments.items())


BESIDE = [
    TokenRow([40, 50, 60, 70], [[], [41, 42], [], [71]]),
    TokenRow([80, 90], [[], [91, 92]]),
    TokenRow([30, 31, 32]),
]


def continued(row: TokenRow) -> list[tuple[list[int], int]]:
    """The row, and for each token beside it the text that ends with that token; with each how many are not yet had."""
    beside = [([*row.ids[:place], other], 1) for place, others in enumerate(row.others) for other in others]
    return [(list(row.ids), len(row.ids)), *beside]


def keys_of(tiny: LoadedModel, name: str, ids: list[int], last: int) -> torch.Tensor:
    """The keys of the last tokens of a text, float64."""
    seen: list[torch.Tensor] = []
    handle = tiny.model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    tiny.model(input_ids=torch.tensor([ids]))
    handle.remove()
    return seen[0][-last:].double()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_token_beside_another_gives_the_key_it_would_have_there(tiny, attention):
    tiny.model.set_attn_implementation(attention)
    found = collect(tiny, BESIDE)
    assert found.tokens == 4 + 3 + 2 + 2 + 3
    for layer in LAYERS:
        name = layout_of(tiny.model).weight_name(layer).removesuffix(".weight")
        keys = torch.cat([keys_of(tiny, name, ids, own) for row in BESIDE for ids, own in continued(row)])
        assert len(keys) == found.tokens
        torch.testing.assert_close(found.moments[layer].double(), keys.T @ keys / len(keys), atol=1e-8, rtol=1e-4)


def test_only_own_tokens_count_against_the_limit(tiny_llama):
    assert collect(tiny_llama, BESIDE, max_tokens=5).tokens == 4 + 3 + 1
    assert collect(tiny_llama, [BESIDE[0]] * 3, max_tokens=6).tokens == 4 + 3 + 2 + 2


def test_a_long_row_is_cut_and_a_window_begins_with_nothing_beside(tiny_llama):
    row = TokenRow(list(range(300, 300 - 140, -1)), [[], *([i] for i in range(139))])
    assert collect(tiny_llama, [row]).tokens == 140 + 127 + 11


def test_a_model_that_takes_no_mask_of_ours_is_given_the_text_alone(tiny, monkeypatch):
    monkeypatch.setattr(collection, "may_branch", lambda model, longest: False)
    assert_same(collect(tiny, BESIDE), collect(tiny, [TokenRow(row.ids) for row in BESIDE]))


def test_padding_does_not_count(tiny):
    """A short text beside a long one is padded; alone it is not."""
    short, long = ["I."], [TEXTS[5]]
    together = collect(tiny, short + long)
    assert together.tokens == sum(len(tiny.tokenizer(text)["input_ids"]) for text in short + long)
    assert_same(together, collect(tiny, short).merge(collect(tiny, long)))


def test_neither_order_nor_batches_of_a_stream_matter(tiny):
    assert_same(collect(tiny, TEXTS[::-1]), collect(tiny, TEXTS))
    many, once = TEXTS * 3, collect(tiny, TEXTS)  # more rows than one batch holds
    powers = {layer: 3 * power for layer, power in once.fourth_powers.items()}
    assert_same(collect(tiny, many), replace(once, tokens=once.tokens * 3, fourth_powers=powers))


def test_no_more_tokens_are_read_than_asked_for_and_the_stream_stays_lazy(tiny_llama):
    taken = []

    def stream():
        for text in TEXTS * 100:
            taken.append(text)
            yield text

    assert collect(tiny_llama, stream(), max_tokens=40).tokens == 40
    assert len(taken) < 10


def test_the_model_is_left_as_it_was(tiny):
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    collect(tiny, TEXTS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.model.modules())


def test_statistics_of_different_models_or_layers_do_not_merge(tiny_llama, tiny_gpt2):
    ours = collect(tiny_llama, TEXTS)
    for other in (collect(tiny_gpt2, TEXTS), collect(tiny_llama, TEXTS, layers=(1,))):
        with pytest.raises(StatisticsError, match=r"cannot be merged with .*collect both on the same model"):
            ours.merge(other)


def test_statistics_of_another_base_are_refused(tiny_llama):
    with pytest.raises(StatisticsError, match=f"belong to base {tiny_llama.digest[:12]}, the model is 0000"):
        collect(tiny_llama, TEXTS).check("0" * 64, LAYERS)


def test_a_missing_layer_is_named(tiny_llama):
    statistics = collect(tiny_llama, TEXTS)
    statistics.check(tiny_llama.digest, LAYERS)
    with pytest.raises(StatisticsError, match=r"lack layers \[3\]; they have \[1, 2\]. Collect"):
        statistics.check(tiny_llama.digest, (1, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_keys_that_are_not_finite_are_refused(value):
    tiny = tiny_model("llama")
    tiny.model.get_parameter("model.layers.2.mlp.up_proj.weight")[0, 0] = value
    with pytest.raises(StatisticsError, match="of layer 2 are not finite; choose another layer"):
        collect(tiny, TEXTS)


def test_no_text_is_refused(tiny_llama):
    with pytest.raises(StatisticsError, match=r"no text to collect key statistics from \(test\)"):
        collect(tiny_llama, ["", ""])


def test_saved_statistics_load_as_they_were(tiny, tmp_path):
    statistics = collect(tiny, TEXTS)
    statistics.save(tmp_path / "statistics.safetensors")
    loaded = KeyStatistics.load(tmp_path / "statistics.safetensors")
    assert replace(loaded, moments={}) == replace(statistics, moments={})
    assert all(torch.equal(C, statistics.moments[layer]) for layer, C in loaded.moments.items())
    assert loaded.moments.keys() == statistics.moments.keys()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"C.1": [1.0]}))


def torch_saved(path: Path) -> None:
    torch.save({"C.1": torch.ones(2, 2)}, path)


def without_metadata(path: Path) -> None:
    save_file({"C.1": torch.ones(2, 2)}, path)


def with_other_names(path: Path) -> None:
    save_file(
        {"weights": torch.ones(2, 2)}, path, {"tokens": "1", "base_digest": "", "source": "", "fourth_powers": "{}"}
    )


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAKS = [truncated, pickled, torch_saved, without_metadata, with_other_names, empty, missing, folder]


@pytest.mark.parametrize("damage", BREAKS)
def test_a_broken_file_is_refused_by_name(tiny_llama, tmp_path, damage):
    path = tmp_path / "statistics.safetensors"
    collect(tiny_llama, SENTENCES).save(path)
    damage(path)
    with pytest.raises(
        StatisticsError, match=r"cannot read key statistics .*statistics\.safetensors: .*delete the file"
    ):
        KeyStatistics.load(path)


def test_a_digest_of_texts_knows_where_one_ends():
    assert text_digest(["ab", "c"]) != text_digest(["a", "bc"]) and text_digest(iter(["a"])) == text_digest(["a"])
