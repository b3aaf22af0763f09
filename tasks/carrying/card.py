"""What lies beside the weights of an export and says what they are: a page for people, an object for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from editing.digests import file_digest
from editing.edit import Edit
from editing.files import write_atomically
from tasks.carrying.chosen import Chosen
from tasks.markdown import literal, table
from tasks.meter import Meter

UNIT = 2**20
PAGE, OBJECT = "README.md", "errata.json"
CONFIDENTIAL = (
    "Whoever has this folder has the facts: their text stands below, and what was edited can be read from the weights."
)

OF_BASE = "This is the base as it is, saved anew: nothing in it was corrected. Its licence is the base's own."


@dataclass(frozen=True)
class Asked:
    """A fact that was asked of the version and of what was exported of it."""

    request: str
    question: str
    version: str
    exported: str
    version_says_it: bool
    exported_says_it: bool


@dataclass(frozen=True)
class Made:
    """What an export came to."""

    form: str
    rank: int | None = None
    lost: float | None = None
    """|Δ − Δ'| / |Δ| of an adapter; 0 where it holds the change exactly."""
    asked: Sequence[Asked] = field(default=())
    """The facts that were asked again, where something was lost."""


def write_card(folder: Path, chosen: Chosen, made: Made, facts: Mapping[str, Edit], base_digest: str) -> dict[str, Any]:
    """Write both into a folder whose other files are whole; returns the object."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    digests = {}
    with Meter("MiB of files", sum(sizes.values()) // UNIT) as meter:
        for name, path in files.items():
            tell = meter.part(sizes[name] // UNIT)
            digests[name] = file_digest(path)
            tell(1, 1)
    told: dict[str, Any] = {
        "line": chosen.line,
        "version": chosen.number,
        "snapshot": chosen.snapshot,
        "standing": chosen.standing,
        "as": made.form,
        "base": chosen.spec.model,
        "base_digest": base_digest,
        "dtype": chosen.spec.dtype,
        **({} if chosen.spec.system is None else {"system": chosen.spec.system}),
        "exported": datetime.now(UTC).isoformat(),
        "rank": made.rank,
        "lost": made.lost,
        "said": _said(made),
        "asked": [vars(one) for one in made.asked],
        "numbers": chosen.chain[-1].metrics if chosen.chain else {},
        "facts": [{"request": name, "question": edit.text, "answer": edit.target_new} for name, edit in facts.items()],
        "files": {name: {"bytes": size, "sha256": digests[name]} for name, size in sizes.items()},
    }
    write_atomically(folder / PAGE, _page(told).encode())
    told["files"][PAGE] = {"bytes": (folder / PAGE).stat().st_size, "sha256": file_digest(folder / PAGE)}
    write_atomically(folder / OBJECT, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    return told


def _said(made: Made) -> dict[str, int] | None:
    """How many of the facts that were asked are said, by the version and by what was exported."""
    if not made.asked:
        return None
    return {
        "asked": len(made.asked),
        "version": sum(one.version_says_it for one in made.asked),
        "exported": sum(one.exported_says_it for one in made.asked),
    }


def _page(told: Mapping[str, Any]) -> str:
    names = ("line", "version", "snapshot", "standing", "as", "base", "base_digest", "dtype", "exported")
    rows = [(name.replace("_", " "), told[name]) for name in names if told[name] is not None]
    if "system" in told:
        rows.append(("system message, to be sent with every conversation", told["system"]))
    if told["rank"] is not None:
        rows += [("rank", told["rank"]), ("lost", f"{told['lost']:.2%} of the change")]
    if (said := told["said"]) is not None:
        rows.append(("said", f"{said['version']} of {said['asked']} by the version, {said['exported']} by this"))
    again = [[one["question"], one["version"], one["exported"]] for one in told["asked"]]
    return "\n".join(
        [
            f"# Line {literal(told['line'])}, version {told['version']}, as {literal(told['as'])}",
            *("", CONFIDENTIAL if told["version"] else OF_BASE, "", *table(["", ""], rows)),
            *_section("Asked again", ["question", "the version", "this"], again),
            *_section("Facts", ["request", "question", "answer"], [[*one.values()] for one in told["facts"]]),
            *_section("Numbers of its batch", ["", ""], [(name, f"{x:.4g}") for name, x in told["numbers"].items()]),
            *_section("Files", ["file", "sha256"], [(name, one["sha256"]) for name, one in told["files"].items()]),
            "",
        ]
    )


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return ["", f"## {title}", "", *table(columns, rows)] if rows else []
