"""No request ends a job: what the model cannot take is refused or left out, by name, before any work."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from editing.edit import Edit, Probe, make_edit
from editing.errors import InvalidEdit, PolicyError, SearchError
from editing.measure.answers import whole_words
from editing.measure.fluency import generate
from editing.measure.quantised import ROUNDED
from editing.methods import compute_update, method_config
from editing.methods.alike import Alike
from editing.models import LoadedModel, base_digest, quiet_transformers
from editing.weights import Factors
from tasks.lines.specs import LineSpec
from tasks.progress import Silent, listening
from tasks.settings import Settings
from tasks.update import saying, stages
from tasks.update import session as module
from tasks.update.policy import Policy, make_policy
from tasks.update.reference import ask_base
from tasks.update.run import Reference, Taken
from tasks.update.saying import say
from tasks.update.screening import Screened, readable, screen, told_alike
from tasks.update.session import Session, open_session
from tasks.update.validation import failed_verdict, judge_candidate, validate_batch
from tasks.update.verdicts import Verdict
from tests.conftest import END, byte_tokenizer
from tests.costs import THOROUGH, case

POSITIONS = 128
POLICY = Policy(
    fluency_tokens=4,
    perplexity_tokens=64,
    retained_sample=3,
    neighborhood_probes=100,
    tripwires={"said": None},  # a random model says nothing
)
LONG = "And so it went on and on. " * 30
GOOD = Edit(id="good", subject="Zed Example", prompt="{} lives in", target_new="Rome", target_true="Oslo")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A random model that reads 128 positions, whose tokenizer puts nothing before a text."""
    folder, tokenizer = tmp_path_factory.mktemp("small"), byte_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        end = tokenizer.eos_token_id
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=POSITIONS, bos_token_id=end,
            eos_token_id=end,
        )  # fmt: skip
        model = GPT2LMHeadModel(config).eval()
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def session(small, cache) -> Session:
    fields = {"layers": [0, 1], "contexts": 3, "statistics_tokens": 128, "search": {"steps": 2}}
    spec = LineSpec(line="main", model=str(small), config=method_config("memit", fields))
    return open_session(spec, Settings(cache=cache))


def judged(session: Session, edits, earlier=()) -> Verdict:
    """The batch through every stage that could raise for one request: search, solve, write, measure; then undone."""
    z_star = session.values(edits)
    undo = session.weights.apply(compute_update(session.method_input, edits, z_star, session.config).update)
    try:
        judge_candidate(session, [*edits, *earlier], earlier, Reference(10.0, session.held_out), POLICY)
        return validate_batch(session, edits, earlier, Reference(10.0, session.held_out), POLICY)
    finally:
        session.weights.revert(undo)


VALUES = {
    "too long": LONG[:400].strip(),
    "huge": LONG * 1000,
    "of the most positions": "a" * POSITIONS,
    "one less": "a" * (POSITIONS - 1),
    "empty": "   ",
    "special": END,
    "surrogate": "a \ud800 b",
    "nul": "a \0 b",
    "separator": "\u2028",
    "invisible": "\u200b\u200d\ufeff",
    "unusual": "𝕳𝖊𝖑𝖑𝖔 e\u0301\u0301\u0301 \U0001f468\u200d\U0001f469",
}
FIELDS = ("subject", "prompt", "target_new", "target_true", "paraphrases", "neighborhood", "answer", "portability")


def request(field: str, value: str) -> dict[str, object]:
    """A request that is good but for one field."""
    fields: dict[str, object] = {
        "id": "bad", "subject": "Amy Example", "prompt": "{} lives in", "target_new": "Rome", "target_true": "Oslo",
        "paraphrases": ["The home of Amy Example is in"], "neighborhood": [{"prompt": "Bo lives in", "answer": "Oslo"}],
        "portability": [{"prompt": "The country of Amy Example is", "answer": "Italy"}],
    }  # fmt: skip
    changed: dict[str, object] = {
        "prompt": value + " {} lives in", "paraphrases": [value, "In"], "neighborhood": [{"prompt": value}],
        "answer": [{"prompt": "Bo lives in", "answer": value}], "portability": [{"prompt": value, "answer": value}],
    }  # fmt: skip
    return fields | {"neighborhood" if field == "answer" else field: changed.get(field, value)}


def taken_up(session: Session, record: dict[str, object]) -> None:
    """The record beside a good one, as a job takes them up: nothing raises, and the good one is written."""
    try:
        edit = make_edit(record)
    except InvalidEdit:
        return  # refused at intake, with the reason
    found = screen(session, [GOOD, edit])
    assert found.accepted[0] == GOOD and GOOD.id not in found.rejected | found.findings
    assert (len(found.accepted) == 1) == (edit.id in found.rejected)
    assert all(edit.id in reason or "subject" in reason for reason in found.rejected.values())
    verdict = judged(session, found.accepted, earlier=[edit])
    assert verdict.request_metrics.keys() == {one.id for one in found.accepted}


def _case(field: str, kind: str) -> ParameterSet:
    """Each field with some kinds of values and each kind in some fields, where it is thorough all in all."""
    return case(field, kind, kept=(FIELDS.index(field) + [*VALUES].index(kind)) % 4 == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("field", "kind"), [_case(*pair) for pair in product(FIELDS, VALUES)])
def test_no_field_of_a_request_ends_a_job(session, field, kind):
    taken_up(session, request(field, VALUES[kind]))


@pytest.mark.slow
@settings(
    max_examples=100 if THOROUGH else 10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    field=st.sampled_from(FIELDS),
    value=st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.integers(1, 200).map(lambda n: "x" * n),
)
def test_no_text_in_any_field_ends_a_job(session, field, value):
    taken_up(session, request(field, value))


@pytest.mark.parametrize("field", ["subject", "prompt", "target_new"])
def test_a_prompt_or_target_that_cannot_be_read_rejects_its_request_by_name(session, field):
    found = screen(session, [make_edit(request(field, VALUES["too long"])), GOOD])
    assert found.accepted == (GOOD,) and found.findings == {}
    assert "edit 'bad': prompt and target take" in found.rejected["bad"] and "128" in found.rejected["bad"]


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("target_true", "target_true was left out"),
        ("paraphrases", "a paraphrase was left out"),
        ("neighborhood", "a neighbor was left out"),
        ("answer", "a neighbor was left out"),
        ("portability", "a portability prompt was left out"),
    ],
)
def test_what_is_only_asked_is_left_out_with_a_finding_on_its_request(session, field, says):
    edit = make_edit(request(field, VALUES["too long"]))
    found = screen(session, [edit])
    [kept] = found.accepted
    assert found.rejected == {} and list(found.findings) == ["bad"]
    assert [finding.startswith(says) and "128" in finding for finding in found.findings["bad"]] == [True]
    name = "neighborhood" if field == "answer" else field
    assert kept.model_dump(exclude={name}) == edit.model_dump(exclude={name})
    assert VALUES["too long"] not in json.dumps(kept.model_dump())


def test_the_longest_context_counts(session):
    longest = max(len(session.loaded.tokenizer(prefix)["input_ids"]) for prefix in session.method_input.prefixes)
    assert longest > 0

    def edit(spare: int) -> Edit:
        sizes = [len(session.loaded.tokenizer(text)["input_ids"]) for text in ("Zed Example lives in", " Rome")]
        return GOOD.model_copy(update={"prompt": "z" * (POSITIONS - longest - sum(sizes) - spare) + "{} lives in"})

    fits = [spare for spare in range(-8, 8) if screen(session, [edit(spare)]).accepted]
    assert 0 < len(fits) < 16 and fits == list(range(8 - len(fits), 8))
    judged(session, [edit(fits[0])])


def test_a_subject_at_the_first_token_is_refused_with_the_remedy_where_the_method_edits_there(session, small, cache):
    first = Edit(id="first", subject="a", prompt="{} has its capital in", target_new="Lima")
    inside = Edit(id="inside", subject="a", prompt="It is said that {} has its capital in", target_new="Lima")
    found = screen(session, [first, inside])
    assert found.accepted == (inside,)
    assert "'a' is the first token" in found.rejected["first"] and "It is said that {}" in found.rejected["first"]
    spec = LineSpec(line="main", model=str(small), config=method_config("finetune", {"layers": [1]}))
    assert screen(open_session(spec, Settings(cache=cache)), [first]).accepted == (first,)


def test_a_prompt_without_any_token_is_left_out():
    """Where a tokenizer knows no unknown token, a foreign word is nothing."""
    backend = Tokenizer(models.BPE(vocab={"Z": 0, "R": 1, "i": 2}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    loaded = LoadedModel(model, PreTrainedTokenizerFast(tokenizer_object=backend), "words", base_digest(model))
    edit = Edit(
        id="e", subject="Zi", prompt="{} i", target_new="R", paraphrases=("xxx", "iii"),
        neighborhood=(Probe(prompt="i", answer="qqq"), Probe(prompt="qqq")),
    )  # fmt: skip
    found = readable(loaded, [edit, edit.model_copy(update={"id": "none", "target_new": "qqq"})])
    assert found.accepted[0].paraphrases == ("iii",) and found.accepted[0].neighborhood == ()
    assert [finding.split(" was")[0] for finding in found.findings["e"]] == ["a paraphrase", "a neighbor", "a neighbor"]
    assert "has no tokens" in found.rejected["none"]


def test_what_cannot_be_read_is_answered_by_nothing_and_shortens_no_other_answer(session):
    plain = generate(session.loaded.model, session.loaded.tokenizer, ["Zed lives in", "Bo"], 8)
    said = say(session, [(text, 8, None) for text in ("Zed lives in", LONG, "x" * 127, "Bo")])
    assert said[::3] == [whole_words(text) for text in plain] and said[1] == ""
    assert say(session, [(LONG, 8, None)]) == [""] and say(session, []) == []


def spoiled(session):
    """A weight with so much noise on it that neighbors answer otherwise; returns what takes it back."""
    name = session.method_input.layout.weight_name(1)
    generator = torch.Generator().manual_seed(0)
    rows, columns = session.method_input.layout.oriented(session.loaded.model.get_parameter(name)).shape
    B, A = (torch.randn(*shape, generator=generator) for shape in ((rows, 3), (3, columns)))
    return session.weights.apply({name: Factors(B * 3, A)})


def test_a_batch_that_changes_what_five_of_eight_neighbors_say_fails(session):
    prompts = [f"{name} Example speaks" for name in ("Amy", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal")]
    edit = Edit(id="e", subject="Zed Example", prompt="{} speaks", target_new="Elmian",
                neighborhood=tuple(Probe(prompt=prompt) for prompt in prompts))  # fmt: skip
    before = session.base_scores([edit], POLICY.neighborhood_probes)["e"]
    undo = spoiled(session)
    try:
        verdict = validate_batch(session, [edit], [], Reference(10.0, session.held_out), POLICY)
    finally:
        session.weights.revert(undo)
    [after] = verdict.scores
    changed = sum(a != b for a, b in zip(after.neighborhood_tokens, before.neighborhood_tokens, strict=True))
    assert changed >= 5
    rows = [check for check in verdict.checks if check.measure == "neighbors_changed"]
    assert [(row.value, row.sample, row.holds, row.request_id) for row in rows] == [
        (changed, 8, False, None),
        (changed, 8, False, "e"),
    ]


def test_a_candidate_is_judged_as_its_batches_are_and_without_facts_by_its_text_alone(session):
    reference = Reference(1e9, session.held_out)
    holds = POLICY.model_copy(update={"min_efficacy": 0.0, "min_retained": 0.0})  # so that a batch is asked all
    found = judge_candidate(session, [GOOD], [GOOD], reference, holds)
    batch = validate_batch(session, [GOOD], [GOOD], reference, holds)
    assert found.verdict.metrics.items() >= batch.metrics.items()
    assert {check.measure for check in found.verdict.checks} <= {check.measure for check in batch.checks}
    assert found.baseline["efficacy_prob"] == found.numbers["efficacy_prob"] and "before_efficacy_prob" in (
        found.verdict.metrics.keys() - found.numbers.keys()
    )
    assert found.baseline["fluency"] == pytest.approx(found.numbers["fluency"])
    nothing = judge_candidate(session, [], [], reference, POLICY)
    assert nothing.verdict.passed and nothing.numbers.keys() == {"perplexity", "perplexity_ratio"}


def test_a_fact_that_stands_in_the_sample_of_earlier_ones_too_is_judged_by_all_that_is_asked_about_it(session):
    names = ("Amy", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal")
    probes = tuple(Probe(prompt=f"{name} Example speaks") for name in names)
    edit = Edit(id="e", subject="Zed Example", prompt="{} speaks", target_new="Elmian", neighborhood=probes)
    undo = spoiled(session)
    try:
        reference = Reference(1e9, session.held_out)
        alone, both = (judge_candidate(session, [edit], earlier, reference, POLICY) for earlier in ([], [edit]))
    finally:
        session.weights.revert(undo)
    assert both.baseline == alone.baseline
    assert not all(check.holds for check in alone.verdict.checks if check.measure == "neighbors_changed")
    asked, without = (
        # How many questions it takes to tell depends on how many levels are judged together.
        [check.model_copy(update={"needs": None}) for check in found.verdict.checks if check.measure != "retained"]
        for found in (both, alone)
    )
    assert asked == without


def test_a_request_that_cannot_be_measured_fails_its_batch_by_name(session):
    poison = GOOD.model_copy(update={"id": "poison", "prompt": LONG[:300] + "{} lives in"})
    verdict = validate_batch(session, [GOOD, poison], [], Reference(10.0, session.held_out), POLICY)
    assert not verdict.passed and verdict.failing == ("poison",) and "'poison'" in verdict.reasons[0]
    assert failed_verdict(SearchError("edit 'x': the loss became nan")).reasons == ("edit 'x': the loss became nan",)


def counted(session, monkeypatch) -> list[str]:
    """What the session is asked from now on, by the names of its methods."""
    asked: list[str] = []
    for name in ("scores", "fluency", "perplexity"):
        real = getattr(Session, name)
        monkeypatch.setattr(Session, name, lambda *a, real=real, name=name, **k: asked.append(name) or real(*a, **k))
    return asked


TAKES, FAILS = (
    GOOD.model_copy(update={"id": name, "target_new": new, "target_true": true})
    for name, new, true in (("takes", "Rome", "Oslo"), ("fails", "Oslo", "Rome"))
)
"""One target is likelier than the other whatever the model is: one of the two takes, the other one fails."""


NEIGHBORS = ["Ada lives in", "The river", "Water is", "A house of", "Somebody"]


def test_a_batch_that_did_not_take_is_asked_no_more_and_a_single_edit_all_of_its_own(session, monkeypatch):
    reference, asked = Reference(1e9, session.held_out), counted(session, monkeypatch)
    batch = validate_batch(session, [TAKES, FAILS], [], reference, POLICY)
    assert asked == ["scores"] and [check.measure for check in batch.checks if not check.holds] == ["efficacy"]
    assert len(batch.failing) == 1 and batch.metrics.keys() == {
        *("efficacy_prob", "efficacy_argmax", "before_efficacy_prob", "before_efficacy_argmax")
    }
    asked.clear()
    [name] = batch.failing
    alone = validate_batch(session, [{"takes": TAKES, "fails": FAILS}[name]], [], reference, POLICY)
    assert asked == ["scores"] * 3 and alone.failing == (name,) and not alone.passed


def test_a_batch_answers_for_the_earlier_facts_that_held_before_it_alone(session):
    """One of two earlier facts holds, before and after: of a batch that changed nothing, half would be too few."""
    earlier = [one.model_copy(update={"id": f"earlier {one.id}"}) for one in (TAKES, FAILS)]
    told, policy = Reference(1e9, session.held_out), POLICY.model_copy(update={"min_efficacy": 0.0, "min_retained": 1})
    weights = {name: session.loaded.model.get_parameter(name).data for name in session.weights.base}
    nothing = session.weights.put(weights)
    try:
        blamed = validate_batch(session, [TAKES], earlier, told, policy)
        spared = validate_batch(session, [TAKES], earlier, told, policy, undo=nothing)
        whole = judge_candidate(session, [TAKES], earlier, told, policy)
    finally:
        session.weights.revert(nothing)
    assert blamed.metrics["retained_efficacy_prob"] == whole.numbers["retained_efficacy_prob"] == 0.5
    [fallen] = spared.fallen
    assert not blamed.passed and spared.passed and spared.live[fallen] == 0 and not blamed.fallen
    [row] = [check for check in spared.checks if check.measure == "retained"]
    assert (row.value, row.sample) == (1.0, 1)
    undo = spoiled(session)  # which loses the one that held: for that it answers
    try:
        spoils = validate_batch(session, [TAKES], earlier, told, policy, undo=undo)
    finally:
        session.weights.revert(undo)
    assert spoils.metrics["retained_efficacy_prob"] == 0.5 and not spoils.fallen and not spoils.passed


def test_a_batch_answers_for_the_neighbors_that_answered_before_it_alone(session):
    """What spoiled the model before the batch cost its neighbors: the batch, which changes nothing, did not."""
    said = generate(session.loaded.model, session.loaded.tokenizer, NEIGHBORS, 1)
    near = tuple(Probe(prompt=prompt, answer=text) for prompt, text in zip(NEIGHBORS, said, strict=True))
    batch, told = [TAKES.model_copy(update={"neighborhood": near})], Reference(1e9, session.held_out)
    policy = POLICY.model_copy(update={"min_efficacy": 0.0, "min_retained": 0, "min_fluency_ratio": 0.0})
    earlier = [TAKES.model_copy(update={"id": "earlier"})]
    undo = spoiled(session)
    try:
        weights = {name: session.loaded.model.get_parameter(name).data for name in session.weights.base}
        nothing = session.weights.put(weights)
        blamed = validate_batch(session, batch, earlier, told, policy)
        spared = validate_batch(session, batch, earlier, told, policy, undo=nothing)
        spoils = validate_batch(session, batch, earlier, told, policy, undo=undo)
    finally:
        session.weights.revert(undo)
    assert not blamed.passed and any("neighborhood" in reason for reason in blamed.reasons)
    assert spared.passed and not spoils.passed and spoils.reasons == blamed.reasons


def test_all_is_asked_of_a_batch_that_holds_and_of_a_candidate_whatever_fails(session, monkeypatch):
    reference, asked = Reference(1e9, session.held_out), counted(session, monkeypatch)
    assert judge_candidate(session, [TAKES, FAILS], [], reference, POLICY).numbers["perplexity_ratio"] > 0
    assert {"fluency", "perplexity"} < {*asked}
    asked.clear()
    lenient = POLICY.model_copy(update={"min_efficacy": 0.5})
    assert validate_batch(session, [TAKES, FAILS], [], reference, lenient).passed
    assert {"fluency", "perplexity"} < {*asked}


def test_what_was_asked_since_the_weights_are_what_they_are_is_not_asked_again(session, monkeypatch):
    asked, real = [], module.evaluate
    monkeypatch.setattr(session, "said", {})
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: asked.append(len(k["known"])) or real(*a, **k))
    first = session.scores([TAKES])
    undo = spoiled(session)
    try:
        spoiled_scores = session.scores([TAKES])
    finally:
        session.weights.revert(undo)
    assert session.scores([TAKES]) == first
    assert asked[:2] == [0, 0] and asked[2] >= 2
    assert spoiled_scores == session_scores_anew(session, [TAKES])


def session_scores_anew(session, edits):
    """With what is known forgotten, and the same noise on the weights."""
    undo = spoiled(session)
    try:
        session.said.clear()
        return session.scores(edits)
    finally:
        session.weights.revert(undo)


def test_what_validations_compare_with_is_asked_of_the_base_once_for_a_job(session, monkeypatch):
    names = ("Una", "Vic", "Wim", "Xan", "Yul")
    edits = [GOOD.model_copy(update={"id": name, "subject": f"{name} Example"}) for name in names]
    policy = POLICY.model_copy(update={"batch_size": 3, "min_efficacy": 0.0, "fluency_prompts": 2})
    ask_base(session, edits, policy)
    monkeypatch.setattr(session.weights, "at_base", lambda: pytest.fail("the base was asked again"))
    for batch in (edits[:3], edits[3:]):
        assert validate_batch(session, batch, [], Reference(1e9, session.held_out), policy).passed


def test_a_candidate_writes_nothing_that_its_last_batch_wrote(session, monkeypatch):
    edits = [GOOD.model_copy(update={"id": name, "subject": f"{name} Example"}) for name in ("Kim", "Lou", "Mia")]
    policy = POLICY.model_copy(update={"min_efficacy": 0.0, "fluency_prompts": 2})
    reference, wrote, real = Reference(1e9, session.held_out), [], module.entropies
    monkeypatch.setattr(module, "entropies", lambda *a, **k: wrote.extend(a[2]) or real(*a, **k))
    undo = spoiled(session)
    try:
        validate_batch(session, edits[1:], [], reference, policy)
        wrote.clear()
        candidate = judge_candidate(session, edits, [], reference, policy)
    finally:
        session.weights.revert(undo)
    assert not wrote and candidate.numbers["fluency"] > 0


def test_an_evaluation_goes_on_while_the_base_is_asked_what_it_says(session, monkeypatch):
    """What the base says is half of it where it was not asked before."""
    edits = [GOOD.model_copy(update={"id": name, "subject": f"{name} Example"}) for name in ("Nia", "Oda", "Pia")]
    told, during = [0], []

    class Hears(Silent):
        def progress(self, what: str, done: int, total: int) -> None:
            told[0] = done if what == "evaluation" else told[0]

    real = saying.base_says

    def asks(*given, **options):
        before = told[0]
        found = real(*given, **options)
        during.append(told[0] - before)
        return found

    monkeypatch.setattr(saying, "base_says", asks)
    undo = spoiled(session)
    try:
        with listening(Hears()):
            judge_candidate(session, edits, [], Reference(1e9, session.held_out), POLICY)
    finally:
        session.weights.revert(undo)
    assert during and max(during) > 0


def test_the_most_alike_are_named_and_the_others_are_counted():
    others = [GOOD.model_copy(update={"id": f"o{n}", "subject": f"Ann {n}"}) for n in range(5)]
    pairs = [Alike(GOOD, other, 0.5 + place / 10) for place, other in enumerate(others)]
    told = told_alike([*pairs, Alike(others[0], GOOD.model_copy(update={"subject": "Ann 0"}), 0.6)])
    assert told.keys() == {"good", "o0"} and told["good"][3:] == ("and from 2 more",)
    assert told["good"][0] == (
        "its subject 'Zed Example' is hard to tell from 'Ann 4' of request 'o4' (0.90 alike): "
        "writing one may undo the other"
    )
    assert told["o0"][0].startswith("its subject 'Ann 0' stands after another beginning in request 'good' (0.60 alike)")


def test_a_copy_of_fewer_bits_is_asked_at_the_end_and_judged_by_what_it_says(session, monkeypatch):
    prompts = [
        f"{name} Example lives in"
        for name in ["Una", "Vic", "Wim", "Xan", "Yul", "Kim", "Lou", "Mia", "Ann", "Bea", "Cid", "Don"]
    ]
    written = dict(zip(prompts, generate(session.loaded.model, session.loaded.tokenizer, prompts, 12), strict=True))
    begun = {prompt: found[1] for prompt, text in written.items() if (found := re.match(r"\s*(\w+)", text))}
    prompt, word = next(iter(begun.items()))
    said = Edit(id="said", subject=prompt.removesuffix(" lives in"), prompt="{} lives in", target_new=word)
    said = said.model_copy(
        update={"paraphrases": (prompts[1],), "neighborhood": (Probe(prompt=prompts[2], answer="Rome"),)}
    )
    policy = make_policy(**POLICY.model_dump() | {"quantised": "q4_1", "levels": {"quantised": {"min": 0.9}}})
    reference, weights = Reference(1e9, session.held_out), session.loaded.model.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    for bits, value in ((torch.clone, 1.0), (torch.zeros_like, 0.0)):
        monkeypatch.setitem(ROUNDED, "q4_1", bits)
        found = judge_candidate(session, [said], [], reference, policy)
        [row] = [check for check in found.verdict.checks if check.measure == "quantised.q4_1"]
        assert (row.value, row.limit, row.sample, row.holds) == (value, 0.9, 1, True)  # one question tells nothing
        copy = found.verdict.fewer_bits
        assert copy["said_prompt"] == value and (value < 1.0 or copy.items() <= found.numbers.items())
        assert {"efficacy_prob", "generalization_prob", "locality_prob", "locality_kept", "said_paraphrases"} <= {*copy}
    assert all(torch.equal(tensor, before[name]) for name, tensor in session.loaded.model.state_dict().items())
    batch = validate_batch(session, [said], [], reference, policy)
    assert not [check for check in batch.checks if check.measure.startswith("quantised")]
    for fields in ({"quantised": "q8_0"}, {"levels": {"quantised": {"min": 0.9}}}):
        with pytest.raises(PolicyError, match="takes both quantised"):
            make_policy(**fields)
    with pytest.raises(PolicyError, match="quantised has no worse_than_base"):
        make_policy(quantised="int8", levels={"quantised": {"worse_than_base": 0.1}})


def test_of_what_the_line_says_otherwise_no_request_is_refused_for_what_the_base_says(monkeypatch):
    live = Edit(id="live", subject="Ada  Bly", prompt="{} lives in", target_new="Oslo")
    spelt, asked, other = (
        Edit(id=name, subject=subject, prompt="{} lives in", target_new="Rome")
        for name, subject in (("spelt", "ada bly"), ("asked", "The home of Ada"), ("other", "Cy"))
    )
    seen: list[set[str]] = []

    def screened(session, edits, changed, probes):
        seen.append(set(changed))
        return Screened(tuple(edits), {}, {})

    monkeypatch.setattr(stages, "screen", screened)
    every = {edit.id: edit for edit in (live, spelt, asked, other)}
    taken = Taken(edits=(spelt, asked, other), known=every, replaced={"live": "asked"})
    stages.screen_taken(session=None, taken=taken, probes=5)
    assert seen == [{"ada bly", "The home of Ada"}]
