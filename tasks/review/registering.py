"""The versions of a line in MLflow: registered with a pointer, described for their reviewer, tagged as they stand."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.ledger.view import LineView
from tasks.lines.rules import read_rules
from tasks.lines.stored import StoredLine, stored_line
from tasks.names import shown_version
from tasks.report.data import JobReport
from tasks.report.description import Described, Fact, fact_of, render_description, render_line
from tasks.review.facts import stored_facts
from tasks.review.telling import DECISION
from tasks.stores.manifest import Version
from tasks.tracking.client import Tracker
from tasks.tracking.registry import FACTS, REVIEW, STATUS, WAITING, Entry, Registered
from tasks.workplace import Workplace

NEW_TOKENS = 32
APPROVED = "approved"
IN_SERVICE, BELOW, REJECTED, ROLLED_BACK, OUT = (
    *("in service", "below the one in service", "rejected", "rolled back", "out of service"),
)
"""What the tag `errata.status` says of a version beside `waiting`."""


def register(
    tracker: Tracker, workplace: Workplace, line: str, versions: Sequence[Version], run_id: str = ""
) -> dict[int, Registered]:
    """Register versions with MLflow, each once, under the run given or the one that made it.

    Returns every version that MLflow has of the line then.
    """
    spec = stored_line(workplace.store.store, line) if versions else None
    entries = [
        Entry(run, pointer(workplace, version, spec), {FACTS: str(len(version.manifest.request_ids))})
        for version in versions
        if (run := run_id or version.manifest.mlflow_run_id)
    ]
    return tracker.register_versions(line, entries)


def describe(
    tracker: Tracker,
    workplace: Workplace,
    waiting: Sequence[Version],
    known: Mapping[int, Registered],
    report: JobReport | None = None,
) -> None:
    """Say on MLflow's page of each version that waits what it is, where nothing says so yet; of the last one, anew.

    Args:
        tracker: Where they are registered.
        workplace: Whose ledger knows what the requests say.
        waiting: The versions, oldest first, each built on the one before.
        known: What MLflow has of the line.
        report: Of the job that left the last of them; None: nobody asked it anything.
    """
    last = waiting[-1].number if waiting and report else None
    lacking = [v for v in waiting if v.number in known and (v.number == last or not known[v.number].description)]
    if not lacking:
        return
    facts = _facts(workplace, waiting, report)
    page = f"#/experiments/{tracker.experiment_id}/runs/{report.mlflow_run_id}/artifacts/report.html" if report else ""
    manifest = waiting[0].manifest
    reviewers = read_rules(workplace.store.store, manifest.line).reviewers
    tracker.describe_line(manifest.line, render_line(manifest.line, manifest.base, str(manifest.config.get("method"))))
    for version in lacking:
        below = [one for one in waiting if one.number < version.number]
        mlflow_number = known[version.number].mlflow_number
        described = Described(
            line=manifest.line,
            number=version.number,
            mlflow_number=mlflow_number,
            facts=[fact for one in (version, *reversed(below)) for fact in facts[one.number]],
            own=len(facts[version.number]),
            below=[shown_version(one.number, _mlflow_number(known, one.number)) for one in below],
            metrics=version.manifest.metrics,
            report=report if version.number == last else None,
            page=page,
            reviewers=reviewers,
        )
        tracker.describe_version(manifest.line, mlflow_number, render_description(described))


def tags_of(view: LineView, known: Mapping[int, Registered]) -> dict[int, dict[str, str]]:
    """What the tags of each version should say, as the line stands; a decision that waits to be heard is left alone.

    Where we have written `review` ourselves, `errata.status` says so: it is written before it, and set to waiting after
    it. So what it says beside a version that waits, as where an older store was put back, is nobody's decision.
    """
    waiting = {version.number for version in view.waiting}
    wanted: dict[int, dict[str, str]] = {}
    for number in view.versions:
        said = known[number].tags.get(REVIEW, "") if number in known else ""
        status = _status(view, number, waiting)
        if status == WAITING and number in known and not is_open(known[number]):
            wanted[number] = {REVIEW: WAITING, DECISION: "", STATUS: WAITING}
            continue
        if status == WAITING:
            review = said or WAITING
        elif status in (IN_SERVICE, BELOW):
            review = APPROVED
        elif status == REJECTED:
            review = REJECTED
        else:
            review = status if said in ("", WAITING) else said
        wanted[number] = {STATUS: status, REVIEW: review}
    return wanted


def is_open(known: Registered) -> bool:
    """Whether nothing was decided on a version, as far as its tags say: then `review` is for a person to set."""
    return known.tags.get(STATUS, "") in ("", WAITING)


def pointer(workplace: Workplace, version: Version, spec: StoredLine | None) -> dict[str, Any]:
    """What MLflow keeps of a version: where its snapshot is, and of what base. No weights, no secrets."""
    manifest = version.manifest
    return {
        "line": manifest.line,
        "version": version.number,
        "snapshot": version.snapshot,
        "store_uri": workplace.settings.store_uri,
        "endpoint_url": workplace.settings.s3_endpoint_url,
        "base": manifest.base,
        "base_digest": manifest.base_digest,
        "dtype": spec.dtype if spec else "float32",
        "max_new_tokens": NEW_TOKENS,
    }


def _status(view: LineView, number: int, waiting: set[int]) -> str:
    if view.head is not None and number == view.head.version:
        return IN_SERVICE
    if number in view.served:
        return BELOW
    if number in waiting:
        return WAITING
    if any(number in head.rejected for head in view.heads):
        return REJECTED
    requests = view.versions[number].manifest.request_ids
    standings = (view.events.standings.get(name) for name in requests)
    states = {one.state for one in standings if one is not None and one.version == number}
    if "rejected" in states:
        return REJECTED
    return ROLLED_BACK if "rolled_back" in states else OUT


def _mlflow_number(known: Mapping[int, Registered], number: int) -> int | None:
    return known[number].mlflow_number if number in known else None


def _facts(workplace: Workplace, waiting: Sequence[Version], report: JobReport | None) -> dict[int, list[Fact]]:
    """The corrections of each version: as the report shows them, else as the ledger and the manifest know them."""
    answered = {row.request_id: fact_of(row) for row in report.edits if row.state == "committed"} if report else {}
    known = answered | stored_facts(workplace, waiting, answered.keys())
    return {version.number: [known[name] for name in version.manifest.request_ids] for version in waiting}
