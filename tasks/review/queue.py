"""What MLflow's review queue says of a version: the decision of one reviewer, or votes where two have to approve."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from editing.errors import ErrataError
from editing.measure.answers import judge_answer
from tasks.lines.rules import read_rules
from tasks.report.description import Fact, fact_of
from tasks.review.decided import By, Way
from tasks.review.decisions import AlreadyDecided, Decision, approve, reject
from tasks.review.description import job_report
from tasks.review.facts import stored_facts
from tasks.review.votes import StoredVote, cast, votes
from tasks.stores.errors import HeadMoved
from tasks.stores.manifest import Version
from tasks.text import REASON_LENGTH, check_length
from tasks.tracking.client import Tracker
from tasks.tracking.review_queue import Question, Vote, authenticates, ensure_queue, let_in, verdicts
from tasks.workplace import Workplace

NO_COMMENT = "rejected in MLflow"
WAY: Way = "review queue of MLflow"


@contextmanager
def told(said: list[str], what: str) -> Iterator[None]:
    """Inside, a decision that is refused is one line of what is said, and the next one is looked at."""
    try:
        yield
    except (AlreadyDecided, HeadMoved) as error:
        said.append(f"{what} was not carried out: {error}")
    except ErrataError as error:
        said.append(f"{what} could not be carried out: {error}")


def what_was_done(decision: Decision, text: str) -> list[str]:
    """The line of a decision; none where it was made before."""
    return [] if decision.done_before else [f"{text}{f' ({decision.warning})' if decision.warning else ''}"]


def open_queues(workplace: Workplace, tracker: Tracker, version: Version) -> list[str]:
    """Give those whom the line's rules name a queue of a version that waits; returns why not, if so.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    reviewers = read_rules(workplace.store.store, version.manifest.line).queues_for
    if not reviewers:
        return []
    if not authenticates(tracker.uri):
        return [f"version {version.number} has no review queue: MLflow at {tracker.uri} asks nobody who it is"]
    report = job_report(tracker, version)
    known = stored_facts(workplace, [version])
    known |= {row.request_id: fact_of(row) for row in report.edits if row.request_id in known} if report else {}
    questions = [_question(name, fact) for name, fact in known.items()]
    ensure_queue(tracker, version, reviewers, questions)
    return let_in(tracker, reviewers)


def _question(request_id: str, fact: Fact) -> Question:
    says = fact.metrics.get("said_chat", fact.metrics.get("said_prompt"))
    if says is None:  # of a report before there was that
        says = not fact.after or judge_answer(fact.after, [fact.wanted], [], where="start").right
    return Question(request_id, fact.question, fact.before, fact.after or fact.wanted, "" if says else fact.wanted)


def said_in_queue(workplace: Workplace, tracker: Tracker, version: Version) -> list[str]:
    """Carry out what stands in MLflow's review queue about a version that waits; returns what was done, a line each."""
    return carry_out_verdicts(workplace, version, verdicts(tracker, version))


def carry_out_verdicts(workplace: Workplace, version: Version, found: Sequence[Vote]) -> list[str]:
    """The same of these verdicts, each with `reviewer`, `decision`, `comment`, and whether that it is them is `proven`.

    To refuse, one is enough, proven or not: nothing comes into service by it.
    """
    line, number, said = version.manifest.line, version.number, list[str]()
    two = read_rules(workplace.store.store, line).reviewers > 1
    for one in found:
        by, comment = By(one.reviewer, WAY), one.comment or ""
        with told(said, f"verdict of {one.reviewer} on version {number} in MLflow's review queue"):
            if not one.decision.startswith("approve"):
                done = reject(workplace, line, number, comment.strip() or NO_COMMENT, by)
                return said + what_was_done(done, f"version {number} rejected by {one.reviewer}")
            if not two:
                done = approve(workplace, line, number, comment, by)
                return said + what_was_done(done, f"version {number} approved by {one.reviewer}")
            if one.proven:
                vote = StoredVote(reviewer=one.reviewer, comment=check_length(comment))
                if cast(workplace.store.store, line, version, vote):
                    said.append(f"version {number}: {one.reviewer} approves, one of two")
        if two and not one.proven:
            said.append(
                f"version {number}: approval by {one.reviewer} does not count, since MLflow asks nobody who it is"
            )
    return said + (_approved_by_two(workplace, version) if two else [])


def _approved_by_two(workplace: Workplace, version: Version) -> list[str]:
    """Approval, where both have voted; votes that were written down before a kill count."""
    line, said = version.manifest.line, list[str]()
    found = votes(workplace.store.store, line, version)[:2]
    if len(found) < 2:
        return []
    names, reason = (
        " and ".join(vote.reviewer for vote in found),
        "; ".join(vote.comment for vote in found if vote.comment)[:REASON_LENGTH],
    )
    with told(said, f"approval of version {version.number} by {names}"):
        done = approve(workplace, line, version.number, reason, By(names, WAY))
        said += what_was_done(done, f"version {version.number} approved by {names}")
    return said
