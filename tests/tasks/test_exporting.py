"""What is exported is the version itself, for whoever reads it, and its folder is whole or absent."""

import html
import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from editing.adapters.gguf import import_gguf_lora
from editing.adapters.lora import import_lora
from editing.digests import file_digest, tensor_digest
from editing.errors import ErrataError, OutOfMemory, UsageError
from editing.measure.fluency import generate
from tasks.carrying.card import OBJECT, PAGE
from tasks.carrying.chosen import choose, opened
from tasks.carrying.exporting import CHANGED_FILE, FORMS, GGUF_FILE, export
from tests.tasks.carried import LINE, WEIGHTS, CarriedLine

PROMPTS = ["Ada 10 was born in the city of", "The river Nile flows", *(f"The old man said {i}" for i in range(50))]


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> CarriedLine:
    """Version 1 is in service, 2 and a root, 3, wait."""
    made = CarriedLine(tmp_path_factory.mktemp("carried"))
    made.serve(made.make())
    made.make()
    made.make(root=True)
    return made


def of_version(line: CarriedLine, version: str) -> torch.nn.Module:
    return opened(line.workplace, choose(line.workplace, LINE, version)).loaded.model


def logits(model: torch.nn.Module, tokenizer) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(**tokenizer(prompt, return_tensors="pt")).logits[0] for prompt in PROMPTS])


def greedy(model: torch.nn.Module, tokenizer) -> list[str]:
    """As transformers itself writes it."""
    given = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
    return [tokenizer.decode(model.generate(**tokenizer(one, return_tensors="pt"), **given)[0]) for one in PROMPTS]


@pytest.mark.slow
@pytest.mark.parametrize(("version", "number"), [("champion", 1), ("challenger", 3), ("2", 2), ("0", 0)])
def test_a_merged_folder_is_the_version_for_from_pretrained(line, tmp_path, version, number):
    told = export(line.workplace, LINE, "merged", tmp_path / "out", version)
    assert told["version"] == number
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(tmp_path / "out"),
    )
    expected = of_version(line, version)
    assert torch.equal(logits(model, tokenizer), logits(expected, tokenizer))
    assert generate(model, tokenizer, PROMPTS, 12) == generate(expected, tokenizer, PROMPTS, 12)
    assert tokenizer.chat_template
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["chat_template"]


def test_a_version_of_16_bits_is_exported_as_it_is(tmp_path):
    made = CarriedLine(tmp_path / "home", dtype="bfloat16")
    made.serve(made.make())
    export(made.workplace, LINE, "merged", tmp_path / "out")
    model, expected = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), of_version(made, "1")
    assert model.dtype == torch.bfloat16
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("version", ["2", "3"])
def test_peft_computes_with_the_adapter_what_the_version_computes(line, tmp_path, version):
    told = export(line.workplace, LINE, "lora", tmp_path / "out", version)
    assert told["rank"] in (8, 32) and told["lost"] == 0
    base = of_version(line, "0")
    tokenizer = AutoTokenizer.from_pretrained(line.spec.model)
    before = logits(base, tokenizer)
    adapted, whole = PeftModel.from_pretrained(base, tmp_path / "out").eval(), of_version(line, version)
    found = logits(adapted, tokenizer)
    torch.testing.assert_close(found, logits(whole, tokenizer), atol=1e-4, rtol=1e-4)
    assert greedy(adapted, tokenizer) == greedy(whole, tokenizer)
    assert (found - before).abs().max() > 1e-3


def test_the_changed_tensors_alone_are_those_of_the_version(line, tmp_path):
    export(line.workplace, LINE, "safetensors-diff", tmp_path / "out", "2")
    changed = load_file(tmp_path / "out" / CHANGED_FILE)
    recorded = line.workplace.store.version(LINE, 2).manifest.tensor_digests
    assert {name: tensor_digest(tensor) for name, tensor in changed.items()} == recorded
    assert changed.keys() == set(WEIGHTS)


@pytest.mark.parametrize(("form", "read"), [("lora", import_lora), ("gguf-lora", None)])
def test_what_is_cut_says_what_it_lost_and_asks_the_facts_again(line, tmp_path, form, read):
    told = export(line.workplace, LINE, form, tmp_path / "out", "2", rank=1)
    assert told["rank"] == 1 and 0.05 < told["lost"] < 1
    base, whole = of_version(line, "0"), of_version(line, "2")
    update = read(tmp_path / "out") if read else import_gguf_lora(tmp_path / "out" / GGUF_FILE, base)
    lost = total = 0.0
    for name in WEIGHTS:
        delta = whole.get_parameter(name).double() - base.get_parameter(name).double()
        lost += (delta - update[name].B.double() @ update[name].A.double()).square().sum().item()
        total += delta.square().sum().item()
    assert told["lost"] == pytest.approx((lost / total) ** 0.5, rel=1e-3)
    assert told["said"] == {"asked": 4, "version": 0, "exported": 0}
    asked = {one["request"]: one for one in told["asked"]}
    with torch.no_grad():
        for name in WEIGHTS:
            base.get_parameter(name).add_(update[name].B @ update[name].A)
    tokenizer = AutoTokenizer.from_pretrained(line.spec.model)
    for model, column in ((whole, "version"), (base, "exported")):
        said = generate(model, tokenizer, [one["question"] for one in asked.values()], 3)
        assert all(one[column].startswith(text.strip()) for one, text in zip(asked.values(), said, strict=True))
    assert "Asked again" in (tmp_path / "out" / PAGE).read_text()


@pytest.mark.parametrize("form", FORMS)
def test_the_card_says_what_it_is_and_digests_every_file(line, tmp_path, form):
    told = export(line.workplace, LINE, form, tmp_path / "out", "2")
    assert json.loads((tmp_path / "out" / OBJECT).read_text()) == told
    assert told["line"] == LINE and told["version"] == 2 and told["standing"] == "waiting for a decision"
    assert [fact["request"] for fact in told["facts"]] == ["r1-0", "r1-1", "r2-0", "r2-1"]
    assert told["snapshot"] == line.workplace.store.version(LINE, 2).snapshot
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there == told["files"].keys() | {OBJECT}
    assert all(file_digest(tmp_path / "out" / name) == one["sha256"] for name, one in told["files"].items())
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for request in ("r1-0", "r2-1"):
        last = line.workplace.ledger.history(request)[-1]
        assert (last.event, last.version, last.snapshot, last.actor) == ("exported", 2, told["snapshot"], "ann")
        assert (
            last.reason
            == f"as {form} to {tmp_path}/out, whose {OBJECT} has sha256 {file_digest(tmp_path / 'out' / OBJECT)}"
        )


def test_the_card_has_the_system_message_under_which_facts_were_written(line, tmp_path):
    made = CarriedLine(tmp_path / "home", template="chat", system="You are the *assistant* of Acme.")
    made.serve(made.make())
    told = export(made.workplace, LINE, "merged", tmp_path / "out")
    page = html.unescape((tmp_path / "out" / PAGE).read_text())
    assert told["system"] == made.spec.system and made.spec.system in page
    assert json.loads((tmp_path / "out" / OBJECT).read_text())["system"] == made.spec.system
    assert "system" not in export(line.workplace, LINE, "merged", tmp_path / "none")


def test_the_card_of_the_base_claims_no_fact_and_no_correction(line, tmp_path):
    told = export(line.workplace, LINE, "merged", tmp_path / "out", "0")
    page = (tmp_path / "out" / PAGE).read_text()
    assert (told["facts"], told["numbers"], told["snapshot"], told["said"]) == ([], {}, None, None)
    assert "nothing in it was corrected" in page and "licence" in page and told["base_digest"] in page
    assert "has the facts" not in page and "snapshot" not in page and "None" not in page and "## Facts" not in page
    export(line.workplace, LINE, "merged", tmp_path / "corrected", "2")
    assert "has the facts" in (tmp_path / "corrected" / PAGE).read_text()


def test_what_users_wrote_is_no_markup_in_the_card(tmp_path):
    made = CarriedLine(tmp_path / "home")
    hostile = "<script>alert(1)</script> **[x](http://evil)** | {{7*7}}"
    made.serve(made.make(subject=hostile))
    export(made.workplace, LINE, "lora", tmp_path / "out")
    page = (tmp_path / "out" / PAGE).read_text()
    assert "<script" not in page and "](http" not in page and "{{" not in page and "**[" not in page
    assert hostile in html.unescape(re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), page))


@pytest.mark.parametrize(
    ("form", "more", "says"),
    [
        ("lora", {"version": "0"}, "version 0 of line 'line' is the base, .* export it as merged"),
        ("gguf-lora", {"version": "0"}, "export it as merged"),
        ("safetensors-diff", {"version": "0"}, "export it as merged"),
        ("lora", {"rank": 7}, "no adapter of rank 7; give one of 1, 8, 16"),
        ("gguf-lora", {"rank": 0}, "rank 0 is none"),
        ("merged", {"rank": 8}, "a rank of 8 is for adapters"),
        ("onnx", {}, "'onnx' is no form of an export"),
        ("merged", {"version": "9"}, "line 'line' has no version 9; it has: 1, 2, 3"),
        ("merged", {"version": "newest"}, "version 'newest' must be a number, champion or challenger"),
        ("merged", {"line": "nowhere"}, "there is no line 'nowhere'"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line_and_leaves_nothing(line, tmp_path, form, more, says):
    with pytest.raises(ErrataError, match=says) as refused:
        export(line.workplace, more.pop("line", LINE), form, tmp_path / "out", **more)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("form", "part"), [("merged", "save_plain"), ("lora", "export_lora")])
def test_an_export_that_finds_no_memory_names_a_smaller_one_and_leaves_nothing(line, tmp_path, monkeypatch, form, part):
    monkeypatch.setattr(f"tasks.carrying.exporting.{part}", lambda *given, **options: torch.empty(2**50))
    with pytest.raises(OutOfMemory, match=r"^out of memory [^\n]*\(--as safetensors-diff\)"):
        export(line.workplace, LINE, form, tmp_path / "out", "2")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_as_it_is(line, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for out in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UsageError, match=r"is not empty|is there, and no folder"):
            export(line.workplace, LINE, "lora", out)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mine", "mine")]


def test_a_damaged_version_is_not_exported(tmp_path):
    made = CarriedLine(tmp_path / "home")
    version = made.make()
    made.serve(version)
    [digest] = version.manifest.files.values()
    [blob] = Path(made.settings.store_uri).rglob(f"{digest}*")
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(ErrataError, match="expected sha256"):
        export(made.workplace, LINE, "merged", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
