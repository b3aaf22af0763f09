"""Every probe against a plain second derivation: its prompts written out, each asked alone through the whole model."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from editing.chat import ChatTemplate
from editing.edit import Edit
from editing.errors import EditingError, UsageError
from editing.measure.asking import ask, questions, read, summary
from editing.measure.beginnings import beginnings, text_beginnings
from editing.measure.fluency import generate
from editing.measure.probes import PROBES, SENTENCE_TOKENS, Material, Prefix, make_probes, named_probes
from editing.measure.scoring import Score
from editing.models import LoadedModel
from tests.conftest import SENTENCES

EDIT = Edit(id="one", subject="Ada", prompt="{} lives in", target_new="Rome", target_true="London", aliases=("Roma",))
ASKS = Edit(id="two", subject="the Nile", prompt="Where does {} end?", target_new="Rome", target_true="Cairo")
TEXTS = [*SENTENCES * 8]


@dataclass
class Plain:
    """The whole model, asked one pair at a time."""

    loaded: LoadedModel

    def rows(self, prompt: str, target: str) -> tuple[torch.Tensor, list[int]]:
        ids = self.loaded.tokenizer(prompt)["input_ids"]
        goal = self.loaded.tokenizer(target if prompt[-1].isspace() or target[0] == " " else " " + target)["input_ids"]
        logits = self.loaded.model(input_ids=torch.tensor([ids + goal])).logits[0].double().log_softmax(-1)
        return logits[len(ids) - 1 : -1], goal

    def logp(self, prompt: str, target: str) -> float:
        rows, goal = self.rows(prompt, target)
        return sum(row[token].item() for row, token in zip(rows, goal, strict=True)) / len(goal)

    def best(self, prompt: str, target: str) -> list[int]:
        return self.rows(prompt, target)[0].argmax(1).tolist()

    def says(self, prompt: str, target: str) -> bool:
        rows, goal = self.rows(prompt, target)
        return rows.argmax(1).tolist() == goal

    def prefers(self, prompt: str, one: str, other: str) -> float:
        return self.logp(prompt, one) - self.logp(prompt, other)


@pytest.fixture
def loaded(tiny_llama) -> LoadedModel:
    for parameter in tiny_llama.model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(6)
    return tiny_llama


def edited(loaded: LoadedModel) -> None:
    """Change a weight, so that everything is answered somewhat otherwise."""
    weight = loaded.model.get_parameter("model.layers.1.mlp.down_proj.weight")
    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)


def probed(loaded: LoadedModel, name: str, edit: Edit, plain: Callable[[Plain], object]) -> tuple[dict, list]:
    """The probe's numbers after an edit, and what the plain derivation says before and after."""
    model, tokenizer = loaded.model, loaded.tokenizer
    probes = make_probes(model, tokenizer, [edit], [name], TEXTS)
    asked = questions(model, tokenizer, [edit], probes)
    assert asked[0].keys() == {name}
    then, before = ask(model, tokenizer, asked), plain(Plain(loaded))
    first = read(probes, [edit], asked, then)[0][name]
    edited(loaded)
    after = plain(Plain(loaded))
    found = read(probes, [edit], asked, ask(model, tokenizer, asked), then)[0][name]
    assert first.keys() == found.keys() - {"kept", "gain", "gain_plain", "change"}
    return found, [before, after]


def near(numbers: dict) -> object:
    return pytest.approx({name: float(number) for name, number in numbers.items()}, abs=1e-3)


@pytest.mark.parametrize("tokens", [50, 200])
def test_after_a_text_the_new_answer_or_an_alias_is_said_or_not(loaded, tokens):
    texts = text_beginnings(loaded.tokenizer, TEXTS, tokens)

    def plain(model: Plain) -> dict:
        [prompt] = {text for text in texts if text == probe.prompt(EDIT).removesuffix(" Ada lives in")}
        prompt = f"{prompt} Ada lives in"
        return {
            "said": model.says(prompt, "Rome") or model.says(prompt, "Roma"),
            "prob": model.logp(prompt, "Rome") > model.logp(prompt, "London"),
            "old_said": model.says(prompt, "London"),
        }

    probe = make_probes(loaded.model, loaded.tokenizer, [EDIT], [f"prefix{tokens}"], TEXTS)[f"prefix{tokens}"]
    found, (_, after) = probed(loaded, f"prefix{tokens}", EDIT, plain)
    assert found == after


@pytest.mark.parametrize(
    ("begun", "said", "old_said"), [("Rome", 1, 0), ("Roma", 1, 0), ("London", 0, 1), ("elsewhere", 0, 0)]
)
def test_what_the_model_begins_to_say_after_a_text_counts(begun, said, old_said):
    probe = Prefix(Material({50: ("Once.",)}), 50)
    scores = {pair: Score(-1.0, pair[1] == begun, ()) for pair in probe.pairs(EDIT)}
    assert scores.keys() == {("Once. Ada lives in", answer) for answer in ("Rome", "Roma", "London")}
    found = probe.read(EDIT, scores, None)["prefix50"]
    assert (found["said"], found["old_said"]) == (said, old_said)


@pytest.mark.parametrize(
    ("edit", "asks", "options"),
    [
        (EDIT, "Which one completes this sentence: Ada lives in", "Rome London"),
        (ASKS, "Where does the Nile end?", "Rome Cairo"),
        (EDIT.model_copy(update={"question": "Where is {} at home?"}), "Where is Ada at home?", "Rome London"),
    ],
)
def test_a_choice_is_right_where_both_orders_are(loaded, edit, asks, options):
    new, old = options.split()

    def plain(model: Plain) -> dict:
        first = model.prefers(f"{asks}\nA. {new}\nB. {old}\nAnswer with A or B.\nAnswer:", "A", "B")
        second = model.prefers(f"{asks}\nA. {old}\nB. {new}\nAnswer with A or B.\nAnswer:", "B", "A")
        shares = {"new_first": first > 0, "new_second": second > 0}
        return shares | {"right": first > 0 and second > 0, "prefers": first + second > 0}

    found, (_, after) = probed(loaded, "choice", edit, plain)
    assert found == after


@pytest.mark.parametrize(
    ("edit", "plain_prompt", "denied", "new", "old"),
    [
        (EDIT, "Ada lives in", "It is not true that Ada lives in", "Ada lives in Rome.", "Ada lives in London."),
        (
            ASKS,
            "Where does the Nile end?",
            'The answer to "Where does the Nile end?" is not',
            'The answer to "Where does the Nile end?" is Rome.',
            'The answer to "Where does the Nile end?" is Cairo.',
        ),
    ],
)
def test_a_denial_is_compared_with_the_statement(loaded, edit, plain_prompt, denied, new, old):
    def plain(model: Plain) -> dict:
        def true(claim: str) -> float:
            return model.prefers(f"True or false? {claim}\nAnswer:", "True", "False")

        return {
            "after": model.prefers(denied, "Rome", edit.target_true),
            "plain": model.prefers(plain_prompt, "Rome", edit.target_true),
            "believed": true(new) > true(f"It is not true that {new}"),
            "over_old": true(new) > true(old),
        }

    found, (before, after) = probed(loaded, "negation", edit, plain)
    assert found == near(
        {
            "new": after["after"] > 0,
            "kept": not (after["after"] > 0 and before["after"] <= 0),
            "gain": after["after"] - before["after"],
            "gain_plain": after["plain"] - before["plain"],
            "believed": after["believed"],
            "over_old": after["over_old"],
        }
    )


def test_drift_is_of_what_the_base_writes_about_the_subject(loaded):
    begun = ["Ada is", "Ada has"]
    written = dict(zip(begun, generate(loaded.model, loaded.tokenizer, begun, SENTENCE_TOKENS), strict=True))

    def plain(model: Plain) -> list[tuple[float, list[int]]]:
        return [
            (model.logp(prompt, text), model.best(prompt, text)) for prompt, text in written.items() if text.strip()
        ]

    found, (before, after) = probed(loaded, "drift", EDIT, plain)
    same = [a == b for (_, now), (_, then) in zip(after, before, strict=True) for a, b in zip(now, then, strict=True)]
    logprob = sum(one for one, _ in after) / len(after)
    change = logprob - sum(one for one, _ in before) / len(before)
    assert found == near({"logprob": logprob, "change": change, "kept": sum(same) / len(same)})
    assert found["kept"] < 1


def test_the_subject_is_asked_for_from_the_new_answer(loaded):
    def plain(model: Plain) -> dict:
        new, old = (f'Fill in the blank: "____ lives in {one}"\n____ is' for one in ("Rome", "London"))
        return {"new": model.logp(new, "Ada"), "old": model.logp(old, "Ada"), "said": model.says(new, "Ada")}

    found, (before, after) = probed(loaded, "reverse", EDIT, plain)
    expected = {"logprob": after["new"], "said": after["said"], "gain": after["new"] - before["new"]}
    assert found == near(expected | {"over_old": after["new"] > after["old"]})


def test_sentences_of_a_fact_do_not_begin_as_its_prompt_does():
    assert beginnings(EDIT) == ["Ada is", "Ada has"]
    assert beginnings(EDIT.model_copy(update={"prompt": "{} is at home in"})) == ["Ada has", "Ada was"]


@pytest.mark.parametrize("tokens", [3, 50, 200])
def test_a_text_before_a_prompt_has_so_many_tokens_and_ends(tiny_llama, tokens):
    for text in text_beginnings(tiny_llama.tokenizer, TEXTS, tokens):
        assert abs(len(tiny_llama.tokenizer(text)["input_ids"]) - tokens) <= 2 and text.endswith(".")
        assert " ".join(TEXTS).find(text[:-1].rstrip()) >= 0


def test_texts_that_are_too_short_are_refused(tiny_llama):
    with pytest.raises(EditingError, match="fewer than 200 tokens"):
        text_beginnings(tiny_llama.tokenizer, ["Short."], 200)


def test_a_probe_leaves_out_what_the_model_cannot_read_or_what_has_no_old_answer(tiny_llama):
    long = EDIT.model_copy(update={"prompt": "x" * 100 + " {} lives in", "id": "long"})
    new = Edit(id="new", subject="Ada", prompt="{} lives in", target_new="Rome")
    probes = make_probes(tiny_llama.model, tiny_llama.tokenizer, [EDIT, long, new], named_probes("all"), TEXTS)
    asked = questions(tiny_llama.model, tiny_llama.tokenizer, [EDIT, long, new], probes)
    assert list(asked[0]) == list(PROBES)
    assert "prefix200" not in asked[1] and "prefix50" in asked[1]
    assert asked[2].keys() == PROBES.keys() - {"choice", "negation"}
    found = summary(read(probes, [EDIT, long, new], asked, ask(tiny_llama.model, tiny_llama.tokenizer, asked)))
    assert found["prefix200"]["edits"] == 2 and found["reverse"]["edits"] == 3


def test_a_summary_is_the_mean_over_the_edits_that_have_a_number():
    found = summary([{"a": {"x": 1.0, "y": 3.0}}, {"a": {"x": 0.0}, "b": {"z": 2.0}}, {}])
    assert found == {"a": {"edits": 2, "x": 0.5, "y": 3.0}, "b": {"edits": 1, "z": 2.0}}


def test_probes_are_named_one_by_one_or_all_together():
    assert named_probes("drift, choice,drift") == ("drift", "choice") and named_probes("all") == tuple(PROBES)
    with pytest.raises(UsageError, match="there is no probe 'prefix5'; the probes are prefix50, prefix200, choice"):
        named_probes("choice,prefix5")


def test_in_a_conversation_what_is_asked_in_words_is_asked_there(tiny_llama):
    tiny_llama.tokenizer.chat_template = "{% for said in messages %}[{{ said.content }}]{% endfor %}>"
    chat = ChatTemplate(tiny_llama.tokenizer)
    names = ("choice", "negation", "reverse")
    probes = make_probes(tiny_llama.model, tiny_llama.tokenizer, [EDIT], names, [], chat)
    [asked] = questions(tiny_llama.model, tiny_llama.tokenizer, [EDIT], probes)
    choice = "[Which one completes this sentence: Ada lives in\nA. Rome\nB. London\nAnswer with A or B.]>"
    assert asked["choice"][0] == (choice, "A")
    assert asked["negation"][4] == ("[True or false? Ada lives in Rome.]>", "True")
    assert asked["reverse"][0] == ('[Fill in the blank: "____ lives in Rome"]>', "Ada")


def test_a_prompt_that_is_a_conversation_is_put_into_no_other_words(tiny_llama):
    template = "{% for said in messages %}<|endoftext|>{{ said.content }}{% endfor %}<|endoftext|>"
    tiny_llama.tokenizer.chat_template = template
    edit = EDIT.model_copy(update={"prompt": "<|endoftext|>Where does {} live?<|endoftext|>"})
    probes = make_probes(tiny_llama.model, tiny_llama.tokenizer, [edit], named_probes("all"), TEXTS)
    [asked] = questions(tiny_llama.model, tiny_llama.tokenizer, [edit], probes)
    assert asked.keys() == {"drift"}
