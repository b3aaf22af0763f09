"""What the commands do: open the workplace, call one function, show the result."""

from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from editing.edit import Edit, make_edit
from editing.errors import UsageError
from editing.readers import BadRecord, Record, read_edits
from flows.cli import console
from flows.cli.console import as_json, number, percent, shown_progress, table
from tasks.ledger import intake
from tasks.ledger.events import Event
from tasks.lines.specs import LineSpec, resolve_line
from tasks.parquet import parquet_rows
from tasks.report.data import JobReport
from tasks.report.render import MARKS
from tasks.report.verdict import check_lines, headline
from tasks.review import decisions as reviewing
from tasks.stores.manifest import Version
from tasks.workplace import Workplace, open_workplace

out = console.console
LABELS = ("takes", "says it", "rephrased", "neighbors", "same", "fluency", "perplexity")
METRICS = ("efficacy_prob", "efficacy_argmax", "generalization_prob", "locality_prob", "locality_kept")


def submit(
    file: Path | None,
    line: str,
    fields: dict[str, Any],
    paraphrases: list[str],
    neighbors: list[str],
    limit: int | None,
    dry_run: bool,
    json: bool,
) -> None:
    records: Iterable[Record]
    if file is not None:
        records = read_edits(file, limit=limit, parquet_rows=parquet_rows)
    else:
        records = [make_edit(fields | {"paraphrases": paraphrases, "neighborhood": [_probe(n) for n in neighbors]})]
    if dry_run:
        found = list(records)
        bad = [record for record in found if isinstance(record, BadRecord)]
        out.print(f"{len(found) - len(bad)} good, {len(bad)} bad")
        for record in bad:
            out.print(f"row {record.row}, {record.field or 'record'}: {console.text(record.reason)}")
        return
    workplace = open_workplace()
    done = intake.submit(workplace.ledger, line, records, workplace.settings.who)
    if json:
        as_json({"queued": done.queued, "present": done.present, "rejected": done.rejected})
        return
    out.print(f"{len(done.queued)} queued, {len(done.present)} already there, {len(done.rejected)} rejected")
    for request_id, reason in done.rejected.items():
        out.print(f"[red]rejected[/] {console.text(request_id)}: {console.text(reason)}")
    if done.queued:
        out.print(f"next: errata run {line}")


def _probe(text: str) -> dict[str, str]:
    prompt, arrow, answer = text.partition("=>")
    return {"prompt": prompt.strip()} | ({"answer": answer.strip()} if arrow else {})


def run(
    line: str,
    limit: int | None,
    definition: dict[str, Any],
    policy: dict[str, Any],
    text: Path | None,
    statistics_text: Path | None,
    json: bool,
) -> None:
    from tasks.update.policy import make_policy

    checked = make_policy(**policy)
    workplace = open_workplace()
    _line(workplace, line, definition)  # a mistake here is found before Prefect starts
    if not json:
        out.print(f"[bold]updating line {line}[/]")
    from flows.cli.servers import check_prefect
    from flows.knowledge_update import knowledge_update

    check_prefect()
    with shown_progress(json):
        summary = knowledge_update(line, checked, limit, text, statistics_text, **definition)
    if json:
        as_json(summary.model_dump(mode="json"))
        return
    if summary.report is not None:
        show_report(summary.report)
    out.print(f"{summary.kept} kept, {summary.quarantined} quarantined, {summary.rejected} rejected")
    if summary.version is not None:
        out.print(f"version {summary.version} waits: errata review {line} · errata approve {line} · errata ui")


def show_report(report: JobReport) -> None:
    """The candidate's numbers beside base and champion, and the verdict on it."""
    base, champion, candidate = report.baseline, report.champion or {}, report.candidate
    names = [name for name in (*METRICS, "fluency", "perplexity") if name in candidate]
    show = [
        [n, *(percent(m.get(n)) if n in METRICS else number(m.get(n)) for m in (base, champion, candidate))]
        for n in names
    ]
    table(f"line {report.line}", ["metric", "base", "champion", "candidate"], show, ["base", "champion", "candidate"])
    if report.checks:
        rows = [
            [check.label, console.text(check.request_id), check.measured, check.allowed, MARKS[check.mark]]
            for check in check_lines(report.checks)
        ]
        table(headline(report)[1], ["check", "request", "measured", "allowed", ""], rows, ["measured", "allowed"])
    for edit in report.edits:
        for finding in edit.findings:
            out.print(f"{console.text(edit.request_id)}: {console.text(finding)}")


def _line(workplace: Workplace, line: str, definition: dict[str, Any]) -> LineSpec:
    return resolve_line(workplace.store.store, workplace.settings, line, **definition)


def trial(file: Path | None, line: str, limit: int | None, definition: dict[str, Any], json: bool) -> None:
    from editing.methods import check_mode

    workplace = open_workplace()
    spec = _line(workplace, line, definition)
    check_mode(spec.config.method, "independent")
    if file is not None:
        records = islice(read_edits(file, parquet_rows=parquet_rows), limit)
        edits = [record for record in records if isinstance(record, Edit)]
    else:
        edits = list(intake.take(workplace.ledger.queued(line), [], limit).accepted)
    if not edits:
        raise UsageError(f"nothing to try: no good record in the file, or nothing queued on line '{line}'")
    from flows.cli.servers import check_prefect
    from flows.trial import trial as trial_flow

    check_prefect()
    with shown_progress(json):
        rows = trial_flow(spec, edits)
    if json:
        as_json([row.model_dump() for row in rows])
        return
    shown = [
        [
            console.text(row.request_id),
            console.text(row.prompt),
            console.text(row.answer_before)[:40],
            console.text(row.answer_after)[:40],
            console.text(row.target_new),
            percent(row.after.get("efficacy_prob")),
            percent(row.after.get("generalization_prob")),
            percent(row.after.get("locality_kept")),
        ]
        for row in rows
    ]
    columns = ["request", "prompt", "base says", "would say", "wanted", "efficacy", "paraphrases", "neighbors kept"]
    table("every correction alone, against the base", columns, shown, columns[5:])


def status(line: str | None, json: bool) -> None:
    workplace = open_workplace()
    events = workplace.ledger.look()
    known = sorted({*workplace.store.lines(), *events})
    if line is not None and line not in known:
        raise UsageError(f"there is no line '{line}'; lines are {', '.join(known) or 'none yet'}")
    lines = known if line is None else [line]
    rows = [reviewing.line_status(workplace, name, events) for name in lines]
    if json:
        as_json([asdict(row) for row in rows])
        return
    if not rows:
        out.print("nothing here yet; begin with errata submit FILE")
        return
    shown = [
        [
            row.line,
            f"{row.model or '-'} / {row.method or '-'}",
            "base" if row.in_service == 0 else f"version {row.in_service}",
            ", ".join(f"v{n}" for n in row.waiting),
            ", ".join(f"{count} {state}" for state, count in row.requests.items()),
            row.running,
        ]
        for row in rows
    ]
    table("lines", ["line", "model / method", "in service", "waiting", "requests", "running"], shown)


def review(line: str, json: bool) -> None:
    workplace = open_workplace()
    waiting = reviewing.waiting(workplace, line)
    changed = [name for version in waiting for name in version.manifest.request_ids]
    payloads = workplace.ledger.payloads(line, changed)
    if json:
        as_json([version.manifest.model_dump(mode="json") | {"snapshot": version.snapshot} for version in waiting])
        return
    if not waiting:
        out.print(f"nothing waits for review on line {line}")
        return
    table(
        f"waiting on line {line}",
        ["version", "edits", *LABELS],
        [_version_row(version) for version in waiting],
        ["version", "edits", *LABELS],
    )
    rows = []
    for version in waiting:
        for request_id in version.manifest.request_ids:
            payload = payloads.get(request_id, {})
            metrics = version.manifest.request_metrics.get(request_id, {})
            prompt = str(payload.get("prompt", "")).replace("{}", str(payload.get("subject", "")))
            change = f"{payload.get('target_true') or '?'} → {payload.get('target_new')}"
            rows.append(
                [
                    version.number,
                    *map(console.text, (request_id, prompt, change)),
                    percent(metrics.get("efficacy_prob")),
                ]
            )
    table("corrections", ["version", "request", "prompt", "change", "efficacy"], rows, ["version", "efficacy"])
    out.print(f'errata approve {line} · errata reject {line} --reason … · errata ask "…" --line {line} · errata ui')


def _version_row(version: Version) -> list[object]:
    metrics = version.manifest.metrics
    return [
        version.number,
        len(version.manifest.request_ids),
        *("" if name not in metrics else f"{metrics[name]:.0%}" for name in METRICS),
        number(metrics.get("fluency"), 2),
        f"x{number(metrics.get('perplexity_ratio'))}",
    ]


def decide(what: str, line: str, version: int | None, reason: str, json: bool) -> None:
    workplace = open_workplace()
    action = {"approve": reviewing.approve, "reject": reviewing.reject, "rollback": reviewing.roll_back}[what]
    decision = action(workplace, line, version, reason)
    serving = decision.head.version if decision.head else 0
    if json:
        as_json({"versions": decision.versions, "in_service": serving, "warning": decision.warning})
        return
    verb = {"approve": "approved", "reject": "rejected", "rollback": "back to"}[what]
    out.print(f"{verb} version {', '.join(str(n) for n in decision.versions)} of line {line}")
    out.print(f"in service: {'the base' if serving == 0 else f'version {serving}'}")
    if decision.warning:
        console.errors.print(f"[yellow]warning[/] {console.text(decision.warning)}")


def history(request: str | None, line: str, version: int | None, limit: int, json: bool) -> None:
    workplace = open_workplace()
    events = workplace.ledger.history(request, version, line, limit)
    if request is not None and not events:
        raise UsageError(f"line '{line}' knows no request '{request}'; see errata history --line {line}")
    if json:
        as_json([event.model_dump(mode="json") for event in events])
        return
    columns = ["time (UTC)", "request", "event", "version", "batch", "actor", "reason"]
    table(f"events of line {line}", columns, [_event_row(event) for event in events], ["version", "batch"])
    for event in events if request is not None else []:
        if event.payload:
            out.print_json(data=dict(event.payload))


def _event_row(event: Event) -> list[object]:
    reason = console.text(event.reason or "")
    return [f"{event.time:%Y-%m-%d %H:%M:%S}", console.text(event.request_id), event.event, event.version, event.batch,
            console.text(event.actor), reason]  # fmt: skip


def ask(prompts: list[str], line: str, tokens: int, json: bool) -> None:
    from tasks.serving.loading import ask_all

    workplace = open_workplace()
    spec = _line(workplace, line, {})
    waiting = reviewing.waiting(workplace, line)
    answers = ask_all(workplace, spec, waiting, prompts, tokens)
    if json:
        as_json(answers)
        return
    names = list(answers[0]["answers"])
    rows = [[console.text(a["prompt"]), *(console.text(a["answers"][name]) for name in names)] for a in answers]
    table(f"line {line}", ["prompt", *names], rows)


def benchmark(data: Path, to: Path, line: dict[str, Any], asked: dict[str, Any], json: bool) -> None:
    from editing.methods import check_mode, method_config
    from flows.benchmark import Benchmark, run_benchmark
    from tasks.lines.hypernetworks import resolved_options
    from tasks.settings import load_settings

    check_mode(line["method"], asked["mode"])
    settings = load_settings()
    spec = LineSpec(
        line="benchmark",
        model=line["model"] or settings.model,
        dtype=line["dtype"] or settings.dtype,
        config=method_config(line["method"], resolved_options(line["method"], line["options"], settings)),
    )
    with shown_progress(json):
        result = run_benchmark(settings, spec, Benchmark(data=data, out=to, **asked))
    if json:
        as_json(result)
        return
    before, after = result["metrics"]["before"], result["metrics"]["after"]
    rows = [[name, percent(before.get(name)), percent(value)] for name, value in after.items()]
    for name in ("fluency", "perplexity"):
        rows.append([name, number(result[name]["before"]), number(result[name]["after"])])
    title = f"{result['method']}, {result['edits']} edits, {result['mode']}: {result['seconds_per_edit']:.2f} s an edit"
    table(title, ["metric", "before", "after"], rows, ["before", "after"])
    out.print(f"written to {to / 'result.json'}; peak memory {result['peak_rss_mb']:.0f} MB")
