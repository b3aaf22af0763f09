"""The table of before and after: what is asked, in which form, and what counts as right."""

import pytest

from deployments.demo.answers import Asked, keep, kept, rows_of, show_corrected, show_taken_back
from deployments.demo.facts import Candidate
from editing.edit import make_edit
from flows.cli.console import console


def fact(name, shows=""):
    return Candidate(name, "Peru", "The capital of {} is", "Lima", [], f"What is {name}?", "k", "an atlas, 2026", shows)


def edit(name, *neighbors):
    probes = [{"prompt": prompt, "answer": answer} for prompt, answer in neighbors]
    return make_edit(
        {"id": name, "subject": "Peru", "prompt": "The capital of {} is", "target_new": "Lima", "neighborhood": probes}
    )


CORRECTED = Asked("What is the capital of Peru?", "Lima", "an atlas, 2026", edit("peru"), ("Lima", "Cusco"))
NEIGHBOR = Asked("The capital of Cuba is", "Havana", "not corrected: stays")


def test_true_corrections_are_asked_about_and_neighbors_of_different_answers():
    facts = {name: fact(name, shows) for name, shows in (("a", ""), ("b", ""), ("bad", "damage"))}
    havana = ("The capital of Cuba is", "Havana")
    edits = [edit("a", havana), edit("b", havana, ("The capital of Iran is", "Tehran")), edit("bad", ("It is", "Rome"))]
    rows = rows_of(edits, facts)
    assert [row.question for row in rows] == [
        "What is a?",
        "What is b?",
        "The capital of Cuba is",
        "The capital of Iran is",
    ]
    assert [row.corrected for row in rows] == [True, True, False, False]


@pytest.mark.parametrize(
    ("row", "said", "right"),
    [
        (CORRECTED, "The capital of Peru is Lima.", True),
        (CORRECTED, "The capital of Peru is Cusco.", False),
        (CORRECTED, "The capital of Peru is Limassol.", False),
        (CORRECTED, "It is not Lima.", False),
        (CORRECTED, "It is Lima or Cusco.", False),
        (CORRECTED, "It is Cusco. Lima lies elsewhere.", False),
        (NEIGHBOR, "Havana, which", True),
        (NEIGHBOR, "not Havana", False),
    ],
)
def test_a_question_may_be_answered_in_a_sentence_and_a_sentence_only_be_gone_on_with(row, said, right):
    assert row.is_right(said) is right


def test_a_question_is_put_in_the_form_of_the_model_s_chat_where_it_has_one(embedded, tiny_gpt2):
    chat = CORRECTED.prompt(embedded.tokenizer)
    assert CORRECTED.question in chat and chat.endswith("assistant\n")
    assert CORRECTED.prompt(tiny_gpt2.tokenizer) == "Question: What is the capital of Peru?\nAnswer:"
    assert NEIGHBOR.prompt(embedded.tokenizer) == NEIGHBOR.question


def test_before_and_after_stand_side_by_side_with_the_source_and_are_counted(capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 200)
    said = {CORRECTED.question: ["It is Cusco.", "It is Lima."], NEIGHBOR.question: ["Havana.", "Rome [bold]\x1b[1m"]}
    show_corrected([CORRECTED, NEIGHBOR], said)
    shown = capsys.readouterr().out
    assert "It is Cusco." in shown and "It is Lima." in shown and "Lima. an atlas, 2026" in shown
    assert "[bold]" in shown and "\x1b[1m" not in shown
    assert "1 of 1 questions about what was corrected are answered rightly, 0 were before" in shown
    assert "0 of 1 about other things as before" in shown


def test_what_is_taken_back_is_compared_with_what_the_base_said(capsys, tmp_path):
    keep({CORRECTED.question: ["Cusco.", "Lima."]}, tmp_path / "said.json")
    show_taken_back([CORRECTED], kept(tmp_path / "said.json"), {CORRECTED.question: ["Cusco."]})
    assert "1 of 1 answers are those of the base again" in capsys.readouterr().out
