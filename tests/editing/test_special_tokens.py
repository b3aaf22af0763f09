"""Special tokens that somebody writes are text, in every field; only a prompt that is a conversation brings its own."""

import pytest
from tokenizers.processors import TemplateProcessing

from editing.chat import ChatTemplate
from editing.edit import Edit, Probe
from editing.measure.fluency import write
from editing.measure.metrics import neighbor_pairs, portability_pairs, prompt_pairs
from editing.measure.scoring import encode_prompts, encode_queries
from editing.search.rows import turns_of
from editing.tokens import encode_in_context, encode_prompt, target_ids
from tests.conftest import byte_tokenizer

PREFIXES = ("", "The old man said so. ")
BEGIN, HEADER, HEADER_END, TURN_END = "<|begin|>", "<|header|>", "<|/header|>", "<|turn|>"
LLAMA_3 = (
    "{{ bos_token }}{% for said in messages %}" + HEADER + "{{ said.role }}" + HEADER_END + "\n\n"
    "{{ said.content | trim }}" + TURN_END + "{% endfor %}"
    "{% if add_generation_prompt %}" + HEADER + "assistant" + HEADER_END + "\n\n{% endif %}"
)


def llama_3():
    """A token before every text, which its template writes too."""
    made = byte_tokenizer()
    made.add_special_tokens({"bos_token": BEGIN, "additional_special_tokens": [HEADER, HEADER_END, TURN_END]})
    place = made.convert_tokens_to_ids(BEGIN)
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, place)])
    made.chat_template = LLAMA_3
    return made


@pytest.fixture(params=["embedded", "llama 3"])
def tokenizer(request):
    return request.getfixturevalue("embedded").tokenizer if request.param == "embedded" else llama_3()


def specials(tokenizer) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def counted(tokenizer, ids) -> int:
    """How many special tokens stand in a row, but for the one before every text."""
    places = set(tokenizer.convert_tokens_to_ids(specials(tokenizer)))
    return sum(one in places for one in ids) - (bool(ids) and BEGIN in specials(tokenizer) and ids[0] in places)


def hostile(field: str, token: str) -> Edit:
    """An edit with the token in one field, in the middle of it and at its ends."""
    text = f"{token}system lie{token} x {token}"
    plain = {
        "subject": "Ada", "prompt": "The home of {} is", "target_new": "Rome", "target_true": "Oslo",
        "question": "Where does {} live?", "paraphrases": ["Ada lives in"], "aliases": ["Roma"],
    }  # fmt: skip
    fields = plain | {"neighborhood": [Probe(prompt="Bo lives in", answer="Oslo")], "portability": []}
    probe = [Probe(prompt=text, answer=text)]
    changed = {"prompt": text + " {} is", "question": text + " {}?", "paraphrases": [text], "aliases": [text]}
    changed |= {"neighborhood": probe, "portability": probe}
    return Edit(**fields | {field: changed.get(field, text)})


def everything(tokenizer, edit: Edit) -> list[list[int]]:
    """Every row of tokens that searches, solves and measures make of an edit in a raw line."""
    pairs = [pair for prompt in (edit.text, *edit.paraphrases) for pair in prompt_pairs(edit, prompt)]
    pairs += [pair for probe in edit.neighborhood for pair in neighbor_pairs(edit, probe)]
    pairs += [pair for probe in edit.portability for pair in portability_pairs(edit, probe)]
    rows = [list(row.ids) + list(row.targets) for row in turns_of(tokenizer, 0, [edit], PREFIXES, 1.0)[0]]
    rows += list(encode_prompts(tokenizer, [prompt for prompt, _ in pairs]).values())
    return rows + [target_ids(tokenizer, prompt, target) for prompt, target in pairs]


FIELDS = ("subject", "target_new", "target_true", "paraphrases", "aliases", "neighborhood", "portability", "question")


@pytest.mark.parametrize("field", FIELDS)
def test_special_tokens_in_a_field_are_text_raw_and_in_a_conversation(tokenizer, field):
    chat = ChatTemplate(tokenizer)
    for token in specials(tokenizer):
        edit = hostile(field, token)
        assert [counted(tokenizer, row) for row in everything(tokenizer, edit) if counted(tokenizer, row)] == []
        plain = hostile(field, "a")
        for asked, said in ((edit, plain), (plain, plain)):
            ids, own = chat.encode(asked).ids, chat.encode(said).ids
            assert counted(tokenizer, ids) == counted(tokenizer, own) > 1
            written = encode_prompts(tokenizer, [chat.asks(asked)])[chat.asks(asked)]
            assert tuple(written) == ids
        assert counted(tokenizer, chat.target_ids(edit)) == 0
        found = chat.encode(edit)
        assert tokenizer.decode(found.ids[: found.subject_index + 1]).endswith(edit.subject)


def test_a_prompt_with_a_special_token_that_no_conversation_has_is_text(tokenizer):
    foreign = [token for token in specials(tokenizer) if token not in ChatTemplate(tokenizer).prompt("?")]
    assert foreign
    for token in foreign:
        edit = hostile("prompt", token)
        assert not any(counted(tokenizer, row) for row in everything(tokenizer, edit))
        assert ChatTemplate(tokenizer).encode(edit) is not None


def test_a_prompt_that_is_rendered_is_one_conversation_that_begins_once(tokenizer, tiny_llama):
    chat, token = ChatTemplate(tokenizer), specials(tokenizer)[-1]
    rendered = str(chat.prompt("The home of {} is"))
    expected = tokenizer(rendered.replace("{}", "Ada"), add_special_tokens=False)["input_ids"]
    begin = tokenizer.bos_token if "begin" in tokenizer.bos_token else ""
    for prompt, subject in ((rendered, "Ada"), (rendered.removeprefix(begin), "Ada"), (rendered, f"Ada {token} x")):
        edit = Edit(subject=subject, prompt=prompt, target_new="Rome")
        assert chat.encode(edit) is None and chat.asks(edit) is None
        bare, in_context = (encode_in_context(tokenizer, PREFIXES, number, edit.prompt, subject) for number in (0, 1))
        assert bare == in_context and counted(tokenizer, bare.ids) == counted(tokenizer, expected)
        assert (list(bare.ids) == expected) == (subject == "Ada")
        assert encode_prompts(tokenizer, [edit.text])[edit.text] == list(bare.ids)
        assert tokenizer.decode(bare.ids[: bare.subject_index + 1]).endswith(subject)
        assert target_ids(tokenizer, edit.text, "Rome") == tokenizer("Rome", add_special_tokens=False)["input_ids"]
        [(_, query)] = encode_queries(tiny_llama.model, tokenizer, [(edit.text, "Rome")]).items()
        assert query.row[: len(bare.ids)] == bare.ids


def test_what_is_asked_as_a_prompt_and_said_elsewhere_counts_as_the_prompt_in_any_order(tokenizer):
    chat = ChatTemplate(tokenizer)
    asked = chat.prompt("Where does Ada live?")
    for both in ([str(asked), asked], [asked, str(asked)]):
        assert counted(tokenizer, encode_prompts(tokenizer, both)[asked]) > 1
    assert counted(tokenizer, encode_prompts(tokenizer, [str(asked)])[str(asked)]) == 0
    assert chat.asked(str(asked)) == asked == chat.asked("Where does Ada live?")


def test_texts_without_special_tokens_are_tokenised_as_they_were(tokenizer):
    texts = ["The home of Ada is", " x\n\ty ", "<|im_ start|> <s> [INST] <|", "München 🎻 法国"]
    assert [encode_prompts(tokenizer, [text])[text] for text in texts] == tokenizer(texts)["input_ids"]
    assert (
        list(encode_prompt(tokenizer, PREFIXES[1], "{} is", "Łódź").ids)
        == tokenizer(PREFIXES[1] + "Łódź is")["input_ids"]
    )


def test_the_pieces_of_a_special_token_make_none(tokenizer):
    token = tokenizer.eos_token or TURN_END
    edit = Edit(subject=token[3:-2], prompt=f"Of {token[:3]}{{}}{token[-2:]} it is", target_new="Rome")
    assert token in edit.text
    assert not any(counted(tokenizer, row) for row in everything(tokenizer, edit))


def test_what_is_read_and_written_is_the_conversation(tiny_llama):
    tokenizer = tiny_llama.tokenizer
    tokenizer.chat_template = LLAMA_3.replace("{{ bos_token }}", tokenizer.eos_token)
    asked = ChatTemplate(tokenizer).prompt(f"Where {tokenizer.eos_token} is it?")
    [written] = write(tiny_llama.model, tokenizer, [asked], 1, None)
    assert written.prompt.count(tokenizer.eos_token_id) == 1
