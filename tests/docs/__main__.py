"""Run the long commands of README and docs/, with the short ones before them, and date it in the page of measurements.

    python -m tests.docs [--only TEXT] [--hours] [--list] [--keep-date]

Everything runs on the embedded model, in one home that is new; the cache is the user's. ERRATA_DATA names the folder of
benchmark data, for what wants some. Commands of hours run with --hours only. A run with --only dates nothing.
"""

import argparse
import re
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.docs.pages import ROOT, Block
from tests.docs.running import Done, Place, pages, run_all, to_run

PAGE = ROOT / "docs/measurements.md"
MARKED = re.compile(r"(<!-- docs-commands: begin -->\n).*?(<!-- docs-commands: end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="the blocks in which this stands; dates nothing")
    parser.add_argument("--hours", action="store_true", help="those that take hours or need data, too")
    parser.add_argument("--list", action="store_true", help="say what would be run")
    parser.add_argument("--keep-date", action="store_true", help="write nothing into the page of measurements")
    asked = parser.parse_args()
    marks = ["run", "long", *(["hours"] if asked.hours else [])]
    if asked.list:
        for page in pages():
            for block in to_run(page, marks):
                print(f"{block.place} ({block.mark})\n{indented(block.text)}")
        return
    with tempfile.TemporaryDirectory(prefix="errata-docs-") as folder:
        started = time.monotonic()
        done = run_all(Place(Path(folder)), marks, tell, asked.only)
        seconds = time.monotonic() - started
    failed = [one for one in done if one.code]
    print(f"{len(done)} blocks in {seconds / 60:.1f} minutes, {len(failed)} failed")
    if not (failed or asked.only or asked.keep_date):
        PAGE.write_text(dated(PAGE.read_text(), done, seconds, datetime.now(UTC)))
        print(f"dated in {PAGE.relative_to(ROOT)}")
    sys.exit(bool(failed))


def tell(done: Done) -> None:
    """What a block came to, while the others wait."""
    if done.lacks:
        print(f"{done.block.place}: left out, there is no {', '.join(done.lacks)} in ERRATA_DATA", flush=True)
        return
    state = "failed" if done.code else "ok"
    print(f"{done.block.place}: {state}, {done.processor_seconds:.0f} s of processor time", flush=True)
    if done.code:
        print(indented(done.block.text), indented(done.out[-3000:]), sep="\n", flush=True)


def dated(page: str, done: list[Done], seconds: float, now: datetime) -> str:
    """The page of measurements with what was run, and when."""
    ran = [one for one in done if not one.lacks]
    long = [one for one in done if one.block.mark != "run"]
    rows = [
        f"| {first_line(one.block)} | {'not run' if one.lacks else f'{one.processor_seconds:.0f}'} |" for one in long
    ]
    text = "\n".join([
        f"Last run: {now:%Y-%m-%d}, {len(ran)} blocks in {seconds / 60:.0f} minutes, on the embedded model.",
        "",
        "| long block, by its first command | seconds of processor time |",
        "|---|---:|",
        *rows,
        "",
    ])  # fmt: skip
    return MARKED.sub(lambda found: found[1] + text + found[2], page)


def first_line(block: Block) -> str:
    return f"`{block.text.splitlines()[0].rstrip(chr(92)).strip()}`"


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())


if __name__ == "__main__":
    main()
