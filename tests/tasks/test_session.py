"""Laws of the working state: what is cached is used, what is broken is made anew, and nothing foreign is restored."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from editing.edit import Edit, Probe
from editing.errors import ModelError
from editing.methods import compute_update, method_config
from editing.methods.memit import MemitConfig
from editing.models import base_digest, quiet_transformers
from editing.weights import EditedWeights
from tasks.lines.specs import LineSpec
from tasks.progress import listening
from tasks.settings import Settings
from tasks.stores.batches import pack, unpack
from tasks.stores.errors import DigestMismatch
from tasks.stores.manifest import Manifest
from tasks.stores.opening import open_store
from tasks.stores.snapshots import SnapshotStore
from tasks.update import prepared, stages
from tasks.update import session as module
from tasks.update.run import Batch
from tasks.update.saying import say, shown
from tasks.update.session import Session, open_session
from tasks.update.values import base_states
from tests.conftest import tiny_model
from tests.heard import Heard
from tests.tasks.test_told_parts import Heard as Parts

pytestmark = pytest.mark.slow

EDITS = [
    Edit(
        subject="Ada Lovelace",
        prompt="{} was born in",
        target_new="Rome",
        target_true="London",
        neighborhood=(Probe(prompt="Bo was born in", answer="Oslo"),),
    ),
    Edit(subject="Nile", prompt="The river {} flows through", target_new="sea"),
    Edit(subject="moon", prompt="The {} is", target_new="old"),
]
CONFIG = MemitConfig(
    layers=(0, 1),
    contexts=2,
    statistics_tokens=128,
    statistics_weight=1.0,
    search={"steps": 3, "weight_decay": 0.0, "edits_at_once": 2},
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made = tiny_model("llama")
    with quiet_transformers():
        made.model.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One for this module, as a user's is one for many jobs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def little_text_held_out(monkeypatch):
    """To sample all that a line holds out would take most of the time of these tests."""
    monkeypatch.setattr(prepared, "HELD_OUT_TOKENS", 256)


@pytest.fixture
def opened(model_folder, cache) -> Callable[..., Session]:
    def make(folder: Path = cache, config: MemitConfig = CONFIG, model: Path = model_folder, **options) -> Session:
        spec = LineSpec(line="main", model=str(model), config=config)
        return open_session(spec, Settings(cache=folder), **options)

    return make


def forbid(monkeypatch, *names: str) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("this was to come from the cache")

    for name in names:
        monkeypatch.setattr(module if hasattr(module, name) else prepared, name, never)


ALL_WORK = (
    *("search_values", "evaluate", "entropies", "perplexity"),
    *("sample_rows", "context_prefixes", "collect_statistics"),
)

KINDS = ("answers", "contexts", "fluency", "perplexity", "scores", "statistics", "texts", "values")


def everything(session: Session) -> tuple[object, ...]:
    given = session.method_input
    scores, fluency = session.base_scores(EDITS, 5), session.base_fluency(["Ada is"], 8)
    moments = tuple(C.sum().item() for C in given.statistics.moments.values())
    perplexity, said = (
        session.base_perplexity(["The moon is old. " * 9], 64),
        shown(session, ["Ada is", "The"], at_base=True),
    )
    return session.values(EDITS).tolist(), scores, fluency, perplexity, said, given.prefixes, moments, session.held_out


def test_a_second_session_does_no_work_twice(opened, monkeypatch):
    first = everything(opened())
    forbid(monkeypatch, *ALL_WORK)
    assert everything(opened()) == first


def damage_none(path: Path) -> bytes:
    return b""


def damage_half(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


def is_tensors(path: Path) -> bool:
    return path.parent.parent.name in ("values", "statistics")


def damage_kind(path: Path) -> bytes:
    return save({"other": torch.ones(1)}) if is_tensors(path) else b"{}"


def damage_number(path: Path) -> bytes:
    """Whole, and not finite."""
    if not is_tensors(path):
        return b"[1, 2]"
    return save({name: tensor * float("nan") for name, tensor in load(path.read_bytes()).items()})


@pytest.mark.parametrize("damage", [damage_none, damage_half, damage_kind, damage_number])
def test_whatever_is_broken_in_the_cache_is_made_anew(opened, tmp_path, damage):
    first = everything(opened(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {path.relative_to(tmp_path).parts[0] for path in files}
    assert kinds == {*KINDS}
    whole = {path: path.read_bytes() for path in files}
    for path in files:
        path.write_bytes(damage(path))
    assert everything(opened(tmp_path)) == first
    for path, content in whole.items():
        if not is_tensors(path):
            assert path.read_bytes() == content
        else:
            old, new = load(content), load(path.read_bytes())
            assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_a_value_depends_on_the_question_and_the_search_alone(opened, monkeypatch):
    session = opened()
    [value] = session.values(EDITS[:1])
    renamed = EDITS[0].model_copy(update={"id": "other", "paraphrases": ("p",), "target_true": None})
    asked_otherwise = EDITS[0].model_copy(update={"target_new": "Oslo"})
    assert not torch.equal(session.values([asked_otherwise])[0], value)
    longer = opened(config=CONFIG.model_copy(update={"search": CONFIG.search.model_copy(update={"steps": 4})}))
    assert not torch.equal(longer.values(EDITS[:1])[0], value)
    weight = opened(config=CONFIG.model_copy(update={"statistics_weight": 7.0}))
    forbid(monkeypatch, "search_values")
    assert torch.equal(session.values([renamed])[0], value) and torch.equal(weight.values(EDITS[:1])[0], value)


def test_values_and_scores_come_in_the_order_asked_for_whatever_was_cached(opened, tmp_path):
    session = opened(tmp_path)
    one = session.values(EDITS[1:2])
    heard = Heard()
    with listening(heard):
        values = session.values(EDITS)
    assert torch.equal(values[1:2], one)
    done = [done for what, done, total in heard.told if (what, total) == ("values", 2 * CONFIG.search.steps)]
    assert len(done) == len(heard.told) > 2 and done[0] == 0 and done[-1] == 2 * CONFIG.search.steps
    assert done == sorted(done)
    assert torch.equal(session.values(EDITS[::-1]), values.flip(0))
    assert list(session.base_scores(EDITS, 5)) == [edit.id for edit in EDITS]


def test_facts_that_share_a_key_have_one_value_whichever_came_first(opened, tmp_path, monkeypatch):
    others = [("{} worked as a", "sailor"), ("{} spoke", "Greek")]
    facts = [EDITS[0], *(Edit(subject="Ada Lovelace", prompt=prompt, target_new=said) for prompt, said in others)]
    values = [opened(tmp_path / name).values(some) for name, some in (("a", facts), ("b", facts[::-1]))]
    assert all(torch.equal(value, values[0][0]) for value in (*values[0], *values[1]))
    again = opened(tmp_path / "a")
    forbid(monkeypatch, "search_values")
    assert torch.equal(again.values(facts[1:], live=facts[:1]), values[0][1:])
    assert torch.equal(again.values(facts[:1], live=facts[:0:-1]), values[0][:1])


def written(session: Session, edits=EDITS) -> tuple[Manifest, dict[str, torch.Tensor]]:
    """A batch written into the session, as its version would be stored."""
    z_star = session.values(edits)
    batch = compute_update(session.method_input, edits, z_star, session.config)
    session.weights.apply(batch.update)
    session.remember([edit.id for edit in edits], batch)
    manifest = Manifest(
        line="main",
        version=1,
        parent=None,
        base="tiny",
        base_digest=session.loaded.digest,
        config=session.config.model_dump(mode="json"),
        request_ids=tuple(edit.id for edit in edits),
        tensor_digests=session.weights.digests(),
        batch=1,
    )
    return manifest, pack(batch, z_star)


def test_values_scores_and_fluency_are_the_bases_whatever_stands_in_the_weights(opened, tmp_path):
    plain = everything(opened(tmp_path / "plain"))
    edited = opened(tmp_path / "edited")
    written(edited, [EDITS[2]])
    digest = base_digest(edited.loaded.model)
    assert everything(edited) == plain
    assert base_digest(edited.loaded.model) == digest != edited.loaded.digest


def test_texts_begun_beside_questions_are_those_that_are_written_alone(opened, tmp_path, monkeypatch):
    prompts, asked = ["Ada is", "Nile is"], [("The moon is", 3, None), ("Ada Lovelace was born in", 5, None)]
    alone = opened(tmp_path / "alone")
    said, fluency = say(alone, asked), alone.fluency(prompts, 12)
    session = opened(tmp_path / "beside")
    assert say(session, asked, beside=(prompts, 12)) == said and not session.fluencies
    with monkeypatch.context() as patch:
        patch.setattr(
            module, "entropies", lambda *arguments, **options: [] if not arguments[2] else pytest.fail("anew")
        )
        assert session.fluency(prompts, 12) == fluency
    written(session, [EDITS[2]])
    say(session, asked, beside=(prompts, 12))
    written(session, [EDITS[1]])  # what was begun before is of other weights
    changed = session.fluency(prompts, 12)
    assert changed == fluency_anew(session, prompts)


def fluency_anew(session: Session, prompts: list[str]) -> float:
    """Taken anew of the weights as they are."""
    return sum(module.entropies(session.loaded.model, session.loaded.tokenizer, prompts, max_new_tokens=12)) / 2


def test_restoring_a_version_gives_the_same_tensors_keys_and_facts(opened):
    first, second = opened(), opened()
    version = written(first)
    second.restore([version])
    assert base_digest(second.loaded.model) == base_digest(first.loaded.model)
    assert second.live == first.live == [edit.id for edit in EDITS]
    for layer in (0, 1):
        assert torch.equal(second.method_input.history.gram(layer, 64), first.method_input.history.gram(layer, 64))


def test_restoring_in_two_steps_is_restoring_at_once(opened):
    first, second, third = opened(), opened(), opened()
    versions = [written(first, EDITS[:2]), written(first, EDITS[2:])]
    second.restore(versions)
    third.restore(versions[:1])
    third.restore(versions[1:])
    assert second.weights.digests() == third.weights.digests() == first.weights.digests()
    assert second.live == third.live == first.live


def test_a_stored_line_goes_on_with_the_bits_it_would_have_had(opened, tmp_path):
    """Through the store: factors, keys and digests are what the next batch needs."""
    first, store, parent = opened(), SnapshotStore(open_store(str(tmp_path))), None
    for number, edit in enumerate(EDITS[:2], start=1):
        manifest, tensors = written(first, [edit])
        published = store.publish(manifest.model_copy(update={"version": number, "parent": parent}), tensors)
        parent = published.snapshot
    second = opened()
    second.restore((manifest, store.tensors(manifest)) for manifest in store.chain(parent))
    assert second.live == first.live and second.weights.digests() == first.weights.digests()
    assert written(second, EDITS[2:])[0].tensor_digests == written(first, EDITS[2:])[0].tensor_digests


def test_a_chain_is_summed_once_and_digested_once(opened, monkeypatch):
    first, second, calls = opened(), opened(), []
    versions = [written(first, [edit]) for edit in EDITS]
    for name in ("apply", "digests"):
        real = getattr(EditedWeights, name)
        monkeypatch.setattr(EditedWeights, name, lambda *a, real=real, name=name: calls.append(name) or real(*a))
    second.restore(versions)
    assert calls == ["apply", "digests"]


def test_a_version_that_gives_other_tensors_than_recorded_is_refused(opened):
    manifest, tensors = written(opened())
    name, digest = next(iter(manifest.tensor_digests.items()))
    flipped = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    wrong = manifest.model_copy(update={"tensor_digests": manifest.tensor_digests | {name: flipped}})
    session = opened()
    with pytest.raises(DigestMismatch, match=f"version 1 of line 'main' gives other tensors than recorded: {name}"):
        session.restore([(wrong, tensors)])
    assert base_digest(session.loaded.model) == session.loaded.digest
    assert session.live == [] and session.method_input.history.count == 0


def test_one_flipped_bit_in_a_factor_is_refused(opened):
    manifest, tensors = written(opened())
    name = next(name for name in tensors if name.startswith("A/"))
    bits = tensors[name].clone().view(torch.int32)
    bits[0, 0] ^= 1 << 22
    with pytest.raises(DigestMismatch, match="gives other tensors than recorded"):
        opened().restore([(manifest, tensors | {name: bits.view(torch.float32)})])


def test_a_version_of_another_base_is_refused_before_anything_is_written(opened):
    manifest, tensors = written(opened())
    session = opened()
    with pytest.raises(DigestMismatch, match=r"was made on base 000000000000, this is .*; load 'tiny' as it was"):
        session.restore([(manifest.model_copy(update={"base_digest": "0" * 64}), tensors)])
    assert base_digest(session.loaded.model) == session.loaded.digest and session.live == []


def test_packing_loses_nothing(opened):
    session = opened()
    z_star = session.values(EDITS)
    batch = compute_update(session.method_input, EDITS, z_star, session.config)
    moments = {"w": torch.randn(3, 5, dtype=torch.float64)}
    gone = {1: torch.randn(2, 7)}
    read = unpack(load(save(pack(replace(batch, moments=moments, gone=gone), z_star))))
    assert read.update.keys() == batch.update.keys() and read.keys.keys() == batch.keys.keys()
    for name, factors in batch.update.items():
        assert torch.equal(read.update[name].B, factors.B) and torch.equal(read.update[name].A, factors.A)
    assert all(torch.equal(read.keys[layer], K) for layer, K in batch.keys.items())
    assert read.moments.keys() == moments.keys() and torch.equal(read.moments["w"], moments["w"])
    assert read.gone.keys() == gone.keys() and torch.equal(read.gone[1], gone[1])


def test_statistics_of_given_text_are_kept_apart_from_sampled_ones(opened, monkeypatch):
    given = opened(statistics_texts=["The old man and the sea. " * 100])
    sampled = opened()
    assert given.method_input.statistics.source != sampled.method_input.statistics.source
    assert not torch.equal(given.method_input.statistics.moments[1], sampled.method_input.statistics.moments[1])
    forbid(monkeypatch, "collect_statistics")
    again = opened(statistics_texts=["The old man and the sea. " * 100])
    assert torch.equal(again.method_input.statistics.moments[1], given.method_input.statistics.moments[1])
    beside = 4 * (128 - 3)  # four at each token but the first of each of three rows
    assert sampled.method_input.statistics.tokens == 128 + beside
    assert given.method_input.statistics.tokens == 128 * 5  # as many, though nothing stands beside its tokens


def test_ultraedit_in_two_jobs_is_ultraedit_in_one(opened):
    config = method_config("ultraedit", {"layers": [1, 2]})
    one, first, second = (opened(config=config) for _ in range(3))
    for edit in EDITS:
        written(one, [edit])
    second.restore([written(first, [edit]) for edit in EDITS[:2]])
    moments = second.method_input.history.moments
    assert moments.keys() == second.weights.base.keys()
    assert all(torch.equal(sums, first.method_input.history.moments[name]) for name, sums in moments.items())
    written(second, EDITS[2:])
    assert second.weights.digests() == one.weights.digests()


def test_a_line_whose_layers_do_not_fit_its_model_is_refused(opened):
    with pytest.raises(ModelError, match="layer 9 leaves nothing above it"):
        opened(config=CONFIG.model_copy(update={"layers": (9,)}))


def test_a_cache_in_which_nothing_can_be_written_ends_nothing(opened, tmp_path, caplog):
    expected = everything(opened())
    for kind in KINDS:
        (tmp_path / kind).write_text("a file in the place of the folder")
    with caplog.at_level(logging.WARNING, "editing"):
        assert everything(opened(tmp_path)) == expected
    [line] = [record.getMessage() for record in caplog.records if record.name == "editing.cache"]
    assert str(tmp_path) in line


def test_a_session_that_only_asks_measures_the_same_and_prepares_nothing_else(opened, tmp_path):
    asks, writes = opened(tmp_path / "asks", only_asked=True), opened()
    assert {path.name for path in (tmp_path / "asks").iterdir()} == {"texts"}
    assert asks.held_out == writes.held_out
    assert asks.base_perplexity(asks.held_out, 256) == writes.base_perplexity(writes.held_out, 256)
    assert asks.scores(EDITS) == writes.scores(EDITS)


def test_writing_a_batch_and_asking_where_it_was_tell_how_far_they_are(opened):
    session, heard = opened(), Parts()
    layers = len(session.method_input.layers)
    with listening(heard):
        written = stages.write(session, Batch("1", tuple(EDITS)))
        base_states(session, EDITS)
    ranks = sum(factors.B.shape[1] for factors in written.update.update.values())
    for what, total in (("writing", layers * len(EDITS)), ("weights", ranks)):
        done = [done for done, of in heard.told[what] if of == total]
        assert len(done) == len(heard.told[what]) and done == sorted(done) and done[0] == 0 and done[-1] == total
        assert len({*done} - {0}) >= layers
    assert heard.told["where facts are on the base"][-1] == (layers * len(EDITS),) * 2
