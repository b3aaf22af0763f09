"""Commands that carry versions to the servers that answer users, and see that they arrived."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.app import Json, Line, Remote, Wait, app, if_stopped, local_folder, place_of
from flows.cli.console import as_json, say, shown_progress, table

if TYPE_CHECKING:
    from collections.abc import Mapping

CARRYING = "Serving"
"""The heading of these commands in the help."""
Chosen = Annotated[
    str,
    typer.Option("--version", "-v", help="Its number, champion (in service) or challenger (the newest that waits)."),
]


@app.command(rich_help_panel=CARRYING)
def export(
    line: Line = "main",
    form: Annotated[
        Literal["merged", "lora", "gguf-lora", "safetensors-diff"],
        typer.Option("--as", help="A plain model, an adapter for PEFT or for llama.cpp, or the changed tensors alone."),
    ] = "merged",
    out: Annotated[Path, typer.Option(help="A new folder, or an empty one.", parser=local_folder)] = ...,  # type: ignore[assignment]
    version: Chosen = "champion",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Most ranks of an adapter; what exceeds it is cut, and said.")
    ] = None,
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Write a version into a folder that other programs serve, with a card that says what it is.

    The folder is whole or absent. It holds the text of the facts: keep it as confidential as the ledger.

    Examples:

        errata export --as merged --out ./capitals

        errata export main --version challenger --as lora --out ./adapter

        errata export main --version 3 --as gguf-lora --rank 16 --out ./adapter
    """
    if remote:
        from flows.cli.remote import follow_run

        asked = {"line": line, "folder": out, "form": form, "version": version, "rank": rank}
        follow_run("export", line, asked, wait, json)
        return
    workplace = place_of(line)
    from tasks.carrying.exporting import export as write  # it takes seconds

    with if_stopped("nothing was written"), shown_progress(json, "exporting"):
        told = write(workplace, line, form, out, version, rank)
    if json:
        as_json(told)
        return
    _show(told)
    say(f"version {told['version']} of line {line} as {form}: {out}", style="green")


def _show(told: "Mapping[str, Any]") -> None:
    files = [[name, f"{one['bytes']:,}", one["sha256"][:12]] for name, one in told["files"].items()]
    table("files", ["file", "bytes", "sha256"], files, ["bytes"])
    if told["rank"] is not None:
        say(f"rank {told['rank']}, {told['lost']:.2%} of the change is lost")
    if (said := told["said"]) is not None:
        rows = [
            [one["request"], one["question"], one["version"], one["exported"],
             "" if one["version_says_it"] == one["exported_says_it"] else "differs"]
            for one in told["asked"]
        ]  # fmt: skip
        table("facts asked again", ["request", "question", "the version", "this adapter", ""], rows)
        say(f"said: {said['version']} of {said['asked']} by the version, {said['exported']} by this adapter")


@app.command(rich_help_panel=CARRYING)
def verify(
    line: Line = "main",
    url: Annotated[str, typer.Option(help="The server's address, up to /v1.")] = ...,  # type: ignore[assignment]
    model: Annotated[str, typer.Option(help="The name that the server knows the model by.")] = ...,  # type: ignore[assignment]
    version: Chosen = "champion",
    sample: Annotated[int, typer.Option(min=1, max=1000, help="Most facts to ask for, and most neighbors.")] = 8,
    remote: Remote = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Ask a server that speaks OpenAI's protocol whether it serves a version: its facts, beside what the version says.

    What comes of it is written to the ledger. Exit code 0: it does; 1: it serves something else, or does not answer.

    Examples:

        errata verify --url http://127.0.0.1:8000/v1 --model capitals

        errata verify main --version 3 --url http://127.0.0.1:8000/v1 --model adapter --sample 20
    """
    if remote:
        from flows.cli.remote import follow_run

        asked = {"line": line, "url": url, "model": model, "version": version, "sample": sample}
        follow_run("verify", line, asked, wait, json)
        return
    workplace = place_of(line)
    from tasks.carrying.verifying import verify as ask  # it takes seconds

    with if_stopped("nothing was written"), shown_progress(json, "asking the server"):
        done = ask(workplace, line, url, model, version, sample)
    served = done.verdict == "served"
    if json:
        as_json(done.model_dump(mode="json"))
    else:
        rows = [[row.question, row.version, row.server, _mark(row.agrees, row.tells)] for row in done.rows]
        table(f"line {line}, version {done.version}", ["question", "the version", "the server", ""], rows)
        say(done.in_short, style="green" if served else "red")
    if not served:
        raise typer.Exit(1)


def _mark(agrees: bool, tells: bool) -> str:
    return ("agrees" if agrees else "differs") + ("" if tells else ", tells little")
