"""A folder that is no whole model: the same line says so before anything is started as where it would be loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from editing.errors import ModelError
from editing.models import load_model, model_config

WEIGHTS, INDEX, DOWN = "model.safetensors", "model.safetensors.index.json", "model.layers.0.mlp.down_proj.weight"
SHARD = "model-00001-of-00002.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\n"
EMBEDDED = "model.embed_tokens.weight"
Tensors = dict[str, torch.Tensor]


def says(**values: object) -> Callable[[Path], object]:
    return lambda folder: merge(folder / "config.json", values)


def tokenizer_says(**values: object) -> Callable[[Path], object]:
    return lambda folder: merge(folder / "tokenizer_config.json", values)


def holds(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def weighs(change: Callable[[Tensors], Tensors]) -> Callable[[Path], object]:
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})


def merge(file: Path, values: dict[str, object]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def shards(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in where if where[name] == file}, folder / file, {"format": "pt"})
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": where}))


def then(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [step(folder) for step in steps]


def less(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def linked(name: str) -> Callable[[Path], object]:
    return then(less(name), lambda folder: (folder / name).symlink_to("/nonexistent/blob"))


def renamed(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


UNSIZED = json.dumps({"weight_map": {"a": SHARD}})
ASKS = "its config asks for (32, 64)"
TOKENIZER = "cannot be loaded: its tokenizer cannot be read"
ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"})
DEEP = b"[" * 100_000
BROKEN = {
    "config of a number": (holds("config.json", "3"), "cannot be loaded: its config.json names no model_type"),
    "config of nothing": (holds("config.json", "null"), "cannot be loaded: its config.json names no model_type"),
    "config without type": (holds("config.json", "{}"), "cannot be loaded: its config.json names no model_type"),
    "type is a list": (says(model_type=["llama"]), "cannot be loaded: its config.json names no model_type"),
    "config too deep": (holds("config.json", DEEP), "config.json' is not JSON"),
    "config in UTF-16": (holds("config.json", "{}".encode("utf-16")), "config.json' is not JSON"),
    "one architecture": (says(architectures="BertForMaskedLM"), "no causal language model (BertForMaskedLM)"),
    "architectures of numbers": (says(architectures=[1, 2]), "no causal language model (1, 2)"),
    "act": (says(hidden_act="wobble"), "cannot be loaded: KeyError: 'wobble'"),
    "quantised, a word": (says(quantization_config="gptq"), "is quantised (gptq)"),
    "quantised, inside": (
        says(
            model_type="gemma3",
            architectures=["Gemma3ForConditionalGeneration"],
            text_config={"quantization_config": {"quant_method": "gptq", "bits": 4}},
        ),
        "is quantised (gptq)",
    ),
    "compressed": (says(compression_config={"quant_method": "compressed-tensors"}), "quantised (compressed-tensors)"),
    "weights are a dead link": (linked(WEIGHTS), f"{WEIGHTS}' is a link to '/nonexistent/blob', which is not there"),
    "tokenizer is a dead link": (linked("tokenizer.json"), "tokenizer.json' is a link to '/nonexistent/blob'"),
    "header too deep": (holds(WEIGHTS, len(DEEP).to_bytes(8, "little") + DEEP), "no whole file of safetensors"),
    "another name": (renamed("consolidated.safetensors"), f"holds consolidated.safetensors and neither {WEIGHTS} nor"),
    "no index": (then(shards, less(INDEX)), f"holds model-00001-of-00002.safetensors and neither {WEIGHTS} nor"),
    "index of no metadata": (then(shards, holds(INDEX, UNSIZED)), "is no index of weights"),
    "index of nothing": (then(shards, holds(INDEX, '{"metadata": {}, "weight_map": {}}')), "is no index of weights"),
    "index too deep": (then(shards, holds(INDEX, DEEP)), "is no index of weights"),
    "index elsewhere": (
        then(shards, holds(INDEX, json.dumps({"metadata": {}, "weight_map": {DOWN: SHARD}}))),
        "lacks ",
    ),
    "an encoder": (says(model_type="t5", architectures=["T5Model"]), "(T5Model): an encoder reads the question"),
    "delta nets": (
        holds("config.json", '{"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}'),
        "(Qwen3_5ForConditionalGeneration): most of its layers are gated delta nets",
    ),
    "experts inside": (says(model_type="dbrx", architectures=["DbrxForCausalLM"]), "spreads the MLP over 4 experts"),
    "two texts": (says(model_type="musicgen", architectures=["MusicgenForCausalLM"]), "musicgen"),
    "xlstm": (says(model_type="xlstm", architectures=["xLSTMForCausalLM"]), "its layers keep a running state"),
    "a shard is a pointer": (then(shards, holds("model-00002-of-00002.safetensors", POINTER)), "pointer of git-lfs"),
    "an adapter alone": (
        then(renamed("adapter_model.safetensors"), holds("adapter_config.json", ADAPTER)),
        "holds an adapter: merge it into its base",
    ),
    "an adapter beside": (holds("adapter_config.json", ADAPTER), "holds an adapter: merge it into its base"),
    "GGUF in a folder": (then(less(WEIGHTS), holds("x.Q4.gguf", "GGUF")), "holds no weights (*.safetensors); give "),
    "fewer layers told": (says(num_hidden_layers=2), "holds 4 layers in its files, its config says 2"),
    "more layers told": (says(num_hidden_layers=5), "lacks 9 of its weights in the files (the first: model.layers.4."),
    "one weight less": (weighs(lambda t: {name: t[name] for name in t if name != DOWN}), f"(the first: {DOWN})"),
    "no weight": (weighs(lambda t: {}), "lacks 39 of its weights"),
    "a weight of another shape": (weighs(lambda t: t | {DOWN: torch.zeros(16, 8)}), f"(16, 8), {ASKS}"),
    "a weight of one dimension": (weighs(lambda t: t | {DOWN: torch.zeros(2048)}), f"(2048,), {ASKS}"),
    "another size told": (says(intermediate_size=128), "is (32, 64), its config asks for (32, 128)"),
    "another vocabulary told": (says(vocab_size=999), "is (320, 32), its config asks for (999, 32)"),
    "tokenizer of nothing": (holds("tokenizer.json", ""), TOKENIZER),
    "tokenizer cut": (holds("tokenizer.json", '{"version": "1.0", "trunc'), TOKENIZER),
    "tokenizer in no UTF-8": (holds("tokenizer.json", b"\xff\xfe"), TOKENIZER),
    "tokenizer of a list": (holds("tokenizer_config.json", "[]"), TOKENIZER),
    "tokenizer's length a word": (tokenizer_says(model_max_length="x"), TOKENIZER),
    "tokenizer's class a number": (tokenizer_says(tokenizer_class=5), TOKENIZER),
    "half a vocabulary": (then(less("tokenizer.json"), holds("vocab.json", '{"a": 0}')), TOKENIZER),
    "template of a number": (tokenizer_says(chat_template=5), "cannot be loaded: its chat template is broken"),
    "template broken": (holds("chat_template.jinja", "{% for %}"), "cannot be loaded: its chat template is broken"),
    "template in no UTF-8": (holds("chat_template.jinja", b"\xff"), TOKENIZER),
    "another model's tokenizer": (
        then(
            weighs(lambda t: t | {name: t[name][:150].clone() for name in ("lm_head.weight", EMBEDDED)}),
            says(vocab_size=150),
        ),
        "has 320 tokens, the model knows 150",
    ),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_folder_is_refused_alike_before_and_at_loading(saved, tmp_path, broken):
    spoil, reason = BROKEN[broken]
    spoil(saved)
    said: list[str] = []
    for read in (lambda: model_config(str(saved)), lambda: load_model(str(saved), cache=tmp_path / "cache")):
        with pytest.raises(ModelError) as refused:
            read()
        said.append(str(refused.value))
    assert reason in said[0] and said[0] == said[1]
    assert "\n" not in said[0] and str(saved) in said[0] and len(said[0]) < 600


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(saved, tmp_path, number):
    weighs(lambda t: t | {DOWN: torch.full_like(t[DOWN], number)})(saved)
    with pytest.raises(ModelError, match=rf"weight '{DOWN}' of model '.*' holds NaN or infinity: download or save"):
        load_model(str(saved), cache=tmp_path / "cache")


WHOLE = {
    "shards": shards,
    "float64": weighs(lambda t: {name: t[name].double() for name in t}),
    "a link": lambda folder: (folder / "weights").symlink_to(folder / WEIGHTS),
    "not quantised": says(quantization_config=None),
    "no architecture": says(architectures=None),
}


@pytest.mark.parametrize("whole", WHOLE)
def test_a_whole_folder_is_read(saved, tmp_path, whole, tiny_llama):
    WHOLE[whole](saved)
    assert model_config(str(saved)) is not None
    assert load_model(str(saved), cache=tmp_path / "cache").digest == tiny_llama.digest


def test_a_token_for_padding_that_the_model_does_not_know_is_not_used(saved, tmp_path):
    tokenizer_says(pad_token="<pad>")(saved)
    found = load_model(str(saved), cache=tmp_path / "cache").tokenizer
    assert found.pad_token_id == found.eos_token_id < 320


def test_a_chat_template_of_tokens_that_the_model_does_not_know_is_refused(saved, tmp_path):
    then(tokenizer_says(extra_special_tokens=["<|me|>"]), holds("chat_template.jinja", "<|me|>{{ messages }}"))(saved)
    with pytest.raises(ModelError, match=r"the tokenizer of model '.*' has in its chat template the token '<\|me\|>'"):
        load_model(str(saved), cache=tmp_path / "cache")


def test_looking_at_a_folder_takes_no_memory_for_its_weights(saved):
    before = torch.get_default_dtype()
    assert model_config(str(saved)).num_hidden_layers == 4
    assert torch.get_default_dtype() is before
