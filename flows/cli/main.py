"""The command line: `errata`. Every command explains itself in `--help`; modules load when a command needs them."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from editing.errors import ErrataError, InvalidEdit, PolicyError, UsageError
from flows.cli import train, versions
from flows.cli.app import Hypernetwork, Json, Line, LineOption, app, pairs, set_defaults

__all__ = ["app", "main", "train", "versions"]

STOPPED = 130
"""Exit code of a command that Ctrl-C ended."""


def main() -> None:
    """Run a command; a user's mistake is one line on standard error, exit code 2 for usage and 1 for failure."""
    set_defaults()
    try:
        code = app(prog_name="errata", standalone_mode=False)
    except TyperException as error:
        _fail(_usage(error), error.exit_code)
    except (UsageError, PolicyError, InvalidEdit) as error:
        _fail(str(error), 2)
    except ErrataError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}; look at the place and the free space", 1)
    if code == STOPPED:
        typer.echo("stopped; what was committed stands, the rest is still queued", err=True)
    sys.exit(code or 0)


def _usage(error: TyperException) -> str:
    """Typer's message with the command whose help explains it; empty where the help itself was printed."""
    message, context = error.format_message().strip().rstrip("."), getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if message and context else message


def _fail(message: str, code: int) -> NoReturn:
    if message:
        typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _options(options: list[str] | None, hypernetwork: str | None) -> dict[str, Any]:
    """The method's options, its hypernetwork among them where one is named."""
    return pairs(options, "--option") | ({"hypernetwork": hypernetwork} if hypernetwork else {})


@app.command()
def submit(
    file: Annotated[Path | None, typer.Argument(help="Requests: .jsonl, .json, .csv or .parquet.")] = None,
    line: LineOption = "main",
    subject: Annotated[str | None, typer.Option(help="Whom or what the fact is about.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The question as an unfinished sentence, '{}' for the subject.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The new answer.")] = None,
    true: Annotated[str | None, typer.Option(help="The answer that is to go.")] = None,
    paraphrase: Annotated[list[str] | None, typer.Option(help="The same question in other words; repeatable.")] = None,
    neighbor: Annotated[
        list[str] | None, typer.Option(help="A question that must keep its answer, 'question => answer'; repeatable.")
    ] = None,
    request_id: Annotated[str, typer.Option("--id", help="An id of your own; else one from the content.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check only; nothing is written.")] = False,
    json: Json = False,
) -> None:
    """Queue corrections: a file of them, or one by options.

    A bad record stops nothing: it stands in the ledger as rejected, with the reason. Submitting the same file
    again changes nothing. CounterFact, zsRE and KnowEdit files are recognised by their fields.

    Examples:

        errata submit requests.jsonl

        errata submit --subject France --prompt "The capital of {} is" --target Lyon --true Paris
    """
    from flows.cli import commands

    fields = {"subject": subject, "prompt": prompt, "target_new": target, "target_true": true, "id": request_id or None}
    single = {name: value for name, value in fields.items() if value is not None}
    if (file is None) == (not single):
        raise UsageError("give a file, or --subject, --prompt and --target; see errata submit --help")
    commands.submit(file, line, single, paraphrase or [], neighbor or [], limit, dry_run, json)


@app.command()
def run(
    line: Line = "main",
    limit: Annotated[int | None, typer.Option(min=1, help="Most requests to take up.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Base of a new line: embedded, a folder, a hub id, a GGUF file.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of a new line's weights, e.g. bfloat16.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Method of a new line: memit, alphaedit, emmet, rome, finetune, ultraedit, lora, mend."),
    ] = None,
    hypernetwork: Hypernetwork = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Option of a new line's method, NAME=VALUE; repeatable.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Policy value, NAME=VALUE; repeatable.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text that perplexity is taken on.")] = None,
    statistics_text: Annotated[Path | None, typer.Option(help="Text behind the key statistics.")] = None,
    json: Json = False,
) -> None:
    """Write what is queued into the model, batch by batch, and register what validates for review.

    Killed or interrupted, start it again: nothing is lost and nothing is applied twice.

    Examples:

        errata run

        errata run products --model ./our-model --dtype bfloat16

        errata run main --limit 20 --set min_efficacy=0.95 --set max_perplexity_ratio=1.05

        errata run quick --method mend --hypernetwork models:/mend-embedded/1
    """
    from flows.cli import commands

    commands.run(
        line,
        limit,
        {"model": model, "dtype": dtype, "method": method, "options": _options(option, hypernetwork)},
        pairs(policy, "--set"),
        text,
        statistics_text,
        json,
    )


@app.command()
def trial(
    file: Annotated[Path | None, typer.Argument(help="Requests to try; without it, what is queued.")] = None,
    line: LineOption = "main",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    model: Annotated[str | None, typer.Option(help="Base, where the line does not exist yet.")] = None,
    method: Annotated[str | None, typer.Option(help="Method, where the line does not exist yet.")] = None,
    hypernetwork: Hypernetwork = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Option of the method, NAME=VALUE; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Try every correction alone against the base, and show what it would do. Nothing is kept.

    Examples:

        errata trial requests.jsonl --limit 5

        errata trial

        errata trial requests.jsonl --line new --method mend --hypernetwork models:/mend-embedded/1
    """
    from flows.cli import commands

    definition = {"model": model, "method": method, "options": _options(option, hypernetwork)}
    commands.trial(file, line, limit, definition, json)


@app.command()
def status(
    line: Annotated[str | None, typer.Argument(help="One line; without it, all.")] = None, json: Json = False
) -> None:
    """Where every line stands: in service, waiting, queued, quarantined.

    Example:

        errata status
    """
    from flows.cli import commands

    commands.status(line, json)


@app.command()
def benchmark(
    data: Annotated[Path, typer.Argument(help="A benchmark file: CounterFact, zsRE, KnowEdit or own form.")],
    out: Annotated[Path, typer.Option(help="Folder for result.json and edits.json.")],
    model: Annotated[str | None, typer.Option(help="embedded, a folder, a hub id, a GGUF file.")] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of the weights.")] = None,
    method: Annotated[
        str, typer.Option(help="memit, alphaedit, emmet, rome, finetune, ultraedit, lora, mend.")
    ] = "memit",
    hypernetwork: Hypernetwork = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Option of the method, NAME=VALUE.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="sequential, independent (every edit alone), or rebase (all in one solve).")
    ] = "sequential",
    batch_size: Annotated[int, typer.Option(min=1, help="Edits solved together.")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of edits, after shuffling.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffle and of everything sampled.")] = 0,
    text: Annotated[Path | None, typer.Option(help="Text that perplexity is taken on.")] = None,
    statistics_text: Annotated[Path | None, typer.Option(help="Text behind the key statistics.")] = None,
    json: Json = False,
) -> None:
    """Edit a benchmark file through the library and measure before and after.

    Examples:

        errata benchmark counterfact.parquet --limit 50 --text wikitext.parquet --out results/

        errata benchmark zsre.parquet --method mend --hypernetwork models:/mend-embedded/1 --out results/
    """
    from flows.cli import commands

    options = _options(option, hypernetwork) | {"seed": seed}
    line = {"model": model, "dtype": dtype, "method": method, "options": options}
    asked = {"mode": mode, "batch_size": batch_size, "limit": limit, "seed": seed, "text": text}
    commands.benchmark(data, out, line, asked | {"statistics_text": statistics_text}, json)


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine alone.")] = "127.0.0.1",
    prefect_port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Start the Prefect and MLflow servers and print their addresses; Ctrl-C ends them.

    Example:

        errata ui
    """
    from flows.cli import servers

    servers.serve(host, prefect_port, mlflow_port)


@app.command()
def doctor(json: Json = False) -> None:
    """What is installed, reachable and writable; exit code 1 if something that is needed is not.

    Example:

        errata doctor
    """
    from flows.cli import diagnosis

    diagnosis.report(json)
