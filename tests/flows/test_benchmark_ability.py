"""A benchmark with questions of general ability, on the fact model: what it reports, what it keeps, what it refuses."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from editing.errors import ReadError, UsageError
from editing.measure.perplexity import Perplexity
from editing.measure.scoring import score
from editing.weights import Factors
from flows.benchmark_ability import at_point, compared_perplexity, measure_ability, read_sets
from tasks.lines.specs import LineSpec
from tasks.progress import listening
from tasks.settings import Settings
from tasks.update import ability
from tasks.update.session import Session, open_session
from tests.fact_model import FACT_TEXT, FACTS, fact_edits
from tests.flows.command import Errata, check_one_line
from tests.flows.conftest import METHOD
from tests.heard import Heard

EDITS = fact_edits(3)
EDITED = [(edit.text, edit.target_true, edit.target_new) for edit in EDITS]
OTHERS = [
    (fact.prompts()[0], fact.answer)
    for fact in FACTS
    if fact.subject not in {edit.subject for edit in EDITS} and fact.relation.templates[0] == EDITS[0].prompt
][:9]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """What was edited as texts to be said, and as a choice of old and new; facts that were not as texts to be said."""
    folder = tmp_path_factory.mktemp("ability")
    rows: dict[str, list[dict[str, Any]]] = {
        "said": [{"context": text, "continuation": old} for text, old, _ in EDITED],
        "others": [{"text": f"{text} {answer}"} for text, answer in OTHERS],
        "chosen": [{"query": text, "choices": [old, new], "gold": 0} for text, old, new in EDITED],
    }
    for name, some in rows.items():
        pq.write_table(pa.Table.from_pylist(some), folder / f"{name}.parquet")
    return [folder / f"{name}.parquet" for name in rows]


@pytest.fixture
def opened(shared_places) -> Callable[[], Session]:
    spec = LineSpec(line="asked", model=shared_places["ERRATA_MODEL"])
    settings = Settings(cache=Path(shared_places["ERRATA_CACHE"]))
    return lambda: open_session(spec, settings, only_asked=True)


def write(session: Session) -> None:
    """Something that changes what the model says."""
    name = session.method_input.layout.weight_name(1)
    m, d = session.method_input.layout.oriented(session.loaded.model.get_parameter(name)).shape
    generator = torch.Generator().manual_seed(0)
    B, A = (torch.randn(shape, generator=generator) for shape in ((m, 4), (4, d)))
    session.weights.apply({name: Factors(10 * B, A)})


def plain_acc(session: Session) -> float:
    said = score(session.loaded.model, session.loaded.tokenizer, [(text, old) for text, old, _ in EDITED])
    return sum(one.argmax for one in said) / len(said)


@pytest.mark.slow
def test_the_base_is_asked_as_it_is_and_only_once(opened, files, monkeypatch):
    monkeypatch.setattr(ability, "QUESTIONS_AT_ONCE", 2)
    sets = read_sets(files, "sequential", 6, 0)
    found, told, texts = [], [], FACT_TEXT[1:]  # of which no other test's session keeps the base's states
    for session in (opened(), opened()):
        before, listener = plain_acc(session), Heard()
        write(session)
        after = plain_acc(session)
        with listening(listener):
            found.append(measure_ability(session, sets, texts))
        said = found[-1]["ability"]["said"]
        assert (said["before"], said["after"]) == (before, after) and before != after
        assert plain_acc(session) == after  # the edit stands as before
        told.append(listener.told)
    assert found[0] == found[1] and found[0]["kl"]["mean"] > 0.1
    of_the_base = {"said of the base", "others of the base", "chosen of the base", "next tokens of the base"}
    now = {"said", "others", "chosen", "next tokens"}
    assert {what for what, _, _ in told[0]} == of_the_base | now
    assert {what for what, _, _ in told[1]} == now
    assert [done for what, done, _ in told[0] if what == "others of the base"][-1] == 6
    assert measure_ability(session, [], texts) == {"kl": found[1]["kl"]}


@pytest.mark.slow
def test_a_benchmark_reports_ability_and_divergence(errata: Errata, files, tmp_path):
    (tmp_path / "data.jsonl").write_text("\n".join(edit.model_dump_json() for edit in EDITS))
    (tmp_path / "text.txt").write_text("\n".join(FACT_TEXT))
    sets = [part for path in files for part in ("--ability", path)]
    method = [part for name, value in METHOD.items() for part in ("--option", f"{name}={json.dumps(value)}")]
    asked = ("--text", tmp_path / "text.txt", "--ability-limit", 6, "--out", tmp_path / "out", *method, *sets)
    shown = errata("benchmark", tmp_path / "data.jsonl", *asked)
    assert shown.code == 0, shown.err
    result = json.loads((tmp_path / "out/result.json").read_text())
    said, others, chosen = (result["ability"][name] for name in ("said", "others", "chosen"))
    assert (said["form"], others["form"], chosen["form"]) == ("LAMBADA", "LAMBADA", "multiple choice")
    assert (said["questions"], others["questions"], others["rows"]) == (3, 6, len(OTHERS))
    # The fact model knows its facts, and edits overwrite them.
    assert (said["before"], said["after"], said["difference"]) == (1.0, 0.0, -1.0)
    assert said["stderr"] == {"before": 0.0, "after": 0.0, "difference": 0.0}
    assert said["perplexity"]["after"] > 2 * said["perplexity"]["before"]
    assert others["before"] == 1.0 and others["after"] > 0.0
    assert chosen["acc_norm"].keys() == {"before", "after", "difference", "stderr"}
    assert result["kl"]["mean"] > 1e-4 and result["kl"]["positions"] > 500 and 0 < result["kl"]["same_top"] < 1
    assert "general ability" in shown.out and "acc_norm" in shown.out and "-100.0 ± 0.0" in shown.out
    assert "KL from the base" in shown.out


def test_a_perplexity_has_the_error_of_its_blocks_and_their_ratio_that_of_their_differences():
    then, now = (2.0, 3.0, 4.0, 3.0), (2.1, 3.3, 4.2, 3.4)
    found = compared_perplexity(Perplexity(math.exp(3.0), then), Perplexity(math.exp(3.25), now))
    assert found["ratio"] == pytest.approx(math.exp(0.25))
    # By hand: the blocks vary by sqrt(2/3), their differences (0.1, 0.3, 0.2, 0.4) by sqrt(0.05/3).
    assert found["stderr"]["before"] == pytest.approx(math.exp(3.0) * math.sqrt(2 / 3) / 2)
    assert found["stderr"]["ratio"] == pytest.approx(math.exp(0.25) * math.sqrt(0.05 / 3) / 2)
    assert compared_perplexity(20.0, 25.0)["stderr"] == {"before": None, "after": None, "ratio": None}


def test_what_cannot_be_measured_is_refused_before_anything_begins(files, tmp_path):
    with pytest.raises(UsageError, match="in mode independent there are many; choose another --mode"):
        read_sets(files, "independent", None, 0)
    other = tmp_path / files[0].name
    other.write_bytes(files[0].read_bytes())
    with pytest.raises(UsageError, match="two files of --ability are named 'said'; rename one"):
        read_sets([*files, other], "sequential", None, 0)
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "edits.parquet")
    with pytest.raises(ReadError, match=r"'edits' is no set of questions that is known: its columns are prompt; give"):
        read_sets([tmp_path / "edits.parquet"], "sequential", None, 0)
    with pytest.raises(ReadError, match=r"none\.parquet"):
        read_sets([tmp_path / "none.parquet"], "sequential", None, 0)


def test_what_the_last_checkpoint_measured_is_not_measured_again():
    curve = [{"edits": 2, "ability": {"a": 1}, "kl": {"mean": 1}}, {"edits": 4, "ability": {"a": 2}, "kl": {"mean": 2}}]
    assert at_point(curve, 4) == {"ability": {"a": 2}, "kl": {"mean": 2}}
    assert at_point(curve, 5) == at_point([], 5) == at_point([{"edits": 5}], 5) == {}


def test_the_command_refuses_a_file_that_is_no_set_in_one_line(errata: Errata, files, tmp_path):
    (tmp_path / "data.jsonl").write_text(EDITS[0].model_dump_json())
    asked = ("benchmark", tmp_path / "data.jsonl", "--out", tmp_path / "out", "--ability")
    check_one_line(errata(*asked, tmp_path / "none.parquet"), 2, "none.parquet")
    check_one_line(errata(*asked, tmp_path / "data.jsonl"), 2, "data.jsonl")
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "edits.parquet")
    check_one_line(errata(*asked, tmp_path / "edits.parquet"), 2, "'edits' is no set of questions that is known")
    assert not (tmp_path / "out").exists()
