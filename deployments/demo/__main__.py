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
    parser = argparse.ArgumentParser(prog="python -m deployments.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder of the demo; it is emptied first")
    home = parser.parse_args().home.resolve()
    _empty(home)
    os.environ |= {"ERRATA_HOME": str(home)}
    set_defaults()
    started = time.monotonic()

    from rich.text import Text  # with the rest

    # Only now, since these read the environment when they are imported.
    from flows.cli import jobs, lines, requests, versions
    from flows.cli.console import console, say, table

    def step(says: str, command: str, action: Callable[[], None]) -> None:
        console.rule(Text(says, "bold"), align="left")
        say(f"$ {command}", style="dim")
        action()
        say("")

    asked = " ".join(f'"{prompt}"' for prompt in PROMPTS)
    step("1. Corrections come in", f"errata submit {REQUESTS.name} --line {LINE}",
         lambda: requests.submit(REQUESTS, LINE))  # fmt: skip
    step("2. The job writes them into the model; what fails is undone", f"errata run {LINE}", lambda: jobs.run(LINE))
    step("3. What waits for a person", f"errata review {LINE}", lambda: versions.review(LINE))
    step("4. Before and after", f"errata ask {asked} --line {LINE}", lambda: versions.ask(PROMPTS, LINE, 6))
    step("5. Approved: the new version is in service", f"errata approve {LINE}",
         lambda: versions.approve(LINE, reason="the demo says so"))  # fmt: skip
    step("6. Asked again", f"errata ask {asked} --line {LINE}", lambda: versions.ask(PROMPTS, LINE, 6))
    step("7. Taken back", f"errata rollback {LINE}",
         lambda: versions.rollback(LINE, reason="the demo takes it back"))  # fmt: skip
    step("8. And asked once more", f"errata ask {asked} --line {LINE}", lambda: versions.ask(PROMPTS, LINE, 6))
    step("9. What happened to one request", f"errata history demo-11 --line {LINE}",
         lambda: requests.history("demo-11", LINE))  # fmt: skip
    step("10. Where the line stands", f"errata status {LINE}", lambda: lines.status(LINE))

    report = next(home.glob("artifacts/**/report.html"), None)
    rows = [
        ["the report of the job", str(report)],
        ["the ledger (Delta table)", str(home / "ledger")],
        ["the snapshots", str(home / "snapshots")],
        ["Prefect and MLflow in the browser", f"ERRATA_HOME={home} .venv/bin/errata ui"],
        ["your own question", f'ERRATA_HOME={home} .venv/bin/errata ask "The capital of Japan is" --line {LINE}'],
    ]
    table("places to look", ["what", "where"], rows)
    say(f"done in {time.monotonic() - started:.0f} s")


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
