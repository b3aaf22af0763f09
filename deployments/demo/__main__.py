"""The demo: real corrections in a real language model, from submission to rollback, with the commands shown.

    python -m deployments.demo [--home FOLDER]

It works in a folder of its own, which it empties first; models and searched values are cached in ERRATA_CACHE.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from flows.cli.app import set_defaults

REQUESTS = Path(__file__).parent / "requests.jsonl"
LINE = "demo"
PROMPTS = ["The capital of Japan is", "The capital city of Japan is", "The capital of South Korea is"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deployments.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder of the demo; it is emptied first")
    home = parser.parse_args().home.resolve()
    _empty(home)
    os.environ |= {"ERRATA_HOME": str(home)}
    set_defaults()
    started = time.monotonic()

    # Only now, since these read the environment when they are imported.
    from flows.cli import commands
    from flows.cli.console import console, table

    def step(says: str, command: str, action: Callable[[], None]) -> None:
        console.rule(f"[bold]{says}", align="left")
        console.print(f"[dim]$ {command}[/]")
        action()
        console.print()

    asked = " ".join(f'"{prompt}"' for prompt in PROMPTS)
    step("1. Corrections come in", f"errata submit {REQUESTS.name} --line {LINE}",
         lambda: commands.submit(REQUESTS, LINE, {}, [], [], None, False, False))  # fmt: skip
    step("2. The job writes them into the model; what fails is undone", f"errata run {LINE}",
         lambda: commands.run(LINE, None, {}, {}, None, None, False))  # fmt: skip
    step("3. What waits for a person", f"errata review {LINE}", lambda: commands.review(LINE, False))
    step("4. Before and after", f"errata ask {asked} --line {LINE}",
         lambda: commands.ask(PROMPTS, LINE, 6, False))  # fmt: skip
    step("5. Approved: the new version is in service", f"errata approve {LINE}",
         lambda: commands.decide("approve", LINE, None, "the demo says so", False))  # fmt: skip
    step("6. Asked again", f"errata ask {asked} --line {LINE}", lambda: commands.ask(PROMPTS, LINE, 6, False))
    step("7. Taken back", f"errata rollback {LINE}",
         lambda: commands.decide("rollback", LINE, None, "the demo takes it back", False))  # fmt: skip
    step("8. And asked once more", f"errata ask {asked} --line {LINE}", lambda: commands.ask(PROMPTS, LINE, 6, False))
    step("9. What happened to one request", f"errata history demo-11 --line {LINE}",
         lambda: commands.history("demo-11", LINE, None, 50, False))  # fmt: skip
    step("10. Where the line stands", f"errata status {LINE}", lambda: commands.status(LINE, False))

    report = next(home.glob("artifacts/**/report.html"), None)
    rows = [
        ["the report of the job", str(report)],
        ["the ledger (Delta table)", str(home / "ledger")],
        ["the snapshots", str(home / "snapshots")],
        ["Prefect and MLflow in the browser", f"ERRATA_HOME={home} .venv/bin/errata ui"],
        ["your own question", f'ERRATA_HOME={home} .venv/bin/errata ask "The capital of Japan is" --line {LINE}'],
    ]
    table("places to look", ["what", "where"], rows)
    console.print(f"done in {time.monotonic() - started:.0f} s")


def _empty(home: Path) -> None:
    """Remove what an earlier demo left; a folder that is none of ours is not touched."""
    marker = home / ".errata-demo"
    if home.exists() and any(home.iterdir()) and not marker.exists():
        raise SystemExit(f"error: {home} is not empty and no demo's folder; choose another --home")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    marker.touch()


if __name__ == "__main__":
    main()
