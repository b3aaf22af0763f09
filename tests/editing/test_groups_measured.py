"""Portability and locality by group, CounterFact's own numbers, facts in context, kinds of answers."""

import math
from statistics import harmonic_mean

import pytest
import torch

from editing.chat import question_about
from editing.edit import Edit, Probe
from editing.measure import counterfact
from editing.measure.answer_kinds import answer_kind
from editing.measure.asking import ask, questions, read, summary
from editing.measure.groups import Locality, Portability
from editing.measure.in_context import stated
from editing.measure.metrics import evaluate
from editing.measure.scoring import Score

HOP = Probe(prompt="Ada's mayor is", wordings=("Who leads?",), answer="Gualtieri", aliases=("G", "RG"), group="2-hop")
SIGN = Probe(prompt="Ada's sign is", answer="SPQR", group="2-hop")
LOOSE = Probe(prompt="Ada eats", answer="pizza")
AGE = Probe(prompt="Ada's age is", answer="36", aliases=("thirty-six",), group="Specificity")
EDIT = Edit(
    id="one",
    subject="Ada",
    prompt="{} lives in",
    target_new="Rome",
    target_true="London",
    paraphrases=("The home of Ada is in",),
    neighborhood=(AGE, Probe(prompt="Bob lives in", answer="Oslo")),
    portability=(HOP, SIGN, LOOSE),
)


@pytest.mark.parametrize(
    "begun",
    [("Ada's mayor is", "Gualtieri"), ("Ada's mayor is", "RG"), ("Who leads?", "Gualtieri"), ("Who leads?", "G")],
)
def test_a_probe_is_answered_by_any_of_its_answers_at_any_of_its_wordings(tiny_llama, begun):
    measure = Portability(tiny_llama.tokenizer)
    edit = EDIT.model_copy(update={"portability": (HOP,)})
    asked = {("Ada's mayor is", a) for a in HOP.answers} | {("Who leads?", a) for a in HOP.answers}
    assert set(measure.pairs(edit)) == asked
    predicted = tuple(tiny_llama.tokenizer(" Gualtieri")["input_ids"])
    scores = {pair: Score(-1.0, pair == begun, predicted) for pair in asked}
    assert measure.read(edit, scores, None) == {"2-hop": {"said": 1.0, "tokens": 1.0, "probes": 1.0}}
    none = {pair: Score(-1.0, False, predicted) for pair in asked}
    assert measure.read(edit, none, None)["2-hop"]["said"] == 0.0


def test_groups_are_measured_on_a_model_as_a_plain_reading_of_its_logits_says(tiny_llama):
    model, tokenizer = tiny_llama.model, tiny_llama.tokenizer
    measures = {"portability": Portability(tokenizer), "locality": Locality()}

    def plain(prompt: str, answer: str) -> tuple[list[int], list[int]]:
        ids, goal = tokenizer(prompt)["input_ids"], tokenizer(" " + answer)["input_ids"]
        best = model(input_ids=torch.tensor([ids + goal])).logits[0].argmax(1).tolist()
        return best[len(ids) - 1 : -1], goal

    def share(one: list[int], other: list[int]) -> float:
        return sum(a == b for a, b in zip(one, other, strict=True)) / len(other)

    asked = questions(model, tokenizer, [EDIT], measures)
    then, old = ask(model, tokenizer, asked), plain("Ada's age is", "36")[0]
    weight = model.get_parameter("model.layers.1.mlp.down_proj.weight")
    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    [found] = read(measures, [EDIT], asked, ask(model, tokenizer, asked), then)
    hop, sign = share(*plain("Ada's mayor is", "Gualtieri")), share(*plain("Ada's sign is", "SPQR"))
    assert found["2-hop"]["tokens"] == pytest.approx((hop + sign) / 2) and found["2-hop"]["probes"] == 2
    assert found["ungrouped"]["tokens"] == pytest.approx(share(*plain("Ada eats", "pizza")))
    assert found["Specificity"]["tokens"] == pytest.approx(share(plain("Ada's age is", "36")[0], old))
    assert "Oslo" not in str(asked)


def test_a_text_counts_that_holds_one_of_the_answers_but_for_single_letters(tiny_llama):
    edit = EDIT.model_copy(update={"portability": (HOP,)})
    for text, holds in ((" known as RG.", 1.0), (" a Great man", 0.0), (" Gualtieri", 1.0)):
        measure = Portability(tiny_llama.tokenizer, {("one", "Ada's mayor is"): "Nobody.", ("one", "Who leads?"): text})
        assert measure.prompts(edit) == ["Ada's mayor is", "Who leads?"]
        predicted = tuple(tiny_llama.tokenizer(" Gualtieri")["input_ids"])
        scores = {pair: Score(-1.0, False, predicted) for pair in measure.pairs(edit)}
        assert measure.read(edit, scores, None)["2-hop"]["written"] == holds


def test_a_group_is_the_mean_over_edits_of_the_mean_over_their_probes():
    found = summary([{"2-hop": {"said": 0.5, "probes": 2.0}}, {"2-hop": {"said": 1.0, "probes": 1.0}}, {}])
    assert found == {"2-hop": {"edits": 2, "said": 0.75, "probes": 1.5}}


def test_in_context_the_fact_stands_before_all_that_is_asked():
    beside = Edit(subject="Rome", prompt="The mayor of {} is", target_new="Gualtieri")
    found = stated(EDIT, [beside])
    said = "The mayor of Rome is Gualtieri. Ada lives in Rome."
    assert found.text == f"{said} Ada lives in" and found.prompt == f"{said} {{}} lives in"
    assert found.paraphrases == (f"{said} The home of Ada is in",)
    assert found.neighborhood[1] == Probe(prompt=f"{said} Bob lives in", answer="Oslo")
    assert found.portability[0].wordings == (f"{said} Who leads?",) and found.portability[0].group == "2-hop"
    assert (found.id, found.target_new, found.subject) == ("one", "Rome", "Ada")
    asks = stated(EDIT.model_copy(update={"question": "Where is {}?"}))
    assert asks.question == "Ada lives in Rome. Where is {}?"
    for edit in (EDIT, EDIT.model_copy(update={"question": "Where is {}?"})):  # but for the fact it is asked as without
        assert question_about(stated(edit)) == f"Ada lives in Rome. {question_about(edit)}"


def test_a_new_answer_with_braces_does_not_become_the_subject_in_context():
    assert stated(EDIT.model_copy(update={"target_new": "{}"})).text == "Ada lives in { }. Ada lives in"


def test_the_score_is_the_harmonic_mean_of_the_three():
    means = {"efficacy_prob": 0.9, "generalization_prob": 0.6, "locality_prob": 0.75}
    assert counterfact.score(means) == pytest.approx(harmonic_mean([0.9, 0.6, 0.75]))
    assert counterfact.score(means | {"efficacy_prob": 0.0}) == 0.0
    assert counterfact.score(means | {"locality_prob": None}) is None


def test_magnitudes_are_differences_of_probabilities(tiny_llama):
    known: dict = {}
    evaluate(tiny_llama.model, tiny_llama.tokenizer, [EDIT], known=known)

    def apart(prompt: str, one: str, other: str) -> float:
        return math.exp(known[prompt, one].mean_logprob) - math.exp(known[prompt, other].mean_logprob)

    found = counterfact.magnitudes(EDIT, known)
    assert found["efficacy"] == pytest.approx(apart("Ada lives in", "Rome", "London"))
    assert found["generalization"] == pytest.approx(apart("The home of Ada is in", "Rome", "London"))
    locality = apart("Ada's age is", "36", "Rome") + apart("Bob lives in", "Oslo", "Rome")
    assert found["locality"] == pytest.approx(locality / 2)
    bare = Edit(subject="Ada", prompt="{} lives in", target_new="Rome")
    assert counterfact.magnitudes(bare, known) == {}


@pytest.mark.slow
def test_consistency_is_the_cosine_that_scikit_learn_finds():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    documents = ["Ada plays the violin, the old violin.", "A violin has four strings!", "Rome is old", "x y z"]
    vectors = text.TfidfVectorizer().fit(documents)
    ours = counterfact.Consistency(documents)
    for one, other in ((documents[0], documents[1]), ("old violins sing of Rome", documents[0]), (documents[2],) * 2):
        a, b = vectors.transform([one, other]).toarray()
        assert ours.of(one, other) == pytest.approx(float(a @ b))
    assert ours.of("nothing known", documents[0]) == 0.0


@pytest.mark.parametrize(
    ("answer", "kind"), [("river", "single"), ("the river", "multi"), ("Rome", "multi"), ("old Xylq", "coined")]
)
def test_answers_are_told_apart_by_their_tokens(tiny_llama, answer, kind):
    pieces = [len(tiny_llama.tokenizer.tokenize(" " + word)) for word in answer.split()]
    assert kind == ("single" if pieces == [1] else "coined" if max(pieces) > 2 else "multi")
    assert answer_kind(tiny_llama.tokenizer, EDIT.model_copy(update={"target_new": answer})) == kind
