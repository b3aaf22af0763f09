"""Decisions by every way end in one place: the first wins, the second is told of it, and repeating is no error."""

import contextlib
import shutil
import threading
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from pydantic import SecretStr

from editing.errors import UsageError
from tasks.keeping.forgetting import forget
from tasks.ledger.removals import take_out
from tasks.ledger.reserved import REFUSE, RETRACT
from tasks.ledger.view import look
from tasks.lines.rules import freeze, set_rules, unfreeze
from tasks.review import decisions, telling
from tasks.review.decided import By
from tasks.review.decisions import AlreadyDecided
from tasks.review.pending import ANSWER, COMMENT, carry_out
from tasks.review.queue import carry_out_verdicts
from tasks.review.retracting import leave_out, retract
from tasks.review.telling import DECISION
from tasks.stores.errors import HeadMoved
from tasks.stores.snapshots import SnapshotStore
from tasks.text import REASON_LENGTH
from tasks.tracking.errors import TrackingError
from tasks.tracking.review_queue import Vote, authenticates
from tasks.tracking.webhooks import ensure_webhook

FORM = By("bob", "Prefect's form")
PASSED = {"measure": "efficacy", "value": 1.0, "limit": 1.0, "holds": True, "sample": 1}


@pytest.mark.slow
def test_who_comes_second_is_told_who_was_first_when_how_and_why(line):
    decisions.reject(line.workplace, line.name, 2, "wrong source", FORM)
    with pytest.raises(
        AlreadyDecided, match=r"version 2 .* was rejected by bob at \d{4}-.* UTC \(Prefect's form\): wrong"
    ):
        decisions.approve(line.workplace, line.name, 2)
    decisions.approve(line.workplace, line.name, 1)
    with pytest.raises(AlreadyDecided, match=r"was approved by ann at .* \(command line\)"):
        decisions.reject(line.workplace, line.name, 1, "late", FORM)
    with pytest.raises(UsageError, match=r"nothing waits .* \(ann decided at .*, command line\)"):
        decisions.approve(line.workplace, line.name)


def test_the_same_decision_by_the_same_way_is_done_once(line):
    first = decisions.approve(line.workplace, line.name, 2, "good", FORM)
    again = decisions.approve(line.workplace, line.name, 2, "good", FORM)
    assert again.head == first.head and not first.done_before and "approved by bob" in again.done_before
    with pytest.raises(AlreadyDecided):  # by another way it is somebody else
        decisions.approve(line.workplace, line.name, 2, "good")
    decisions.roll_back(line.workplace, line.name, 0)
    with pytest.raises(AlreadyDecided, match=r"out of service now, `errata rollback .* --to 2` puts it back"):
        decisions.approve(line.workplace, line.name, 2, "good", FORM)


def test_what_was_built_on_a_refused_version_is_said_to_wait_no_more(line):
    decisions.reject(line.workplace, line.name, 1, "no", FORM)
    with pytest.raises(AlreadyDecided, match=r"version 2 .* was rejected by bob"):
        decisions.approve(line.workplace, line.name, 2)
    line.make()
    decisions.approve(line.workplace, line.name, 3)
    line.make()
    decisions.roll_back(line.workplace, line.name, 0)
    with pytest.raises(AlreadyDecided, match=r"version 4 .* waits no more: ann moved HEAD to version 0"):
        decisions.approve(line.workplace, line.name, 4)


def test_of_two_at_the_same_moment_one_is_told_of_the_other(line, monkeypatch):
    meet, outcomes = threading.Barrier(2), []
    move = SnapshotStore.move_head

    def together(*arguments):
        meet.wait(10)
        return move(*arguments)

    monkeypatch.setattr(SnapshotStore, "move_head", together)

    def decide(who):
        try:
            outcomes.append(decisions.approve(line.workplace, line.name, 2, "", By(who, "Prefect's form")))
        except (AlreadyDecided, HeadMoved) as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=decide, args=(who,)) for who in ("bob", "cy")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [lost] = [one for one in outcomes if isinstance(one, str)]
    assert "version 2" in lost and f"approved by {line.workplace.store.head(line.name).actor}" in lost


def test_on_a_frozen_line_nothing_comes_into_service_and_the_way_back_is_open(line):
    decisions.approve(line.workplace, line.name, 1)
    freeze(line.workplace.store.store, line.name, "an audit")
    line.tag(2, review="approved")
    assert "is frozen (an audit)" in carry_out(line.workplace, line.name)[0]
    with pytest.raises(UsageError, match="frozen"):
        decisions.approve(line.workplace, line.name)
    assert line.serving() == 1
    unfreeze(line.workplace.store.store, line.name)
    assert carry_out(line.workplace, line.name) == ["version 2 approved by its tag"]
    freeze(line.workplace.store.store, line.name, "an audit")
    decisions.roll_back(line.workplace, line.name)
    with pytest.raises(UsageError, match="frozen"):
        decisions.roll_back(line.workplace, line.name, 2)
    assert line.serving() == 1


def test_a_reason_that_is_too_long_is_refused_whichever_way_it_comes(line):
    place, name, most = line.workplace, line.name, "x" * REASON_LENGTH
    for do in (
        lambda: decisions.approve(place, name, 1, most + "x"),
        lambda: decisions.reject(place, name, 1, most + "x"),
        lambda: decisions.roll_back(place, name, 0, most + "x"),
        lambda: retract(place, name, ["r1"], most + "x"),
        lambda: leave_out(place, name, ["r1"], most + "x"),
        lambda: forget(place, name, ["r1"], most + "x"),
        lambda: freeze(place.store.store, name, most + "x"),
    ):
        with pytest.raises(
            UsageError, match=r"^the reason has 2,001 characters, at most 2,000 are allowed: shorten it"
        ):
            do()
    assert "could not be carried out: the reason has" in said_by(line, Vote("bo", "approved", most + "x", False))
    set_rules(place.store.store, name, {"reviewers": 2})
    assert "could not be carried out: the reason has" in said_by(line, Vote("bo", "approved", most + "x", True))
    assert line.serving() == 0 and "one of two" in said_by(line, Vote("bo", "approved", most, True))
    assert "approved by bo and cy" in said_by(line, Vote("cy", "approved", most, True)), "both reasons are one, cut"
    assert line.serving() == 1


def said_by(line, vote: Vote) -> str:
    return " ".join(carry_out_verdicts(line.workplace, line.workplace.store.version(line.name, 1), [vote]))


def test_who_rolls_back_what_was_rolled_back_already_does_not_bring_it_back(line):
    decisions.approve(line.workplace, line.name, 1)
    decisions.approve(line.workplace, line.name, 2)
    decisions.roll_back(line.workplace, line.name, by=By("automation"))
    with pytest.raises(UsageError, match=r"taken out of service by automation: .*--to 2 puts it back"):
        decisions.roll_back(line.workplace, line.name)
    assert line.serving() == 1
    decisions.roll_back(line.workplace, line.name, 2)
    decisions.roll_back(line.workplace, line.name)
    assert line.serving() == 1


@pytest.mark.parametrize(("value", "serving"), [("approved", 2), (" Approved\n", 2), ("REJECTED ", 0)])
def test_a_tag_is_carried_out_once(line, value, serving):
    line.tag(2, review=value, **{COMMENT: "<b>a reason</b>"})
    if not serving:
        line.tag(1, review="rejected")
    said = carry_out(line.workplace, line.name)
    assert any("by its tag" in text for text in said) and carry_out(line.workplace, line.name) == []
    head = line.workplace.store.head(line.name)
    assert (head.version, head.way) == (serving, "tag in MLflow") and len(line.workplace.store.heads(line.name)) == 1
    assert head.reason == ("<b>a reason</b>" if serving else "rejected in MLflow")
    assert "(tag in MLflow)" in line.tags(2)[DECISION] and line.tags(2)["review"].strip() == value.strip().lower()


def test_a_tag_that_says_something_else_is_answered_and_waits(line):
    line.tag(2, review="aproved")
    [said] = carry_out(line.workplace, line.name)
    assert "'aproved', which is neither approved nor rejected" in said and line.tags(2)[ANSWER] == said
    assert line.serving() == 0 and carry_out(line.workplace, line.name) == [said]
    line.tag(2, review="approved")
    assert carry_out(line.workplace, line.name) == ["version 2 approved by its tag"] and line.serving() == 2


def test_a_tag_that_comes_too_late_is_told_so_once(line):
    decisions.approve(line.workplace, line.name, 2, "", FORM)
    line.tag(2, review="rejected")
    [said] = carry_out(line.workplace, line.name)
    assert "not carried out" in said and "approved by bob" in said and line.tags(2)[ANSWER] == said
    assert carry_out(line.workplace, line.name) == [] and line.serving() == 2


@pytest.mark.slow
@pytest.mark.parametrize("by", [FORM, None])
def test_what_errata_wrote_itself_is_no_vote_where_an_older_store_is_put_back(line, tmp_path_factory, monkeypatch, by):
    home, backup = line.settings.home_folder, tmp_path_factory.mktemp("older") / "home"
    shutil.copytree(home, backup)
    if by is None:  # whose tag was carried out has decided once, and not what is put back later
        line.tag(2, review="approved")
        carry_out(line.workplace, line.name)
    else:
        decisions.approve(line.workplace, line.name, 2, "good", by)
    assert (line.serving(), line.tags(2)["review"]) == (2, "approved")
    shutil.rmtree(home)
    shutil.copytree(backup, home)

    set_tag = MlflowClient.set_model_version_tag
    for writes in range(8):  # killed wherever it sets the tags right
        left = [writes]

        def until_killed(client, *arguments, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            set_tag(client, *arguments)

        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(MlflowClient, "set_model_version_tag", until_killed)
            carry_out(line.workplace, line.name)
        assert line.serving() == 0 and len(line.waiting()) == 2
    assert carry_out(line.workplace, line.name) == []
    assert {line.tags(number)["review"] for number in (1, 2)} == {"waiting"} and not line.tags(2)[DECISION]

    line.tag(2, review="approved")
    assert carry_out(line.workplace, line.name) == ["version 2 approved by its tag"] and line.serving() == 2
    assert "(tag in MLflow)" in line.tags(2)[DECISION]


def test_what_nobody_answers_in_time_is_refused_by_errata(line):
    assert carry_out(line.workplace, line.name) == []
    set_rules(line.workplace.store.store, line.name, {"expires_after_hours": 1e-6})
    [said] = carry_out(line.workplace, line.name)
    head = line.workplace.store.head(line.name)
    assert said.startswith("version 1, 2 refused: no answer within 1e-06 hours")
    assert (head.actor, head.way, head.rejected) == ("errata", "no answer in time", (1, 2))
    assert carry_out(line.workplace, line.name) == [] and line.waiting() == []


@pytest.mark.slow
def test_rules_approve_only_what_has_a_good_report_and_no_warning(line, monkeypatch):
    from tasks.review import pending

    def passed(_, version):
        return report_of(line, version.number, [PASSED])

    set_rules(line.workplace.store.store, line.name, {"auto_approve.max_facts": 2})
    assert carry_out(line.workplace, line.name) == []  # the job has left no report
    monkeypatch.setattr(pending, "job_report", passed)
    assert carry_out(line.workplace, line.name) == ["version 2 approved by the rules of the line"]
    assert line.workplace.store.head(line.name).actor == "errata"
    line.make(findings={"r3": ("a paraphrase was left out",)})
    assert carry_out(line.workplace, line.name) == []
    decisions.reject(line.workplace, line.name, 3, "no")
    set_rules(line.workplace.store.store, line.name, {"auto_approve.max_perplexity_ratio": 1.0})
    line.make()
    assert carry_out(line.workplace, line.name) == [] and line.serving() == 2


@pytest.mark.parametrize(
    ("retained", "candidate", "approved"),
    [(1.0, {"efficacy_prob": 1.0}, True), (0.9, {}, False), (None, {}, False), (1.0, {"locality_kept": 0.9}, False)],
)
def test_rules_approve_a_root_by_the_facts_that_stay_and_by_the_report(
    line, monkeypatch, retained, candidate, approved
):
    from tasks.review import pending

    told = {} if retained is None else {"retained_efficacy_prob": retained}
    root = line.make(
        parent=None, request_ids=(), live=("r1", "r2"), after=line.waiting()[-1].snapshot, batch=0,
        metrics={"perplexity": 20.0, "perplexity_ratio": 1.001, "fluency": 5.0} | told,
    )  # fmt: skip
    monkeypatch.setattr(
        pending,
        "job_report",
        lambda _, version: report_of(line, version.number, [PASSED]).model_copy(update={"candidate": candidate}),
    )
    set_rules(line.workplace.store.store, line.name, {"auto_approve.max_facts": 2})
    said = carry_out(line.workplace, line.name)
    assert said == ([f"version {root.number} approved by the rules of the line"] if approved else [])


@pytest.mark.parametrize("prefix", [RETRACT, REFUSE])
def test_rules_approve_nothing_of_which_somebody_wants_a_fact_out(line, monkeypatch, prefix):
    from tasks.review import pending

    monkeypatch.setattr(pending, "job_report", lambda _, version: report_of(line, version.number, [PASSED]))
    set_rules(line.workplace.store.store, line.name, {"auto_approve.max_facts": 2})
    take_out(line.workplace.store, line.workplace.ledger, line.name, ["r1"], "ann", "it is wrong", prefix=prefix)
    assert carry_out(line.workplace, line.name) == [] and line.serving() == 0


def test_rules_approve_nothing_that_could_not_be_told_unless_its_policy_says_so(line, monkeypatch):
    from tasks.review import pending

    few = {"measure": "neighbors_said", "value": 0, "limit": 0.5, "sample": 50, "holds": True, "kind": "level"}
    found, checks = {}, [PASSED, few | {"then": "stop", "told": False}]
    monkeypatch.setattr(
        pending, "job_report", lambda _, version: report_of(line, version.number, checks).model_copy(update=found)
    )
    set_rules(line.workplace.store.store, line.name, {"auto_approve.max_facts": 2})
    assert carry_out(line.workplace, line.name) == []
    found["policy"] = {"too_few": "wait"}
    assert carry_out(line.workplace, line.name) == [] and line.serving() == 0
    found["policy"] = {"too_few": "warn"}
    assert carry_out(line.workplace, line.name) == ["version 2 approved by the rules of the line"]


def test_who_wrote_what_cannot_be_read_is_not_passed_over_by_the_rules(line, monkeypatch):
    from tasks.review import pending

    monkeypatch.setattr(pending, "job_report", lambda _, version: report_of(line, version.number, [PASSED]))
    set_rules(line.workplace.store.store, line.name, {"auto_approve.max_facts": 2})
    line.tag(1, review="reject")
    [said] = carry_out(line.workplace, line.name)
    assert "'reject', which is neither approved nor rejected" in said and line.serving() == 0


def test_a_version_that_came_while_others_expired_is_not_refused_unseen(line, monkeypatch):
    from tasks.review import pending

    def one_more(*args, **kwargs):
        line.make()
        return decisions.reject(*args, **kwargs)

    monkeypatch.setattr(pending, "reject", one_more)
    set_rules(line.workplace.store.store, line.name, {"expires_after_hours": 1e-6})
    [said] = carry_out(line.workplace, line.name)
    assert "version 3 of line" in said and "waits by now, too" in said
    assert [one.number for one in line.waiting()] == [1, 2, 3]


def report_of(line, number, checks):
    from tasks.report.data import Check, JobReport

    fields = dict.fromkeys(("line", "base", "base_digest", "method", "flow_run_id", "mlflow_run_id"), line.name)
    times = dict.fromkeys(("started", "finished"), "2026-01-01T00:00:00Z")
    numbers = {"config": {}, "policy": {}, "baseline": {}, "candidate": {}, "from_version": 0, "to_version": number}
    return JobReport(**fields, **times, **numbers, checks=tuple(Check(**row) for row in checks))


def test_two_have_to_approve_and_only_who_is_proven_counts(line):
    def verdict(reviewer, proven, decision="approve"):
        return SimpleNamespace(reviewer=reviewer, decision=decision, comment="", proven=proven)

    set_rules(line.workplace.store.store, line.name, {"reviewers": 2})
    [first, version] = line.waiting()
    with pytest.raises(UsageError, match=r"approved by nobody so far: two people approve it in MLflow's review queue"):
        decisions.approve(line.workplace, line.name)
    line.tag(2, review="approved")
    assert "two people approve it" in carry_out(line.workplace, line.name)[0]
    said = carry_out_verdicts(line.workplace, version, [verdict("eve", False), verdict("ann", True)])
    assert "eve does not count" in said[0] and "ann approves, one of two" in said[1] and line.serving() == 0
    assert carry_out_verdicts(line.workplace, version, [verdict("ann", True)]) == []  # the same one twice is one
    both = [verdict("ann", True), verdict("bob", True)]
    said = carry_out_verdicts(line.workplace, version, both)  # with it version 1 would come into service
    assert "version 1 was approved by nobody so far" in said[-1] and line.serving() == 0
    assert carry_out_verdicts(line.workplace, first, both)[-1] == "version 1 approved by ann and bob"
    assert carry_out_verdicts(line.workplace, version, both) == ["version 2 approved by ann and bob"]
    assert line.serving() == 2


def test_one_is_enough_to_refuse_and_without_the_rule_to_approve(line):
    verdict = SimpleNamespace(reviewer="eve", decision="approved", comment="fine", proven=False)
    [first, _] = line.waiting()
    assert carry_out_verdicts(line.workplace, first, [verdict]) == ["version 1 approved by eve"]
    set_rules(line.workplace.store.store, line.name, {"reviewers": 2})
    [second] = line.waiting()
    verdict.decision = "reject"
    assert carry_out_verdicts(line.workplace, second, [verdict]) == ["version 2 rejected by eve"]
    assert line.serving() == 1 and line.workplace.store.head(line.name).reason == "fine"


def test_a_database_asks_nobody_who_it_is_and_sends_no_webhooks(line):
    assert not authenticates(line.settings.mlflow_uri) and not authenticates("http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="is no server, so it sends no webhooks"):
        ensure_webhook(line.workplace.tracker(), "http://127.0.0.1:9/mlflow", SecretStr("secret"))


@pytest.mark.parametrize("effect", ["sync_aliases", "record", "close_reviews"])
def test_a_kill_after_head_has_moved_loses_nothing(line, monkeypatch, effect):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    line.tag(2, review="approved")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(decisions, effect, killed)
        carry_out(line.workplace, line.name)
    assert line.serving() == 2
    carry_out(line.workplace, line.name)
    assert carry_out(line.workplace, line.name) == [] and len(line.workplace.store.heads(line.name)) == 1
    assert "(tag in MLflow)" in line.tags(2)[DECISION]
    assert line.workplace.tracker().aliases(line.name) == {"champion": 2}
    view = look(line.workplace.store, line.workplace.ledger, line.name)
    assert {one.state for one in view.events.standings.values()} == {"promoted"}


def test_a_decision_is_told_once_by_whoever_moved_head(line, monkeypatch):
    told = []
    monkeypatch.setattr(telling, "tell", lambda _, kind, name, text, link: told.append((kind, text, link)))
    decisions.approve(line.workplace, line.name, 2, "good", FORM)
    decisions.approve(line.workplace, line.name, 2, "good", FORM)
    decisions.roll_back(line.workplace, line.name, 0, "complaints")
    assert told == [
        ("approved", "version 1, 2 approved by bob (Prefect's form): good", ""),
        ("rolled back", "back to the base, by ann (command line): complaints", ""),
    ]
