"""A tiny random model of every architecture that can be edited, made from its config class."""

import copy
import functools

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from editing.models import LoadedModel, base_digest
from tests.conftest import END, byte_tokenizer
from tests.costs import some

LLAMA_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
GPT_SIZES = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
WINDOW = {"sliding_window": 5}
"""Smaller than the tests' prompts, and wide enough that two layers carry the subject to where the target begins."""
MIXED = {**LLAMA_SIZES, **WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
NEOX_SIZES = {key: value for key, value in LLAMA_SIZES.items() if key not in ("num_key_value_heads", "head_dim")}

NEO_SIZES = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 256}
PADDED = {**LLAMA_SIZES, "pad_token_id": 0}

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
VOCABULARY_SIZE = {"vocab_size": len(byte_tokenizer())}

FAMILIES = {
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 4, "n_head": 4}),
    "cohere": ("cohere", {**LLAMA_SIZES, "use_qk_norm": True}),
    "cohere2": ("cohere2", MIXED),
    "exaone4": ("exaone4", MIXED),
    "falcon": ("falcon", {**NEOX_SIZES, "ffn_hidden_size": 64}),
    "falcon-alibi": (
        "falcon",
        {**NEOX_SIZES, "ffn_hidden_size": 64, "alibi": True, "parallel_attn": False, "bias": True},
    ),
    "falcon-groups": (
        "falcon",
        {**NEOX_SIZES, "ffn_hidden_size": 64, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "gemma": ("gemma", LLAMA_SIZES),
    "gemma2": ("gemma2", {**MIXED, "final_logit_softcapping": 0.5, "attn_logit_softcapping": 0.5}),
    "gemma3": ("gemma3_text", MIXED),
    "gemma3-with-vision": ("gemma3", {"text_config": {**MIXED, **VOCABULARY_SIZE}, "vision_config": VISION}),
    "glm": ("glm", PADDED),
    "glm4": ("glm4", PADDED),
    "gpt2": ("gpt2", GPT_SIZES),
    "gptj": ("gptj", {**GPT_SIZES, "rotary_dim": 4}),
    "gptneo": ("gpt_neo", {**NEO_SIZES, "attention_types": [[["global", "local"], 2]], "window_size": 5}),
    "granite": (
        "granite",
        {**LLAMA_SIZES, "residual_multiplier": 0.22, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
    ),
    "llama": ("llama", LLAMA_SIZES),
    "llama-tied": ("llama", {**LLAMA_SIZES, "tie_word_embeddings": True}),
    "ministral": ("ministral", MIXED),
    "ministral3": ("ministral3", LLAMA_SIZES),
    "mistral": ("mistral", {**LLAMA_SIZES, **WINDOW}),
    "neox": ("gpt_neox", {**NEOX_SIZES, "rotary_pct": 0.5}),
    "neox-sequential": ("gpt_neox", {**NEOX_SIZES, "use_parallel_residual": False}),
    "olmo": ("olmo", {**LLAMA_SIZES, "clip_qkv": 2.0}),
    "olmo2": ("olmo2", LLAMA_SIZES),
    "olmo3": ("olmo3", MIXED),
    "opt": ("opt", {**NEOX_SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 0}),
    "phi": ("phi", LLAMA_SIZES),
    "phi3": ("phi3", {**LLAMA_SIZES, **WINDOW, "pad_token_id": 0}),
    "qwen2": ("qwen2", LLAMA_SIZES),
    "qwen2-sliding": ("qwen2", {**LLAMA_SIZES, **WINDOW, "use_sliding_window": True, "max_window_layers": 2}),
    "qwen3": ("qwen3", LLAMA_SIZES),
    "smollm3": ("smollm3", {**PADDED, "no_rope_layers": [1, 1, 0, 1]}),
    "stablelm": ("stablelm", {**LLAMA_SIZES, "use_qkv_bias": True}),
    "stablelm-parallel": ("stablelm", {**LLAMA_SIZES, "use_parallel_residual": True}),
    "starcoder2": ("starcoder2", {**LLAMA_SIZES, **WINDOW}),
}
"""(model_type, config) by name; every layout occurs."""

KINDS = (
    "bloom", "cohere2", "falcon", "gemma2", "gemma3-with-vision", "gpt2", "gptneo", "llama", "neox", "opt"
)  # fmt: skip
"""Of each way to build one, one: how places are told, how far is looked, what runs side by side, where norms stand."""


def of_each_kind(name: str = "name") -> pytest.MarkDecorator:
    """A parameter that goes over `KINDS`, where it is thorough over all: for laws of search and solve, costly ones.

    That the layout of each is right, laws that cost little ask of all of them.
    """
    return pytest.mark.parametrize(name, some(FAMILIES, KINDS))


def family_tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """The tests' tokenizer, with a token before every text if wanted."""
    tokenizer = byte_tokenizer()
    if bos:
        end = (END, tokenizer.convert_tokens_to_ids(END))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[end])
    return tokenizer


def tiny_family(name: str, dtype: torch.dtype = torch.float32, *, bos: bool = False) -> LoadedModel:
    """A random model of 4 layers and hidden size 32, the same at every call."""
    return copy.deepcopy(_tiny_family(name, dtype, bos))


@functools.cache  # a copy takes a third of the time
def _tiny_family(name: str, dtype: torch.dtype, bos: bool) -> LoadedModel:
    tokenizer = family_tokenizer(bos)
    model = _random_model(name).to(dtype).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, f"tiny-{name}", base_digest(model))


def _random_model(name: str) -> PreTrainedModel:
    model_type, sizes = FAMILIES[name]
    end = family_tokenizer(False).eos_token_id
    config = AutoConfig.for_model(model_type, **{**VOCABULARY_SIZE, "bos_token_id": end, "eos_token_id": end, **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name_, parameter in model.named_parameters():
            if "norm" in name_ or "ln_" in name_:  # as after training: no two gains alike
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif parameter.dim() == 2 and "emb" not in name_ and "wte" not in name_:
                parameter.data *= 5  # as large as in real models, where no norm's epsilon counts
    return model
