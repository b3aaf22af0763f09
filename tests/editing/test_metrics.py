"""Scores against plain loops, metrics against their definitions, and the small trained model that shows them."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from editing.edit import Edit, Probe
from editing.errors import EditingError, InvalidEdit, ModelError
from editing.measure import metrics, scoring
from editing.measure.fluency import fluency, generate, ngram_entropy, weighted_entropy
from editing.measure.metrics import EditScores, evaluate, summarise
from editing.measure.perplexity import perplexity
from editing.measure.scoring import Score, batches, output_logits, score
from editing.models import load_model
from editing.tokens import target_ids
from tests.fact_model import FACT_TEXT, FACTS, fact_edits

PAIRS = [
    ("Ada was born in", "London"),
    ("Ada was born in", "Rome"),
    ("Ada was born in", "a very small town by the sea"),
    ("Ada was born in a very", "small town"),
    ("The moon", "is"),
    ("The moon ", "is"),
    ("x", "ÿ語"),
    ("Ada was born in", "London"),
]
TEXTS = ["The river Nile flows.", "", "The old man said so, and nobody knew why it was so.", "x"]


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def tiny(request):
    """A random model that is sure of itself: its matrices are enlarged, so that tokens differ in probability."""
    loaded = request.getfixturevalue(request.param)
    for parameter in loaded.model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(6)
    return loaded


def plain_logprobs(loaded, ids: list[int]) -> Tensor:
    return loaded.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)


def plain_score(loaded, prompt: str, target: str) -> Score:
    """One pair alone, through the whole model."""
    ids = loaded.tokenizer(prompt)["input_ids"]
    goal = target_ids(loaded.tokenizer, prompt, target)
    rows = plain_logprobs(loaded, ids + goal)[len(ids) - 1 : -1]
    predicted = tuple(rows.argmax(1).tolist())
    mean = sum(row[token].item() for row, token in zip(rows, goal, strict=True)) / len(goal)
    return Score(mean, predicted == tuple(goal), predicted)


@pytest.mark.parametrize("batch_tokens", [1, 40, None])
def test_scores_equal_one_pair_at_a_time(tiny, batch_tokens):
    found = score(tiny.model, tiny.tokenizer, PAIRS, batch_tokens=batch_tokens)
    for pair, one in zip(PAIRS, found, strict=True):
        expected = plain_score(tiny, *pair)
        assert one.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-4)
        assert replace(one, mean_logprob=0.0) == replace(expected, mean_logprob=0.0)


def test_small_chunks_of_logits_change_nothing(tiny, monkeypatch):
    whole = score(tiny.model, tiny.tokenizer, PAIRS), perplexity(tiny.model, tiny.tokenizer, TEXTS)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 2 * tiny.model.config.vocab_size)
    pieces = score(tiny.model, tiny.tokenizer, PAIRS), perplexity(tiny.model, tiny.tokenizer, TEXTS)
    assert [one.predicted for one in pieces[0]] == [one.predicted for one in whole[0]]
    assert [one.mean_logprob for one in pieces[0]] == pytest.approx([one.mean_logprob for one in whole[0]], abs=1e-5)
    assert pieces[1] == pytest.approx(whole[1])


def test_equal_rows_and_beginnings_of_others_are_computed_once(tiny_llama):
    widths: list[int] = []
    handle = tiny_llama.model.base_model.embed_tokens.register_forward_hook(
        lambda module, args, output: widths.append(output.shape[0])
    )
    one_token = ["and", "the"]
    assert all(len(target_ids(tiny_llama.tokenizer, "Ada", word)) == 1 for word in one_token)
    pairs = [(prompt, word) for prompt in ("Ada", "Ada was", "Ada was born", "Ada was") for word in one_token]
    score(tiny_llama.model, tiny_llama.tokenizer, pairs)
    handle.remove()
    assert widths == [1]


@given(st.lists(st.lists(st.just(1), min_size=1, max_size=9).map(tuple)), st.integers(1, 30))
def test_batches_hold_every_row_and_keep_their_size(rows, batch_tokens):
    groups = list(batches(rows, batch_tokens))
    assert sorted(row for group in groups for row in group) == sorted(rows)
    assert all(len(group) == 1 or len(group) * max(map(len, group)) <= batch_tokens for group in groups)


def test_logits_are_capped_where_the_config_says_so(tiny_llama):
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    plain = output_logits(tiny_llama.model, hidden)
    tiny_llama.model.config.final_logit_softcapping = 0.1
    torch.testing.assert_close(output_logits(tiny_llama.model, hidden), 0.1 * torch.tanh(plain / 0.1))


def test_unknown_scaling_of_logits_is_refused(tiny_llama):
    tiny_llama.model.config.logits_scaling = 8.0
    with pytest.raises(ModelError, match="'logits_scaling' of architecture 'llama' is not known"):
        score(tiny_llama.model, tiny_llama.tokenizer, PAIRS)


def test_what_cannot_be_scored_is_named(tiny_llama):
    for pairs, reason in (([("", "x")], "prompt '' has no tokens"), ([("a" * 400, "b")], "takes 401 tokens")):
        with pytest.raises(InvalidEdit, match=reason):
            score(tiny_llama.model, tiny_llama.tokenizer, pairs)
    assert score(tiny_llama.model, tiny_llama.tokenizer, []) == []


EDIT = Edit(
    id="one",
    subject="Ada",
    prompt="{} lives in",
    target_new="Rome",
    target_true="London",
    paraphrases=("The home of Ada is in", "Ada resides in"),
    neighborhood=(Probe(prompt="Bob lives in"), Probe(prompt="Eve lives in", answer="Paris")),
    portability=(Probe(prompt="Ada's mayor is", answer="Gualtieri"),),
)
TABLE = {
    ("Ada lives in", "Rome"): Score(-1.0, True, (7,)),
    ("Ada lives in", "London"): Score(-2.0, False, (7,)),
    ("The home of Ada is in", "Rome"): Score(-1.0, False, (8,)),
    ("The home of Ada is in", "London"): Score(-2.0, False, (8,)),
    ("Ada resides in", "Rome"): Score(-3.0, False, (9,)),
    ("Ada resides in", "London"): Score(-2.0, True, (9,)),
    ("Bob lives in", "Rome"): Score(-1.0, True, (7,)),
    ("Bob lives in", "London"): Score(-2.0, False, (7,)),
    ("Eve lives in", "Rome"): Score(-2.0, False, (5,)),
    ("Eve lives in", "Paris"): Score(-1.0, True, (5,)),
    ("Ada's mayor is", "Gualtieri"): Score(-5.0, False, (4,)),
    ("Ada's mayor is", "London"): Score(-6.0, False, (4,)),
}


@pytest.fixture
def measure(monkeypatch):
    """`evaluate` on a model whose scores are those of TABLE."""
    table = dict(TABLE)
    monkeypatch.setattr(metrics, "score", lambda model, tokenizer, pairs, **options: [table[pair] for pair in pairs])
    return SimpleNamespace(table=table, run=lambda edits, **options: evaluate(None, None, edits, **options))


def test_every_metric_is_what_its_definition_says(measure):
    [found] = measure.run([EDIT])
    efficacy, generalization, locality, portability = (1.0, 1.0), (0.5, 0.0), (0.5, 0.5, None, None), (1.0, 0.0)
    shares = dict(zip(metrics.METRICS, (*efficacy, *generalization, *locality, *portability), strict=True))
    expected = EditScores(
        edit_id="one",
        **shares,
        neighborhood_preferred=(0.0, 1.0),
        neighborhood_said=(0.0, 1.0),
        neighborhood_tokens=((7,), (5,)),
    )
    assert found == expected
    assert EditScores.from_json(found.to_json()) == found


def test_locality_kept_compares_with_the_tokens_of_before(measure):
    before = {one.edit_id: one for one in measure.run([EDIT])}
    assert measure.run([EDIT], before=before)[0].locality_kept == 1.0
    measure.table["Eve lives in", "Paris"] = Score(-1.0, False, (6,))
    assert measure.run([EDIT], before=before)[0].locality_kept == 0.5
    assert measure.run([EDIT], before=before, max_neighborhood=1)[0].locality_kept == 1.0
    assert measure.run([EDIT], before={})[0].locality_kept is None


def test_tokens_kept_are_counted_one_by_one_within_an_answer(measure):
    measure.table["Eve lives in", "Paris"] = Score(-1.0, False, (5, 8, 9, 4))
    before = {one.edit_id: one for one in measure.run([EDIT])}
    measure.table["Eve lives in", "Paris"] = Score(-1.0, False, (5, 8, 9, 6))
    [found] = measure.run([EDIT], before=before)
    assert (found.locality_kept, found.locality_kept_tokens) == (0.5, 0.875)


def test_without_a_true_target_only_the_argmax_can_tell(measure):
    [found] = measure.run([Edit(id="bare", subject="Ada", prompt="{} lives in", target_new="Rome")])
    assert found == EditScores(edit_id="bare", efficacy_prob=1.0, efficacy_argmax=1.0)


def test_a_probe_without_any_answer_is_kept_if_the_next_token_is(measure):
    edit = EDIT.model_copy(update={"target_true": None, "neighborhood": EDIT.neighborhood[:1], "portability": ()})
    [before] = measure.run([edit])
    assert before.neighborhood_tokens == ((7,),) and before.locality_prob is None and before.locality_argmax is None
    assert measure.run([edit], before={"one": before})[0].locality_kept == 1.0


def test_a_summary_averages_over_the_edits_that_have_a_metric():
    scores = [EditScores("a", efficacy_prob=1.0), EditScores("b", efficacy_prob=0.0, locality_kept=0.25)]
    assert summarise(scores) == {"efficacy_prob": 0.5, "locality_kept": 0.25}


def test_entropy_of_known_texts():
    assert ngram_entropy(list("abcde"), 2) == 2.0
    assert ngram_entropy(list("aaaaa"), 2) == 0.0
    assert ngram_entropy(["a"], 2) == 0.0
    # bigrams ab ba ab ba: 1 bit; trigrams aba bab aba: log2(3) - 2/3 bits
    assert weighted_entropy("a b a b a") == pytest.approx((1 + 2 * (math.log2(3) - 2 / 3)) / 3)


PROMPTS = ["Ada Lovelace was born in", "The", "The river Nile flows through a", "The"]


def test_greedy_text_equals_that_of_transformers(tiny):
    for prompt, written in zip(PROMPTS, generate(tiny.model, tiny.tokenizer, PROMPTS, 12), strict=True):
        ids = tiny.tokenizer(prompt, return_tensors="pt")
        whole = tiny.model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
        assert written == tiny.tokenizer.decode(whole[ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_sampled_text_depends_on_seed_and_prompt_alone(tiny):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    together = generate(tiny.model, tiny.tokenizer, PROMPTS, 12, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    alone = [generate(tiny.model, tiny.tokenizer, [prompt], 12, seed=3)[0] for prompt in PROMPTS[:3]]
    assert together[:3] == alone
    assert together[3] != together[1]
    assert generate(tiny.model, tiny.tokenizer, PROMPTS, 12, seed=4) != together


def test_a_row_ends_at_the_end_token_and_the_others_go_on(tiny_llama):
    logprobs = plain_logprobs(tiny_llama, tiny_llama.tokenizer(PROMPTS[0])["input_ids"])
    tiny_llama.model.generation_config.eos_token_id = [int(logprobs[-1].argmax())]
    ended, other = generate(tiny_llama.model, tiny_llama.tokenizer, PROMPTS[:2], 6)
    assert ended == "" and other != ""


def test_text_stops_where_the_model_can_read_no_further(tiny_llama):
    prompt = "x" * 250
    assert len(tiny_llama.tokenizer(prompt)["input_ids"]) == 250
    [written] = generate(tiny_llama.model, tiny_llama.tokenizer, [prompt], 50, seed=0)
    assert 0 < len(tiny_llama.tokenizer(written)["input_ids"]) <= 6 * 3
    with pytest.raises(InvalidEdit, match="takes 300 tokens"):
        generate(tiny_llama.model, tiny_llama.tokenizer, ["x" * 300], 5)


def test_fluency_falls_when_the_model_repeats_itself(tiny_llama):
    rich = fluency(tiny_llama.model, tiny_llama.tokenizer, ["one two three"] * 3, top_k=50)
    assert fluency(tiny_llama.model, tiny_llama.tokenizer, ["one two three"] * 3, top_k=50) == rich
    assert rich > weighted_entropy("so so so so so so so") == 0.0
    with pytest.raises(EditingError, match="at least one prompt"):
        fluency(tiny_llama.model, tiny_llama.tokenizer, [])


@pytest.mark.parametrize("window", [8, 512])
def test_perplexity_equals_a_plain_loop(tiny, window):
    ids = [token for text in TEXTS if text for token in tiny.tokenizer(text + "\n")["input_ids"]]
    losses = []
    for start in range(0, len(ids), window):
        row = ids[start : start + window]
        losses += [-logprobs[token] for logprobs, token in zip(plain_logprobs(tiny, row), row[1:], strict=False)]
    expected = torch.stack(losses).mean().exp().item()
    assert perplexity(tiny.model, tiny.tokenizer, TEXTS, window=window) == pytest.approx(expected, rel=1e-5)
    assert perplexity(tiny.model, tiny.tokenizer, TEXTS, window=window, batch_tokens=1) == pytest.approx(expected)


def test_perplexity_of_a_ruined_model_is_infinite(tiny_llama):
    tiny_llama.model.get_parameter("model.layers.1.mlp.down_proj.weight").fill_(math.nan)
    assert perplexity(tiny_llama.model, tiny_llama.tokenizer, TEXTS) == math.inf


def test_perplexity_stops_at_max_tokens_and_refuses_nothing(tiny_llama):
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    assert perplexity(model, tokenizer, ["ab cd " * 9], max_tokens=6) == perplexity(
        model, tokenizer, ["ab cd ab cd"], max_tokens=6
    )
    with pytest.raises(EditingError, match="too few for a perplexity"):
        perplexity(model, tokenizer, ["", " "])


@pytest.fixture(scope="module")
def knower(fact_model_path):
    return load_model(str(fact_model_path), cache=fact_model_path.parent)


def test_the_fact_model_recalls_its_facts(knower):
    for templates in (slice(0, 1), slice(1, 3)):
        pairs = [(prompt, fact.answer) for fact in FACTS for prompt in fact.prompts()[templates]]
        assert sum(one.argmax for one in score(knower.model, knower.tokenizer, pairs)) >= 0.95 * len(pairs)


def test_before_editing_no_edit_holds_and_every_neighbor_answers_rightly(knower):
    edits = fact_edits(40, seed=1)
    means = summarise(evaluate(knower.model, knower.tokenizer, edits))
    assert means["efficacy_prob"] <= 0.05 and means["generalization_prob"] <= 0.05
    assert means["locality_prob"] >= 0.95 and means["locality_argmax"] >= 0.95


def test_the_fact_model_knows_general_text_from_noise(knower):
    noise = [" ".join(reversed(text.split())) for text in FACT_TEXT]
    assert perplexity(knower.model, knower.tokenizer, FACT_TEXT, window=128) < 10
    assert perplexity(knower.model, knower.tokenizer, noise, window=128) > 30
