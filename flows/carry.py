"""Versions carried to the servers that answer users, as flows: by the forms of Prefect's pages and by `--remote`."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.endings import ended_well, page_of_run, show_on_page
from tasks.carrying.endpoint import EndpointError
from tasks.carrying.exporting import Form
from tasks.carrying.exporting import export as write
from tasks.carrying.verifying import Verified
from tasks.carrying.verifying import verify as ask
from tasks.markdown import literal, table
from tasks.notices import tell
from tasks.prefect_events import send_event
from tasks.progress import note
from tasks.runlog import told_to_prefect
from tasks.workplace import open_workplace

Chosen = Annotated[str, Field(pattern="^(champion|challenger|[0-9]{1,8})$")]
Rank = Annotated[int, Field(ge=1, le=4096)]
Named = Annotated[str, Field(min_length=1, max_length=500)]
Sample = Annotated[int, Field(ge=1, le=1000)]


@flow(name="export", flow_run_name="{line}", persist_result=False)
@ended_well
def export(
    line: str, folder: Path, form: Form = "merged", version: Chosen = "champion", rank: Rank | None = None
) -> State[None]:
    """Write a version into a new folder that other programs serve. It is as confidential as the ledger.

    Args:
        line: The line: one served model.
        folder: A new folder, or an empty one, on the machine of the worker.
        form: A plain model, an adapter for PEFT or for llama.cpp, or the changed tensors alone.
        version: Its number, champion (in service) or challenger (the newest that waits).
        rank: Most ranks of an adapter; what exceeds it is cut, and said. Left empty, 512.
    """
    with told_to_prefect("exporting"):
        told = write(open_workplace(), line, form, folder, version, rank)
        lost = f", {told['lost']:.2%} of the change is lost" if told["lost"] else ""
        said = f"version {told['version']} of line {line} as {form}: {folder}{lost}"
        note(said)
        rows = [(name, one["bytes"], one["sha256"]) for name, one in told["files"].items()]
        _show(line, "export", said, table(["file", "bytes", "sha256"], rows))
    return Completed(message=said)


@flow(name="verify", flow_run_name="{line}", persist_result=False)
@ended_well
def verify(line: str, url: Named, model: Named, version: Chosen = "champion", sample: Sample = 8) -> State[None]:
    """Ask a server that speaks OpenAI's protocol whether it serves a version; what comes of it is in the ledger.

    Args:
        line: The line: one served model.
        url: The server's address up to /v1, as the worker reaches it.
        model: The name that the server knows the model by.
        version: Its number, champion (in service) or challenger (the newest that waits).
        sample: Most facts to ask for, and most neighbors.

    A server that serves something else fails the run, sends the event `errata.line.served_other`, and people are told;
    so they are of one that does not answer.
    """
    with told_to_prefect("verifying"):
        workplace = open_workplace()
        try:
            done = ask(workplace, line, url, model, version, sample)
        except EndpointError as error:
            tell(workplace.settings, "failed", line, f"not verified: {error}", page_of_run(workplace.settings))
            raise
        note(done.in_short, "" if done.verdict == "served" else "warning")
        _show(line, "verify", done.in_short, _answers(done))
        if done.verdict == "served":
            return Completed(message=done.in_short)
        send_event("served_other", line, {"version": done.version, "url": done.url, "text": done.in_short[:500]})
        tell(workplace.settings, "served other", line, done.in_short, page_of_run(workplace.settings))
        return Failed(message=done.in_short)


def _answers(done: Verified) -> list[str]:
    rows = [
        (row.question, row.version, row.server, "agrees" if row.agrees else "differs", "yes" if row.tells else "little")
        for row in done.rows
    ]
    return table(["question", "the version", "the server", "", "tells"], rows)


def _show(line: str, kind: str, said: str, rows: list[str]) -> None:
    show_on_page(line, kind, "\n".join([literal(said), "", *rows]), "nothing of this on its page")
