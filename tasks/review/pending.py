"""What was decided elsewhere or by time, carried out: MLflow's tags and review queues, expiry, approval by the rules.

    review            approved | rejected, set by a reviewer on a version's page in MLflow; it stays as it was set
    review_comment    why; it becomes the reason
    errata.review     what Errata says to a tag that it could not carry out
    errata.status, errata.decision    what came of the version: see `telling`

Everything is read at the moment of use and each step can be repeated: whoever calls this twice, at once or after a
kill, changes nothing more.
"""

from datetime import UTC, datetime

from editing.edit import shown
from tasks.ledger.view import LineView, look
from tasks.lines.rules import AutoApprove, read_rules
from tasks.report.data import JobReport
from tasks.report.verdict import headline
from tasks.review.aliases import sync_aliases
from tasks.review.decided import By, decided
from tasks.review.decisions import approve, reject
from tasks.review.description import job_report
from tasks.review.forms import close_reviews
from tasks.review.leaving import leaving
from tasks.review.queue import NO_COMMENT, open_queues, said_in_queue, told, what_was_done
from tasks.review.registering import is_open
from tasks.review.telling import record
from tasks.stores.manifest import Head, Version
from tasks.tracking.client import TAG_LENGTH, Tracker
from tasks.tracking.registry import REVIEW, WAITING, Registered
from tasks.workplace import Workplace

COMMENT, ANSWER = "review_comment", "errata.review"
VALUES = ("approved", "rejected")
TAGGED = By("a person in MLflow", "tag in MLflow")
"""A tag carries no user."""
EXPIRED = By("errata", "no answer in time")


def carry_out(workplace: Workplace, line: str) -> list[str]:
    """Carry out what waits to be; returns what was done, or could not be and why, a line each.

    Raises:
        TrackingError, StorageError, LedgerError: a store or server cannot be reached.
    """
    said: list[str] = []
    view = look(workplace.store, workplace.ledger, line)
    if not view.versions:
        return said
    tracker = workplace.tracker()
    registered = tracker.line_versions(line)
    history = workplace.store.heads(line)  # once: a line has hundreds of versions, and those decided stay decided
    for number, known in registered.items():
        said += _tag(workplace, tracker, (view, history), number, known)
    for version in _waiting(workplace, line):
        if version.number in registered:
            said += open_queues(workplace, tracker, version)
            said += said_in_queue(workplace, tracker, version)
    said += _by_time(workplace, line)
    said += _by_rule(workplace, tracker, line)
    record(tracker, workplace, *sync_aliases(tracker, workplace, line))  # what a killed decision left out
    return said + close_reviews(workplace, line)


def _waiting(workplace: Workplace, line: str) -> list[Version]:
    return look(workplace.store, workplace.ledger, line).waiting


def _tag(
    workplace: Workplace, tracker: Tracker, seen: tuple[LineView, list[Head]], number: int, known: Registered
) -> list[str]:
    """The tag `review` of one version."""
    view, history = seen
    line, asked, version = view.line, _asked(known), view.versions.get(number)
    if asked in ("", WAITING) or version is None or version.snapshot != known.snapshot:
        return []
    what, found = f"tag {REVIEW} of version {number}", decided(workplace.store, view, number, history)
    if found is None and not is_open(known):
        return [f"{what} is of a decision that this store does not know, so it counts for nothing: decide again"]
    if found is None:
        said = _decide_by_tag(workplace, line, number, asked, known.tags.get(COMMENT, "").strip())
        _answer(tracker, line, number, known, said[0] if said and said[0].startswith(what) else "")
        return said
    if asked not in VALUES or asked == found.outcome:
        return []
    late = f"{what} was not carried out: {found.sentence}"
    return [late] if _answer(tracker, line, number, known, late) else []  # of what is over it is said once


def _asked(known: Registered) -> str:
    return known.tags.get(REVIEW, "").strip().lower()


def _decide_by_tag(workplace: Workplace, line: str, number: int, asked: str, comment: str) -> list[str]:
    what, said = f"tag {REVIEW} of version {number}", list[str]()
    if asked not in VALUES:
        return [f"{what} is {shown(asked)}, which is neither approved nor rejected: correct it"]
    with told(said, what):
        if asked == "approved":
            done = approve(workplace, line, number, comment, TAGGED)
        else:
            done = reject(workplace, line, number, comment or NO_COMMENT, TAGGED)
        said += what_was_done(done, f"version {number} {asked} by its tag")
    return said


def _answer(tracker: Tracker, line: str, number: int, known: Registered, answer: str) -> bool:
    """Write what Errata says to a tag beside it; whether it was not there."""
    if answer[:TAG_LENGTH] == known.tags.get(ANSWER, ""):
        return False
    tracker.set_version_tags(line, {number: {ANSWER: answer[:TAG_LENGTH]}}, {number: known})
    return True


def _by_time(workplace: Workplace, line: str) -> list[str]:
    """What waits longer than the rules say is refused, all of it together: it was shown as a whole."""
    rules, waiting = read_rules(workplace.store.store, line), _waiting(workplace, line)
    expiry = rules.expiry(waiting[-1]) if waiting else None
    if expiry is None or datetime.now(UTC) < expiry:
        return []
    said: list[str] = []
    reason = f"no answer within {rules.expires_after_hours:g} hours, until {expiry:%Y-%m-%d %H:%M} UTC"
    with told(said, "the end of waiting"):
        done = reject(workplace, line, waiting[0].number, reason, EXPIRED, newest=waiting[-1].number)
        said += what_was_done(done, f"version {', '.join(map(str, done.versions))} refused: {reason}")
    return said


def _by_rule(workplace: Workplace, tracker: Tracker, line: str) -> list[str]:
    """What the rules approve without a person: all that waits is within the limits, and the report has no complaint."""
    rules, waiting = read_rules(workplace.store.store, line), _waiting(workplace, line)
    limits = rules.auto_approve
    if limits is None or not waiting or rules.frozen:
        return []
    newest, said = waiting[-1], list[str]()
    report = job_report(tracker, newest)
    if report is None or report.to_version != newest.number or headline(report)[0] != "pass":
        return []
    if any(row.findings for row in report.edits) or _outside(limits, waiting, report):
        return []
    if leaving(look(workplace.store, workplace.ledger, line), newest):
        return []  # somebody wants a fact of it out: the next job makes the version without
    now = tracker.line_versions(line)
    if any(_asked(now[one.number]) not in ("", WAITING) for one in waiting if one.number in now):
        return []  # somebody has written there, if only what cannot be read: that is no version which nobody objects to
    with told(said, f"approval of version {newest.number} by the rules"):
        done = approve(workplace, line, newest.number, "within auto_approve", By("errata", "auto_approve"))
        said += what_was_done(done, f"version {newest.number} approved by the rules of the line")
    return said


def _outside(limits: AutoApprove, waiting: list[Version], report: JobReport) -> bool:
    """Whether anything that waits is outside the limits, was not measured, or came with a warning.

    A root brings no fact: of the facts that stay, as many as were asked again have to take as before it.
    """
    if sum(len(version.manifest.request_ids) for version in waiting) > limits.max_facts:
        return True
    least = {
        "efficacy_prob": limits.min_efficacy,
        "generalization_prob": limits.min_generalization,
        "locality_kept": limits.min_locality_kept,
    }
    if any(report.candidate.get(name, limit) < limit for name, limit in least.items()):
        return True
    for manifest in (version.manifest for version in waiting):
        numbers, wanted = manifest.metrics, least
        if manifest.live is not None:
            wanted = {"retained_efficacy_prob": limits.min_efficacy} if manifest.live else {}
        if manifest.findings or any(numbers.get(name, -1.0) < limit for name, limit in wanted.items()):
            return True
        if not numbers.get("perplexity_ratio", float("inf")) <= limits.max_perplexity_ratio:
            return True
    return False
