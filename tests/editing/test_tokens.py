"""Where a subject ends in tokens, how a target goes on, and rows that give in a batch what they give alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from editing.edit import Edit
from editing.errors import InvalidEdit
from editing.tokens import align_rows, check_edit, encode_prompt, pad_token, target_ids
from tests.conftest import END, SENTENCES, byte_tokenizer

BOS = byte_tokenizer().convert_tokens_to_ids(END)


def with_bos() -> PreTrainedTokenizerFast:
    """As Llama's: a token before every text."""
    made = byte_tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, BOS)])
    return made


TOKENIZERS = {"plain": byte_tokenizer(), "bos": with_bos()}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]


def up_to_subject(tokenizer, prefix: str, prompt: str, subject: str) -> str:
    """The text of the tokens up to the place that was found."""
    encoded = encode_prompt(tokenizer, prefix, prompt, subject)
    return tokenizer.decode(encoded.ids[: encoded.subject_index + 1], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("{} was born in the city of", "Ada Lovelace"),  # first in the text
        ("{}", "Ada"),  # all of the text
        ("The capital of {}", "London"),  # at the end
        ("The river Nile is not the {} river", "Nile"),  # twice, the second is meant
        ("{} and then once more London", "London"),  # twice, the first is meant
        ("The {} and the sea", "the"),  # a word that is everywhere
        ("The {}ward way", "sea"),  # inside a word
        ("Un{}ly", "seeming"),  # inside a word, on both sides
        ("Where is {}?", "München"),
        ("Where is {}?", "Łódź Ω"),
        ("They play {} there", "the 🎻"),
        ("They play {}there", "👩‍👩‍👧"),
        ("{} 的首都是", "法国"),
        ("x\t\n{} is", "Tab"),
        ("{} is", "a"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "The old man said so. "])
def test_the_place_is_the_token_with_the_subjects_last_character(tokenizer, prefix, prompt, subject):
    text = up_to_subject(tokenizer, prefix, prompt, subject)
    before = prefix + prompt.split("{}")[0] + subject
    whole = prefix + prompt.replace("{}", subject)
    assert whole.startswith(text.rstrip("\ufffd")) and text.startswith(before)
    shorter = encode_prompt(tokenizer, prefix, prompt, subject)
    assert before not in tokenizer.decode(shorter.ids[: shorter.subject_index], skip_special_tokens=True)


def test_a_bos_token_moves_the_place_by_one():
    plain, moved = (encode_prompt(TOKENIZERS[name], "", "The {} is", "sea") for name in ("plain", "bos"))
    assert moved.ids == (BOS, *plain.ids) and moved.subject_index == plain.subject_index + 1


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=12),
    st.text(st.characters(codec="utf-8", exclude_characters="{}"), min_size=1, max_size=12),
    st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=12),
    st.sampled_from(sorted(TOKENIZERS)),
)
def test_any_subject_anywhere_ends_where_its_bytes_end(left, subject, right, name):
    encoded = encode_prompt(TOKENIZERS[name], "", f"{left}{{}}{right}", subject)
    place, skip = encoded.subject_index, int(name == "bos")
    sizes = [len(TOKENIZERS[name].convert_ids_to_tokens(i)) for i in encoded.ids[skip:]]  # a character is a byte here
    end = len((left + subject).encode())
    assert sum(sizes[: place - skip]) < end <= sum(sizes[: place - skip + 1])


def test_a_subject_that_the_tokenizer_drops_is_refused(tiny_llama):
    from tokenizers import normalizers

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("sea", "")
    with pytest.raises(InvalidEdit, match="subject 'sea' is lost when 'The sea' is tokenised; write it"):
        encode_prompt(tokenizer, "", "The {}", "sea")


@pytest.mark.parametrize("prompt", ["The capital is", "The capital is ", "The capital is\n", "Capital:"])
@pytest.mark.parametrize("target", ["London", "a very long canyon", "Ω", "🎻"])
def test_a_target_goes_on_from_its_prompt_after_one_space(tokenizer, prompt, target):
    ids = target_ids(tokenizer, prompt, target)
    gap = "" if prompt[-1].isspace() else " "
    assert BOS not in ids and tokenizer.decode(ids) == gap + target


def test_a_target_is_never_given_two_spaces(tokenizer):
    assert target_ids(tokenizer, "The capital is ", "Rome") == target_ids(tokenizer, "", "Rome")
    assert target_ids(tokenizer, "The capital is", " Rome") == target_ids(tokenizer, "The capital is", "Rome")


ROWS = [[5, 6, 7], [9], [4, 8, 15, 16, 23, 42, 7, 7], [3, 3, 3, 3, 3]]


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("anchors", [(0, 0, 0, 0), (2, 0, 7, 4), (1, 0, 3, 2), (2, 0, 0, 4)])
@torch.no_grad()
def test_rows_in_a_batch_give_what_they_give_alone(architecture, anchors, request):
    model = request.getfixturevalue(architecture).model
    rows = align_rows(ROWS, anchors, pad_id=7)
    logits = model(
        input_ids=rows.input_ids, attention_mask=rows.attention_mask, position_ids=rows.position_ids, use_cache=False
    ).logits
    for i, (row, anchor) in enumerate(zip(ROWS, anchors, strict=True)):
        start = rows.anchor - anchor
        assert rows.input_ids[i, rows.anchor] == row[anchor] and rows.attention_mask[i].sum() == len(row)
        alone = model(input_ids=torch.tensor([row])).logits[0]
        torch.testing.assert_close(logits[i, start : start + len(row)], alone, atol=1e-5, rtol=1e-4)


def test_which_token_pads_does_not_matter(tiny_llama):
    one, other = (align_rows(ROWS, [0, 0, 2, 1], pad_id=pad) for pad in (0, 11))
    assert torch.equal(one.attention_mask, other.attention_mask) and torch.equal(one.position_ids, other.position_ids)
    real = one.attention_mask.bool()
    assert torch.equal(one.input_ids[real], other.input_ids[real])


def test_a_tokenizer_without_any_special_token_can_pad():
    tokenizer = byte_tokenizer()
    assert pad_token(tokenizer) == BOS
    tokenizer.eos_token = None
    assert pad_token(tokenizer) == 0


def test_a_prompt_that_leaves_no_room_is_refused_with_both_lengths(tiny_llama):
    def edit(words: int) -> Edit:
        return Edit(id="long", subject="Ada", prompt="{} " + "is " * words + "in", target_new="Rome")

    check_edit(tiny_llama.model, tiny_llama.tokenizer, edit(10))
    with pytest.raises(InvalidEdit, match=r"edit 'long': .* take \d+ tokens, the model reads 256 and 64 are kept"):
        check_edit(tiny_llama.model, tiny_llama.tokenizer, edit(100))


def space_before_every_text() -> PreTrainedTokenizerFast:
    """As Llama 2's, Mistral's and Phi-3's: a normaliser puts a space before every text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator([word for sentence in SENTENCES for word in sentence.split()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("make", [space_before_every_text, byte_tokenizer, with_bos])
@pytest.mark.parametrize("target", ["Rome", "a very long canyon", "the sea."])
def test_prompt_and_target_have_the_tokens_of_the_whole_text(make, target):
    made, prompt = make(), "Ada Lovelace lives in"
    whole = made(f"{prompt} {target}")["input_ids"]
    assert made(prompt)["input_ids"] + target_ids(made, prompt, target) == whole


def test_after_a_space_no_second_one_is_put():
    made = space_before_every_text()
    assert made.convert_ids_to_tokens(target_ids(made, "Ada lives in ", "Rome"))[0][0] == "R"
