"""The command that measures a benchmark file."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from flows.cli.app import Hypernetwork, Json, Option, StatisticsText, Text, app, if_stopped, method_options
from flows.cli.console import as_json, number, percent, say, shown_progress, table


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
    option: Option = None,
    mode: Annotated[
        str, typer.Option(help="sequential, independent (every edit alone), or rebase (all in one solve).")
    ] = "sequential",
    batch_size: Annotated[int, typer.Option(min=1, help="Edits solved together.")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of edits, after shuffling.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffle and of everything sampled.")] = 0,
    text: Text = None,
    statistics_text: StatisticsText = None,
    ability: Annotated[
        list[Path] | None,
        typer.Option(help="LAMBADA, PIQA, HellaSwag or ARC as Parquet, asked before and after; repeatable."),
    ] = None,
    ability_limit: Annotated[int, typer.Option(min=1, help="Questions of each such file, after shuffling.")] = 500,
    json: Json = False,
) -> None:
    """Edit a benchmark file through the library and measure before and after.

    Examples:

        errata benchmark counterfact.parquet --limit 50 --text wikitext.parquet --out results/

        errata benchmark counterfact.parquet --ability lambada.parquet --ability piqa.parquet --out results/

        errata benchmark zsre.parquet --method mend --hypernetwork models:/mend-embedded/1 --out results/
    """
    from editing.methods import check_mode, method_config
    from flows.benchmark import Benchmark, Mode, run_benchmark
    from tasks.lines.hypernetworks import resolved_options
    from tasks.lines.specs import LineSpec
    from tasks.settings import load_settings

    options = method_options(option, hypernetwork) | {"seed": seed}
    check_mode(method, mode)
    settings = load_settings()
    spec = LineSpec(
        line="benchmark",
        model=model or settings.model,
        dtype=dtype or settings.dtype,
        config=method_config(method, resolved_options(method, options, settings)),
    )
    asked = Benchmark(
        data,
        cast(Mode, mode),
        batch_size,
        limit,
        seed,
        text,
        out,
        statistics_text,
        ability=tuple(ability or ()),
        ability_limit=ability_limit,
    )
    with if_stopped("nothing was written"), shown_progress(json):
        result = run_benchmark(settings, spec, asked)
    if json:
        as_json(result)
        return
    _show(result)


def _show(result: dict[str, Any]) -> None:
    before, after = result["metrics"]["before"], result["metrics"]["after"]
    rows = [[name, percent(before.get(name)), percent(value)] for name, value in after.items()]
    for name in ("fluency", "perplexity"):
        rows.append([name, number(result[name]["before"]), number(result[name]["after"])])
    title = f"{result['method']}, {result['edits']} edits, {result['mode']}: {result['seconds_per_edit']:.2f} s an edit"
    table(title, ["metric", "before", "after"], rows, ["before", "after"])
    if "ability" in result:
        show_ability(result["ability"], result["kl"])


def show_ability(ability: dict[str, Any], kl: dict[str, Any]) -> None:
    """Print `ability` and `kl` of a result."""
    columns = ("before", "after", "difference")
    rows = []
    for name, one in ability.items():
        measures = {"acc": one} | {label: one[label] for label in ("acc_norm", "perplexity") if label in one}
        for label, found in measures.items():
            scale, unit = (1, "") if label == "perplexity" else (100, ", %")
            cells = [_with_error(found[when], found["stderr"][when], scale) for when in columns]
            rows.append([name if label == "acc" else "", one["questions"], label + unit, *cells])
    title = "general ability ± standard error, that of differences paired"
    table(title, ["set", "n", "measure", *columns], rows, ["n", *columns])
    mean, same = _with_error(kl["mean"], kl["stderr"], 1, 5), percent(kl["same_top"])
    say(f"next tokens at {kl['positions']:,} places of the text: KL from the base {mean}, the same one first at {same}")


def _with_error(value: float, error: float | None, scale: float, digits: int = 1) -> str:
    shown = number(scale * value, digits)
    return shown if error is None else f"{shown} ± {number(scale * error, digits)}"
