"""What MLflow's page of a version shows: its facts before and after, its numbers, and how to decide; Markdown.

What users and models write is text there, as `tasks.markdown.literal` writes it.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC

from tasks.markdown import literal, row
from tasks.names import shown_version
from tasks.report.data import EditRow, JobReport
from tasks.report.metrics import METRICS, metric_lines
from tasks.report.verdict import headline

LENGTH = 4900
"""Characters; MLflow's column takes 5,000."""
ROWS, QUESTION, ANSWER, SENTENCE = 50, 110, 50, 200
"""Most facts that are listed, and most characters of a question, of an answer and of what else is said."""
SHOWN = ("said_chat", "said_prompt", "efficacy_prob", "generalization_prob", "locality_prob", "locality_kept",
         "retained_efficacy_prob", "perplexity_ratio", "fluency_ratio")  # fmt: skip
"""The metrics of a version's page; the report has all."""
NUMBERS = ("", "**In numbers**", "")


@dataclass(frozen=True)
class Fact:
    """One correction of a version. The answers are empty where nobody has asked."""

    question: str
    wanted: str
    before: str = ""
    after: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    request: str = ""
    """The id of its request."""
    told: tuple[str, ...] = ()
    """What it replaces, and what its request carries, one line each."""
    leaves: bool = False
    """The fact is taken out."""

    @property
    def verdict(self) -> str:
        """How the model takes it, in words."""
        if self.leaves:
            return "taken out"
        chat = self.metrics.get("said_chat")
        if self.metrics.get("said_prompt", self.metrics.get("efficacy_argmax", 0.0)) >= 1.0:
            return "✗ says it after the prompt, not in the chat" if chat == 0.0 else "✓ says it"
        if chat == 1.0:
            return "✓ says it in the chat"
        if self.metrics.get("efficacy_prob", 0.0) >= 1.0:
            return f"✓ prefers {literal(self.wanted, ANSWER)}"
        return f"✗ wanted {literal(self.wanted, ANSWER)}" if self.metrics else f"wanted {literal(self.wanted, ANSWER)}"


@dataclass(frozen=True)
class Described:
    """A version as its page shows it."""

    line: str
    number: int
    mlflow_number: int | None
    facts: Sequence[Fact]
    """Its own first, then those of the waiting versions below it."""
    own: int
    """How many of them are its own."""
    below: Sequence[str] = ()
    """The waiting versions that it is built on, as people read them."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those of its own batch, for a version without a report of its own."""
    report: JobReport | None = None
    """Of the job that left it as its last."""
    page: str = ""
    """Where the report is, as a link of MLflow's pages."""
    reviewers: int = 1
    """How many different people have to approve, by the rules of the line."""


def fact_of(row: EditRow) -> Fact:
    """The row of a report as a fact."""
    if row.question:
        return Fact(
            row.question, row.target_new, row.chat_before, row.chat_after, row.metrics, row.request_id, row.told
        )
    question = row.prompt.replace("{}", row.subject, 1)
    return Fact(question, row.target_new, row.answer_before, row.answer_after, row.metrics, row.request_id, row.told)


def render_description(version: Described) -> str:
    """The page of a version, at most `LENGTH` characters: as many facts as fit."""
    header = ["| Question | Old answer | New answer | Verdict |", "|---|---|---|---|"]
    rows, left = [row(_cells(fact)) for fact in version.facts[:ROWS]], len(version.facts[ROWS:])
    return _page(version, [*_numbers(version), *_ways(version)], header, rows, left)


def render_form(version: Described) -> str:
    """What stands above a form, whose column is too narrow for a table of four: the facts are a list."""
    late = _expiry(version)
    items = [_item(fact) for fact in version.facts[:ROWS]]
    gone = version.report.gone if version.report else ()
    items += [f"- {literal(one.sentence, SENTENCE)}" for one in gone[:ROWS]]
    left = len(version.facts[ROWS:]) + len(gone[ROWS:])
    also = f"; with their ids by `errata review {shlex.quote(version.line)}`, too"
    return _page(version, [*_numbers(version), *(["", *late] if late else [])], [], items, left, also)


def _item(fact: Fact) -> str:
    question, before, after, verdict = _cells(fact)
    told = [*(literal(one, ANSWER) for one in fact.told), literal(fact.request)]  # an id is typed back: never shortened
    return f"- {question} **{after}** (before: {before}) {verdict}{''.join(f' · {one}' for one in told if one)}"


def _page(
    version: Described, tail: Sequence[str], header: Sequence[str], rows: list[str], left: int, also: str = ""
) -> str:
    """`left`: what has no row; `also`: where else it is to be read."""
    name = shown_version(version.number, version.mlflow_number)
    corrections = f"{version.own} {'correction' if version.own == 1 else 'corrections'}"
    with_it = f" Approving it puts {', '.join(version.below)} in service, too." if version.below else ""
    verdict = headline(version.report)[1] if version.report else "The last version of its job is judged as a whole."
    head = [
        f"{literal(version.line, SENTENCE)} {name}: {corrections}.{with_it}",
        "",
        f"**{literal(verdict, SENTENCE)}**",
    ]
    room = LENGTH - len("\n".join([*head, *tail])) - 300 - len(also)  # the heading of the table, and the line below it
    count = len(rows) + left
    while rows and sum(len(row) + 1 for row in rows) > room:
        rows.pop()
    return "\n".join([*head, *_facts(version, header, rows, count - len(rows), also), *tail]) + "\n"


def render_note(report: JobReport, versions: Mapping[str, str]) -> str:
    """What MLflow's page of a job's run says; `versions`: links to the pages of what it left, by what they are called.

    At most `LENGTH` characters: as many of the requests that were not written as fit.
    """
    counts = " · ".join(f"{report.counts[state]} {state}" for state in ("committed", "quarantined", "rejected"))
    links = " · ".join(f"[{name}]({target})" for name, target in [*versions.items()][-ROWS:])
    head = [f"**{literal(headline(report)[1], SENTENCE)}** {counts}.", *(["", f"Versions: {links}"] if links else [])]
    failed = [edit for edit in report.edits if edit.state != "committed"]
    rows = [row([edit.state, literal(fact_of(edit).question, QUESTION), literal(edit.target_new, ANSWER),
                  literal(edit.reason, SENTENCE)]) for edit in failed[:ROWS]]  # fmt: skip
    room = LENGTH - len("\n".join(head)) - 300
    while rows and sum(len(row) + 1 for row in rows) > room:
        rows.pop()
    table = ["", "| Not written | Question | Wanted | Why |", "|---|---|---|---|", *rows] if rows else []
    left = len(failed) - len(rows)
    more = ["", f"and {left} more." if left else "", "Everything is in the artifact `report.html`."]
    return "\n".join([*head, *table, *more]) + "\n"


def render_line(line: str, base: str, method: str) -> str:
    """What MLflow's page of a line says."""
    return "\n".join(
        [
            f"**{literal(line, SENTENCE)}**: corrections of the model {literal(base, SENTENCE)} by "
            f"{literal(method, SENTENCE)}, made by Errata.",
            "",
            "Each version is one batch of corrections on top of the one before. The alias `champion` is the version "
            "in service, `challenger` the newest that waits for a decision, `previous` the one that was in service "
            "before. The tag `errata.version` is the line's own number of a version.",
            "",
            "A version's page says what it changes, and how to decide.",
        ]
    )


def _facts(version: Described, header: Sequence[str], rows: list[str], left: int, also: str) -> list[str]:
    if not rows and not left:
        return []
    where = f"[report.html]({version.page})" if version.page else "report.html"
    more = ["", f"and {left} more, see {where}{also}"] if left else ["", f"Everything else: {where}"]
    return ["", "**What it changes**", "", *header, *rows, *more]


def _cells(fact: Fact) -> list[str]:
    answers = [literal(text, ANSWER) or "–" for text in (fact.before, fact.after)]
    return [literal(fact.question, QUESTION), *answers, fact.verdict]


def _numbers(version: Described) -> list[str]:
    """Candidate beside champion and base; of a version that is not its job's last, what its batch measured."""
    if version.report is None:
        known = [(metric.label, metric.show(version.metrics[metric.name])) for metric in METRICS
                 if metric.name in SHOWN and metric.name in version.metrics]  # fmt: skip
        return [*NUMBERS, row(["Metric", "Its batch"]), row(["---"] * 2), *map(row, known)] if known else []
    report, labels = version.report, {metric.label for metric in METRICS if metric.name in SHOWN}
    champion = [f"Champion {report.shown(report.from_version)}"] if report.champion is not None else []
    header = ["Metric", "Base", *champion, "This version"]
    rows = [
        row([literal(line.label), line.base, *([line.champion] if champion else []), line.candidate])
        for line in metric_lines(report)
        if line.label in labels
    ]
    return [*NUMBERS, row(header), row(["---"] * len(header)), *rows]


def _ways(version: Described) -> list[str]:
    line, late = shlex.quote(version.line), _expiry(version)
    reason = "(the tag `review_comment` takes a reason), or:"
    approve = [f"errata approve {line} --version {version.number}"]
    tag = f"Set the tag `review` of this version to `approved` or `rejected` {reason}"
    if version.reviewers > 1:
        tag = (
            "Two different people approve it in MLflow's review queue of this line, each signed in: no tag and no "
            f"command does. To refuse, one is enough: set the tag `review` to `rejected` {reason}"
        )
        approve = []
    return [
        *("", "**To decide**", "", tag, "", "```sh", *approve),
        f'errata reject {line} --version {version.number} --reason "..."',
        "```",
        *(["", *late] if late else []),
    ]


def _expiry(version: Described) -> list[str]:
    expires = version.report.expires if version.report else None
    return [f"Without a decision it is rejected on {expires.astimezone(UTC):%d %b %Y, %H:%M} UTC."] if expires else []
