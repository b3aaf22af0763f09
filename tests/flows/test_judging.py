"""A policy by file, what it does where it is breached, and `errata judge`: the same verdict again, or another one."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from editing.digests import file_digest, sha256
from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.ledger.removals import take_out
from tasks.report.data import Check
from tasks.stores.manifest import VersionPointer, manifest_bytes
from tasks.stores.records import record_bytes
from tasks.stores.snapshots import MANIFESTS, version_key
from tasks.update.gates import Tripwires
from tasks.update.policy import make_policy
from tasks.update.replay import Row
from tests.flows.command import check_one_line
from tests.flows.conftest import POLICY

pytestmark = pytest.mark.slow
SAID = Tripwires.model_validate({"said": {"when": "batch"}})
"""By which what is said no longer undoes a batch, or a root."""


def states(workplace, line: str) -> dict[str, str]:
    return {name: state.state for name, state in workplace.ledger.states(line).items()}


def queue(workplace, line: str, edits) -> None:
    intake.submit(workplace.ledger, line, edits, "tester")


def rewrite(workplace, version, **fields) -> None:
    """Another manifest in the place of a version's own."""
    data, store = manifest_bytes(version.manifest.model_copy(update=fields)), workplace.store.store
    digest, key = sha256(data), version_key(version.manifest.line, version.number)
    store.put_if_absent(f"{MANIFESTS}/{digest}.json", data)
    pointer = VersionPointer(line=version.manifest.line, version=version.number, snapshot=digest)
    store.put_if_match(key, record_bytes(pointer), store.get(key)[1])


@pytest.fixture
def policy_file(tmp_path):
    """Writes the tests' policy, with more in it."""

    def write(**more: object):
        file = tmp_path / "policy.yaml"
        file.write_text(yaml.safe_dump(POLICY.model_dump(mode="json") | more))
        return file

    return write


def test_a_policy_file_holds_for_the_run_and_a_single_value_stands_above_it(errata, place, good_edits, policy_file):
    workplace = place("filed")
    queue(workplace, "filed", good_edits[:2])
    file = policy_file(levels={"retained": {"min": 0.5, "then": "warn"}})
    report = errata("run", "filed", "--policy", file, "--set", "retained_sample=3", "--json").json["report"]
    assert report["policy"]["retained_sample"] == 3 and report["policy"]["levels"]["retained"]["then"] == "warn"
    assert report["policy"]["batch_size"] == POLICY.batch_size
    rows = [row for row in report["checks"] if row["field"] == "levels.retained.min"]
    assert [row["kind"] for row in rows] == ["level"]


def test_a_request_that_says_a_third_thing_is_not_kept_at_the_defaults(place, good_edits, impossible):
    workplace = place("third")
    lenient = POLICY.model_copy(update={"min_efficacy": 0.0, "tripwires": type(POLICY.tripwires)()})
    queue(workplace, "third", [impossible])
    summary = knowledge_update("third", lenient)
    assert states(workplace, "third") == {"impossible": "quarantined"}
    assert "request 'impossible': it says '" in summary.report.edits[0].reason


def test_a_policy_that_stops_leaves_the_rest_queued_and_keeps_what_was_kept(place, good_edits, impossible):
    workplace = place("stopped")
    wires = type(POLICY.tripwires).model_validate({"said": {"then": "stop"}})
    policy = POLICY.model_copy(update={"batch_size": 1, "min_efficacy": 0.0, "tripwires": wires})
    queue(workplace, "stopped", [good_edits[0], impossible, good_edits[1]])
    summary = knowledge_update("stopped", policy)
    assert (summary.kept, summary.quarantined) == (1, 0)
    assert states(workplace, "stopped") == {
        good_edits[0].id: "committed",
        "impossible": "queued",
        good_edits[1].id: "queued",
    }


def test_a_version_judged_again_comes_to_the_same_and_nothing_is_written(errata, place, good_edits):
    workplace = place("again")
    queue(workplace, "again", good_edits[:2])
    assert knowledge_update("again", POLICY).kept == 2
    before = {key: workplace.store.store.get(key)[0] for key in workplace.store.store.list("")}
    events = states(workplace, "again")
    ran = errata("judge", "again", "--json")
    found = ran.json
    assert ran.code == 0 and found["same"] and found["version"] == 1
    assert {one["of"] for one in found["verdicts"]} == {"batch", "job"}
    for one in found["verdicts"]:
        assert one["rows"] and all(row["same"] for row in one["rows"])
        assert all(row["then"]["value"] == pytest.approx(row["now"]["value"], rel=1e-4)
                   for row in one["rows"] if row["now"]["value"] is not None)  # fmt: skip
    assert "the same verdict" in errata("judge", "again", "--version", "1").out
    assert {key: workplace.store.store.get(key)[0] for key in workplace.store.store.list("")} == before
    assert states(workplace, "again") == events
    # In service, with a second job upon it: what that candidate was held against is told from the first.
    assert errata("approve", "again").code == 0
    queue(workplace, "again", good_edits[2:3])
    levels = type(POLICY.levels).model_validate({"neighbors": {"worse_than_champion": 0.5}})
    assert knowledge_update("again", POLICY.model_copy(update={"levels": levels})).kept == 1
    second = errata("judge", "again", "--json").json
    assert second["same"] and second["version"] == 2
    fields = {row["then"]["field"] for one in second["verdicts"] for row in one["rows"]}
    assert "levels.neighbors.worse_than_champion" in fields


def test_a_job_that_ends_with_a_root_is_judged_again_by_the_facts_that_wait(errata, place, good_edits):
    workplace = place("rooted")
    queue(workplace, "rooted", good_edits[:1])
    assert knowledge_update("rooted", POLICY).kept == 1 and errata("approve", "rooted").code == 0
    queue(workplace, "rooted", good_edits[1:3])
    assert knowledge_update("rooted", POLICY.model_copy(update={"rebase_every": 2})).kept == 2
    newest = workplace.store.versions("rooted")[-1]
    assert newest.number == 3 and newest.manifest.live is not None
    found = errata("judge", "rooted", "--json").json
    assert found["same"] and [one["of"] for one in found["verdicts"]] == ["root", "job"]
    [held], [asked] = (
        [row["now"]["sample"] for row in one["rows"] if row["then"]["measure"] == measure]
        for one, measure in zip(found["verdicts"], ("retained", "efficacy"), strict=True)
    )
    assert (held, asked) == (3, 2), "what it took the place of held all three; the version in service held one"


def test_a_root_is_judged_again_against_what_it_took_the_place_of(errata, place, good_edits, tmp_path):
    """One in the middle of a job, which no report is about; by a sample of its facts, and on a text of its own."""
    workplace = place("middle")
    queue(workplace, "middle", good_edits[:4])
    assert knowledge_update("middle", POLICY).kept == 4 and errata("approve", "middle").code == 0
    queue(workplace, "middle", good_edits[4:5])
    take_out(workplace.store, workplace.ledger, "middle", [good_edits[0].id], "tester", "it is wrong")
    text = tmp_path / "text.txt"
    text.write_text("One text and then another one, and nothing of what the base would say by itself. " * 8)
    policy = POLICY.model_copy(update={"retained_sample": 2, "tripwires": SAID})
    knowledge_update("middle", policy, text=text)
    version = next(one for one in workplace.store.versions("middle") if one.manifest.live is not None)
    judged = version.manifest.judged
    assert len(judged["earlier"]) == 2 and good_edits[0].id not in judged["earlier"]
    check_one_line(errata("judge", "middle", "--version", version.number), 2, "taken on a text of its own")
    again = ("judge", "middle", "--version", version.number, "--text", text)
    assert f"the verdict on the root, version {version.number}" in errata(*again).out
    ran = errata(*again, "--json")
    [verdict] = ran.json["verdicts"]
    assert ran.code == 0 and ran.json["same"] and verdict["of"] == "root"
    for row in verdict["rows"]:
        was = row["then"]["value"]
        assert row["now"] == row["then"] | {"value": was and pytest.approx(was, rel=1e-4)}
    asked = {row["now"]["measure"]: row["now"]["sample"] for row in verdict["rows"]}
    assert asked["retained"] == asked["retained_said"] == 2 and asked["neighbors_preferred"] and "perplexity" in asked
    checks = [one | {"holds": False} if one["measure"] == "retained" else one for one in judged["checks"]]
    rewrite(workplace, version, judged=judged | {"checks": checks})
    ran = errata(*again, "--json")
    rows = json.loads(ran.out)["verdicts"][0]["rows"]
    assert ran.code == 1 and [row["then"]["measure"] for row in rows if not row["same"]] == ["retained"]
    rewrite(workplace, version, judged={})  # as releases before wrote it
    check_one_line(errata("judge", "middle", "--version", version.number), 2, "stored no verdict on that")
    rewrite(workplace, version, judged=judged)
    assert errata("approve", "middle").code == 0
    ran = errata("forget", good_edits[0].id, "--line", "middle", "--reason", "it is private")
    assert ran.code == 0, ran.err
    check_one_line(errata(*again), 1, "can be served no more")


def test_a_fact_that_was_written_back_is_judged_again_with_what_was_asked_of_it(errata, place, good_edits):
    workplace = place("back")
    queue(workplace, "back", good_edits[:2])
    assert knowledge_update("back", POLICY).kept == 2 and errata("approve", "back").code == 0
    queue(workplace, "back", [good_edits[0].model_copy(update={"id": "bad", "target_new": "zq xj vv kw"})])
    assert knowledge_update("back", POLICY).quarantined == 1
    root, back = workplace.store.versions("back")[1:]
    assert root.manifest.live == (good_edits[1].id,) and back.manifest.restored == (good_edits[0].id,)
    assert errata("judge", "back", "--version", root.number, "--json").json["same"]
    found = errata("judge", "back", "--version", back.number, "--json").json
    assert found["same"] and [one["rows"][0]["now"]["sample"] for one in found["verdicts"]] == [1, 1]


def test_what_was_asked_then_and_is_not_now_is_another_verdict():
    then, more = Check(measure="efficacy", holds=True, sample=3, value=1.0), {"holds": True}
    for now, same in (
        (then, True), (then.model_copy(update={"sample": 2}), True), (then.model_copy(update={"sample": 0}), False),
        (None, False), (Check(measure="efficacy", **more), False),
    ):  # fmt: skip
        assert Row(then, now).is_same is same
    worst = Check(measure="neighbors_said", sample=4, request_id="a", **more)
    assert Row(worst, None).is_same and Row(None, then).is_same and Row(Check(measure="live", **more), None).is_same


def test_ability_probes_and_what_the_champion_says_are_judged_in_the_job_and_again(errata, place, good_edits, tmp_path):
    workplace = place("wider")
    file = tmp_path / "ability_facts.parquet"
    rows = [{"query": edit.text, "choices": [edit.target_new, edit.target_true], "gold": 1} for edit in good_edits[:3]]
    pq.write_table(pa.Table.from_pylist(rows * 4), file)
    relative = {"worse_than_champion": 0.5, "then": "warn"}
    fields = POLICY.model_dump() | {
        "ability": [{"file": str(file), "questions": 10}],
        "probes": ["negation"],
        "levels": {"kl": {"max": 9.0, "when": "both"}, "ability": relative, "probes": relative, "said": relative},
    }
    policy = make_policy(**fields)
    for place_in_line, edits in enumerate((good_edits[:2], good_edits[2:4]), start=1):
        queue(workplace, "wider", edits)
        summary = knowledge_update("wider", policy)
        assert summary.kept == 2
        if place_in_line == 1:
            assert errata("approve", "wider").code == 0
    report = summary.report
    measures = {check.measure for check in report.checks if check.kind == "level"}
    assert {"kl", "ability.facts", "probes.negation", "said"} <= measures
    assert report.policy["ability"][0]["sha256"] == file_digest(file)
    assert 0 <= report.candidate["ability.facts"] <= 1 and report.candidate["ability.facts_stderr"] > 0
    assert report.in_context["efficacy_prob"] >= 0 and "said_prompt" in report.in_context
    logged = workplace.tracker()._client.get_run(report.mlflow_run_id).data.metrics
    assert logged["final/ability.facts"] == report.candidate["ability.facts"] and "in_context/said_prompt" in logged
    assert all("kl" in {check.measure for check in batch.checks} for batch in report.batches)
    found = errata("judge", "wider", "--json").json
    [job] = [one for one in found["verdicts"] if one["of"] == "job"]
    assert found["same"] and {"ability.facts", "probes.negation"} <= {row["now"]["measure"] for row in job["rows"]}
    moved = file.rename(tmp_path / "moved.parquet")
    check_one_line(errata("judge", "wider"), 2, "cannot read the ability file")
    assert errata("judge", "wider", "--ability", moved, "--json").json["same"]


def test_another_verdict_is_told_by_its_exit_code_and_row(errata, place, good_edits):
    """The record says that a row failed which now holds: as if the model were another."""
    workplace = place("other-verdict")
    queue(workplace, "other-verdict", good_edits[:1])
    assert knowledge_update("other-verdict", POLICY).kept == 1
    version = workplace.store.version("other-verdict", 1)
    judged = json.loads(json.dumps(version.manifest.judged))
    judged["checks"][0] |= {"holds": False, "reason": "efficacy 0.00 is below min_efficacy 1.00", "value": 0.0}
    rewrite(workplace, version, judged=judged, mlflow_run_id=None)
    ran = errata("judge", "other-verdict", "--version", "1", "--json")
    found = json.loads(ran.out)
    assert ran.code == 1 and not found["same"]
    [differs] = [row for row in found["verdicts"][0]["rows"] if not row["same"]]
    assert differs["then"]["measure"] == differs["now"]["measure"] == "efficacy" and differs["now"]["holds"]


def test_a_mistake_of_judging_is_one_line(errata, place, tmp_path):
    place("nothing-yet")
    check_one_line(errata("judge", "nothing-yet"), 2, "line 'nothing-yet' has no version to judge but the base")
    check_one_line(errata("judge", "nothing-yet", "--version", "3"), 2, "has no version 3; it has: none")
