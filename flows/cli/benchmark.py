"""The command that measures a benchmark file."""

from pathlib import Path
from typing import Annotated, cast

import typer

from editing.errors import UsageError
from flows.cli.app import (
    Hypernetwork,
    Join,
    Json,
    Option,
    StatisticsText,
    System,
    Text,
    app,
    if_stopped,
    local_folder,
    method_options,
)
from flows.cli.benchmark_tables import show
from flows.cli.console import as_json, shown_progress


@app.command()
def benchmark(
    data: Annotated[Path, typer.Argument(help="A benchmark file: CounterFact, zsRE, KnowEdit, MQuAKE or own form.")],
    out: Annotated[Path, typer.Option(help="Folder for result.json and edits.json.", parser=local_folder)],
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
    rebase_every: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Batches after which a sequence is made anew from the base, as jobs do; 0: never, as published.",
            show_default="10 where the method keeps values",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of edits, after shuffling.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffle and of everything sampled.")] = 0,
    text: Text = None,
    statistics_text: StatisticsText = None,
    ability: Annotated[
        list[Path] | None,
        typer.Option(help="LAMBADA, PIQA, HellaSwag or ARC as Parquet, asked before and after; repeatable."),
    ] = None,
    ability_limit: Annotated[int, typer.Option(min=1, help="Questions of each such file, after shuffling.")] = 500,
    probes: Annotated[
        str, typer.Option(help="prefix50, prefix200, choice, negation, drift, reverse, by commas, or all.")
    ] = "",
    checkpoints: Annotated[
        str, typer.Option(help="Numbers of edits at which all so far are asked again, by commas.")
    ] = "",
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--raw", help="Write facts in the model's chat, too, or as bare prompts alone, as a line."),
    ] = None,
    system: System = None,
    references: Annotated[
        Path | None, typer.Option(help="JSON of lists of texts by edit id, for CounterFact's consistency.")
    ] = None,
    join: Join = None,
    json: Json = False,
) -> None:
    """Edit a benchmark file through the library and measure before and after.

    Examples:

        errata benchmark counterfact.parquet --limit 50 --text wikitext.parquet --out results/

        errata benchmark counterfact.parquet --ability lambada.parquet --ability piqa.parquet --out results/

        errata benchmark counterfact.parquet --chat --probes prefix50,choice --checkpoints 10,50,100 --out results/

        errata benchmark knowedit.parquet --limit 100 --probes all --out results/

        errata benchmark zsre.parquet --method mend --hypernetwork models:/mend-embedded/1 --out results/
    """
    from editing.measure.probes import named_probes
    from editing.methods import check_mode, method_config
    from editing.texts import given_join, given_system
    from flows.benchmark import Benchmark, Mode, run_benchmark
    from tasks.lines.hypernetworks import resolved_options
    from tasks.lines.specs import LineSpec, Template, absolute, spoken
    from tasks.settings import load_settings

    options = method_options(option, hypernetwork) | {"seed": seed}
    check_mode(method, mode)
    settings = load_settings()
    template: Template = LineSpec.model_fields["template"].default if chat is None else "chat" if chat else "raw"
    spec = LineSpec(
        line="benchmark",
        model=absolute(model or settings.model) or settings.model,
        dtype=dtype or settings.dtype,
        template=template,
        system=spoken(None if system is None else given_system(system), template),
        join=None if join is None else given_join(join),
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
        probes=named_probes(probes),
        checkpoints=numbers(checkpoints, "--checkpoints"),
        references=references,
        rebase_every=rebase_every,
    )
    with if_stopped("nothing was written"), shown_progress(json):
        result = run_benchmark(settings, spec, asked)
    if json:
        as_json(result)
        return
    show(result)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers above 0 by commas, in their order, each once. Raises UsageError for anything else."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if not part.isdecimal() or int(part) < 1:
            raise UsageError(f"{option} '{text}' must be whole numbers above 0 by commas, e.g. {option} 10,50,100")
        found.append(int(part))
    return tuple(sorted(set(found)))
