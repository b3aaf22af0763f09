"""Blocks of the pages, run as a reader would run them: in one home, page by page, in the order of a page."""

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import PAGES, ROOT, Block, blocks

FIRST = ("README.md", "requests.md")
"""The pages that put something into the home, before those that look at it."""
SHARED = ("ERRATA_CACHE", "ERRATA_DATA")
"""What of the reader's own settings stays: caches are made once."""
ERRATA = """#!/bin/sh
exec "{python}" -m flows.cli "$@"
"""


@dataclass(frozen=True)
class Done:
    """What became of a block, or of all the Python of a page."""

    block: Block
    code: int
    out: str
    processor_seconds: float
    lacks: tuple[str, ...] = ()
    """Data files without which it was not run."""


def pages() -> list[Path]:
    """The pages, those first that others build on; a page in two languages once."""
    once = [page for page in PAGES if ".zh" not in page.name and page.name != "CHANGELOG.md"]
    return sorted(once, key=lambda page: FIRST.index(page.name) if page.name in FIRST else len(FIRST))


class Place:
    """A folder to work in: with requests, data where there is any, `errata`, and a home of its own."""

    def __init__(self, folder: Path, more: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        (programs / "errata").write_text(ERRATA.format(python=sys.executable))
        (programs / "errata").chmod(0o755)
        shutil.copy(ROOT / "deployments/demo/requests.jsonl", folder / "requests.jsonl")
        data = Path(os.environ.get("ERRATA_DATA", ""))
        for file in data.glob("*.parquet") if data.is_dir() and os.environ.get("ERRATA_DATA") else ():
            (folder / file.name).symlink_to(file.resolve())
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("ERRATA_", "PREFECT_"))}
        self.environment = mine | {name: os.environ[name] for name in SHARED if name in os.environ}
        self.environment |= {
            "ERRATA_HOME": str(folder / "home"),
            "PYTHONPATH": str(ROOT),
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "COLUMNS": "100",
        }
        self.environment |= more or {}

    def run(self, block: Block) -> Done:
        """Run a block, unless data is missing that it names; its output and its errors are one text."""
        lacks = [
            name
            for name in re.findall(r"[\w-]+\.parquet\b(?! import)", block.text)
            if not (self.folder / name).exists()
        ]
        if lacks:
            return Done(block, 0, "", 0.0, tuple(lacks))
        command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(
            [*command, block.text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Done(block, ran.returncode, ran.stdout, used)


def to_run(page: Path, marks: Iterable[str]) -> list[Block]:
    """The blocks of a page with these marks, in order; its Python goes on where it stopped: one block, the last."""
    wanted = [block for block in blocks(page) if block.mark in set(marks)]
    shell = [block for block in wanted if block.language == "bash"]
    python = [block for block in wanted if block.language == "python"]
    if not python:
        return shell
    whole = "\n".join(block.text for block in python)
    first = python[0]
    return [*shell, Block(first.page, first.line, first.language, whole, first.mark, first.why)]


def run_all(place: Place, marks: Iterable[str], hear: Callable[[Done], None], only: str = "") -> list[Done]:
    """Run what has these marks on all pages, and with `only` the blocks in which it stands; `hear` is told of each."""
    found = []
    for page in pages():
        for block in to_run(page, marks):
            if only in block.text or only in block.place:
                done = place.run(block)
                hear(done)
                found.append(done)
    return found
