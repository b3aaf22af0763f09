"""A saved folder is the model for whoever reads it: transformers 5 here, and 4 by the names that it looks for."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from editing.adapters.plain import read_by_both, save_plain
from tests.editing.test_weights import IDS
from tests.families import FAMILIES, tiny_family

SPECIAL = "<|tool|>"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_folder_is_the_same_model_and_tokenizer(name, tmp_path):
    tiny = tiny_family(name)
    tiny.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tiny.tokenizer.add_special_tokens({"additional_special_tokens": [SPECIAL]})
    save_plain(tiny, tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(model(input_ids=IDS).logits, tiny.model(input_ids=IDS).logits)
    text = f"Ada {SPECIAL} was born"
    assert tokenizer(text)["input_ids"] == tiny.tokenizer(text)["input_ids"]
    assert tokenizer.chat_template == tiny.tokenizer.chat_template
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] != "TokenizersBackend" and written["additional_special_tokens"] == [SPECIAL]
    assert "extra_special_tokens" not in written and written["model_input_names"] == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("of_5", "of_4"),
    [
        (
            {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}, "dtype": "bfloat16"},
            {"rope_theta": 1e5, "rope_scaling": None, "torch_dtype": "bfloat16"},
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            {"rotary_emb_base": 1e4, "rotary_pct": 0.5},
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                                 "sliding_attention": {"rope_theta": 1e4}}},
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        ({"text_config": {"rope_parameters": {"rope_theta": 7.0}}}, {}),
        ({"n_embd": 32}, {}),
    ],
)  # fmt: skip
def test_positions_are_said_as_transformers_4_looks_for_them(of_5, of_4):
    found = read_by_both(of_5)
    assert {name: found[name] for name in of_4} == of_4
    assert found.keys() >= of_5.keys()
    if "text_config" in of_5:
        assert found["text_config"]["rope_theta"] == 7.0
