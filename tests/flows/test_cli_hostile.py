"""Text that is no text for a terminal, in every field through every command: shown harmlessly, and no command dies."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.console import plain
from tests.costs import some
from tests.flows.command import check_one_line, environment
from tests.flows.test_cli_journey import SET

pytestmark = pytest.mark.slow

HOSTILE = {
    "markup": "[/INST] [bold]x[/bold] [red] :smile:",
    "formats": "{0} {x!r} %s %(a)s $HOME ${x} \\N \\ {{7*7}} {%x%} =1+1",
    "escapes": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J",
    "controls": "a\tb\rc\nd\x0be\x0cf",
    "directions": "abc\u202edcba\u2066x\u2069",
    "quotes": "'\"`; DROP TABLE events; -- '' \"\" <script>alert(1)</script> & | > /dev/null",
    "emoji": "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0645\u0631\u062d\u0628\u0627 \u6cd5\u56fd",
    "half": "half \udcff pair",
    "long": "long " * 1000,
}
STEERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no command may send to a terminal: control characters but line ends, directions, half pairs."""


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_shown_text_is_one_harmless_line(text):
    shown = plain(text)
    assert not STEERS.search(shown) and "\n" not in shown and shown.encode()
    assert plain(shown) == shown


def test_a_text_that_is_harmless_is_shown_as_it_is():
    for kind in ("markup", "formats", "quotes", "emoji"):
        assert plain(HOSTILE[kind]) == HOSTILE[kind]


def test_commands_print_by_the_console_alone():
    folder = Path(__file__).resolve().parents[2] / "flows" / "cli"
    for file in folder.glob("*.py"):
        written = file.read_text()
        assert "from_markup" not in written and "[/]" not in written, f"{file.name} writes markup"
        if file.name not in ("console.py", "live.py"):  # the latter prints the former's lines
            allowed = written.replace("print(what, file=parent)", "")
            assert not re.search(r"\bprint\(", allowed), f"{file.name} prints past flows.cli.console"


def harmless(ran, code: int | None = None):
    """It ended by itself, in a sentence where it refuses, and steers no terminal."""
    assert "Traceback" not in ran.out + ran.err, ran.err
    assert not STEERS.search(ran.out + ran.err), (ran.out, ran.err)
    if ran.code:
        check_one_line(ran, ran.code, "")
    assert code is None or ran.code == code, ran.err
    return ran


def _record(edit, kind: str, text: str) -> dict[str, object]:
    """A good edit with the text in every field that can bear it."""
    short = text[:30]  # the model reads 128 tokens, and most of these are bytes
    made = edit.model_dump(mode="json") | {"id": f"{kind} {short}", "target_true": f"{edit.target_true} {short}"}
    made["paraphrases"] = [*edit.paraphrases, f"{short} {edit.text}"]
    made["aliases"] = [f"it {short}"]
    made["neighborhood"] = [*made["neighborhood"], {"prompt": f"What of {short}", "answer": f"it {short}"}]
    return made


@pytest.mark.parametrize("kind", some(HOSTILE, ("markup", "escapes", "half", "long")))
def test_no_command_dies_of_what_is_given_to_it(errata, tmp_path, monkeypatch, kind):
    """Each kind goes through the fields of a request and a job below."""
    monkeypatch.chdir(tmp_path)
    text = HOSTILE[kind]
    fields = ("--id", text, "--true", text, "--paraphrase", text, "--neighbor", f"{text} => {text}")
    fields += ("--alias", text, "--question", f"{text} {{}}")
    harmless(errata("submit", "--subject", text, "--prompt", f"{text} {{}}", "--target", text, *fields))
    harmless(errata("submit", "--subject", "Ada", "--prompt", "{} was born in", "--target", "Rome", *fields))
    harmless(errata("submit", f"{text[:100]}.jsonl"), 2)
    harmless(errata("submit", "--line", text, "--subject", "A", "--prompt", "{} is", "--target", "b"), 2)
    for command in ("run", "review", "approve", "rollback", "status"):
        harmless(errata(command, text), 2)
    harmless(errata("reject", text, "--reason", text), 2)
    harmless(errata("reject", "--reason", text), 2)
    harmless(errata("history", text))
    harmless(errata("history", f"no {text}"))
    harmless(errata("history"), 0)
    harmless(errata("status"), 0)
    harmless(errata("run", "--set", f"min_efficacy={text}"), 2)
    harmless(errata("run", "-o", f"layers={text}"), 2)
    harmless(errata("run", "--method", text), 2)
    harmless(errata("run", "--hypernetwork", text))
    harmless(errata("trial", "--method", text), 2)
    harmless(errata(text), 2)
    harmless(errata("run", f"--{text}"), 2)


@pytest.mark.parametrize("command", ["run", "trial", "train-mend"])
def test_a_name_that_is_no_text_is_refused_before_any_work(errata, tmp_path, fact_model_path, command):
    """Such a file may well be there, and what Prefect is given has to be UTF-8."""
    model, file = tmp_path / "model \udcff", tmp_path / "requests \udcff.jsonl"
    shutil.copytree(fact_model_path, model)
    records = [{"subject": f"Ada {n}", "prompt": "{} lives in", "target_new": "Rome"} for n in range(40)]
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    given = {"run": (), "trial": (file,), "train-mend": (file,)}[command]
    ran = harmless(errata(command, *given, "--model", model), 2)
    assert "holds bytes that are no UTF-8: write it, or rename" in ran.err, ran.err


@pytest.mark.slow
def test_hostile_requests_go_from_file_to_service_and_back(errata, place, good_edits, tmp_path, monkeypatch):
    place("hostile")
    monkeypatch.setenv("ERRATA_ACTOR", "[/INST] \x1b[31mmallory\u202e %s {}")
    records = [_record(edit, kind, text) for edit, (kind, text) in zip(good_edits, HOSTILE.items(), strict=False)]
    file = tmp_path / "[bold] {} %s.json"
    file.write_text(json.dumps(records))
    read = harmless(errata("submit", file, "--dry-run", "--json"), 0).json
    assert read["good"] + read["bad"] == len(read["records"]) == len(records) and read["good"] >= 4
    harmless(errata("submit", file, "--dry-run"), 0)
    queued = harmless(errata("submit", file, "--line", "hostile", "--json"), 0).json["queued"]
    assert len(queued) == read["good"]
    for command in (("submit", file, "--line", "hostile"), ("trial", "--line", "hostile", "--limit", "3"), ("doctor",)):
        harmless(errata(*command))
    strict = ("--set", "max_perplexity_ratio=1.0000001")  # hardly any batch passes: notes of what is undone
    harmless(errata("run", "hostile", *SET, *strict, "--limit", "2"), 0)
    harmless(errata("run", "hostile", *SET), 0)
    reason = "".join(text for kind, text in HOSTILE.items() if kind not in ("long", "half"))
    for command in (
        ("status",), ("review", "hostile"),
        ("approve", "hostile", "--reason", reason), ("history", "--line", "hostile"),
        ("history", queued[0], "--line", "hostile"),
        ("ask", "[/INST] \x1b[31m{} %s\u202e", "--line", "hostile", "--tokens", "2"),
        ("rollback", "hostile", "--reason", reason), ("status", "hostile"),
    ):  # fmt: skip
        harmless(errata(*command), 0)


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
                                       {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])  # fmt: skip
def test_what_cannot_be_shown_is_replaced(tmp_path, variables):
    script = "\n".join([
        "import sys",
        "from flows.cli.main import main, app",
        "from flows.cli.console import say, table, as_json",
        "def show(): say('a \\u2192 b'); table('\\u2192', ['\\u2026'], [['\\u6cd5']]); as_json('\\u2192')",
        "app.command('show')(show)",
        "sys.argv = ['errata', 'show']; main()",
    ])  # fmt: skip
    env = environment(tmp_path, **variables)
    ran = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert b"a ? b" in ran.stdout and b'"\\u2192"' in ran.stdout
