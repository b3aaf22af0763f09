"""Tables of texts with a header, as raw records: CSV with whatever separator and quote, and TSV."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from editing.edit import shown
from editing.errors import ReadError
from editing.readers.forms import FORMS
from editing.readers.lines import RECORD_BYTES, BadLine, Broken, Found, Line, Source, decoded, read_lines
from editing.readers.told import Told

SEPARATORS: Final = (",", ";", "\t", "|")
QUOTES: Final = ('"', "'")
START: Final = 1 << 16
"""Bytes by which separator and quote are told."""
_SPACED: Final = re.compile(r"[,;\t|] +[\"']")
"""A space before a quote, which is one all the same; where there is none, a space is a part of its cell."""
_KNOWN: Final = frozenset[str]().union(*(form.read for form in FORMS))
_INDEX: Final = ("", "Unnamed: 0", "__index_level_0__")
"""What a first column of numbers of rows is called, as pandas writes them."""


def csv_rows(plain: Path, path: Path, told: Told) -> Source:
    """Records as {column: text}; the first line names the columns."""
    csv.field_size_limit(RECORD_BYTES)  # as long as a record; otherwise shorter than what other kinds of file may hold
    dialect = _dialect(plain)
    with plain.open("rb") as file:
        source = _CsvLines(read_lines(file, told))
        reader = csv.reader(source, strict=True, **dialect)
        header = _header(reader, path)
        row = 0
        while True:
            first_line = source.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, BadLine) as error:
                row += 1
                where = f"lines {first_line} to {source.number}" if source.number > first_line else f"line {first_line}"
                reason = str(error) if isinstance(error, BadLine) else f"{where}: broken CSV, {error}; check the quotes"
                yield Broken(row, reason, error.raw if isinstance(error, BadLine) else source.text)
                continue
            if not any(cell.strip() for cell in cells):
                continue
            row += 1
            cells = _without_empty_end(cells, len(header))
            if len(cells) == len(header):
                found = dict(zip(header, cells, strict=True))
                if header[0] in _INDEX and (index := found.pop(header[0]).strip()) and not index.isdigit():
                    told.not_used(header[0] or "the first column")
                yield Found(row, found)
            else:
                reason = (
                    f"line {first_line} has {len(cells)} cells and the header {len(header)}; "
                    f"quote texts that hold {shown(dialect['delimiter'])}"
                )
                yield Broken(row, reason, source.text)


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    header: list[str] = []
    try:
        while not any(header[1:]) and (not header or header[0].lower().startswith("sep=")):
            header = _without_empty_end([name.strip() for name in next(reader)], 1)
    except StopIteration:
        return header
    except (csv.Error, BadLine) as error:
        raise ReadError(f"{str(path)!r}: broken header, {error}; name the columns in the first line") from error
    if len(header) < 2:
        raise ReadError(f"{str(path)!r} has the single column {shown(header)}; separate the columns by commas")
    for place, name in enumerate(header):
        if (not name and place) or name in header[:place]:
            problem = f"column {shown(name)} twice" if name else f"no name for column {place + 1}"
            raise ReadError(f"{str(path)!r} has {problem} in its first line; give each column a name of its own")
    return header


def _without_empty_end(cells: list[str], count: int) -> list[str]:
    """The cells without those empty ones at the end that are more than so many: programs end lines by a separator."""
    end = len(cells)
    while end > count and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _dialect(plain: Path) -> dict[str, Any]:
    """What separates and quotes: with which the header has the most known names, and all rows as many cells as it.

    Where no choice fits, it is the usual one.
    """
    with plain.open("rb") as file:
        start = file.read(START)
    lines = [line + "\n" for line in start.decode("utf-8-sig", "replace").split("\n")]
    lines = [line for line in lines[: -1 if len(start) == START else None] if line.strip()]
    lines = lines[1:] if lines and lines[0].lower().startswith("sep=") else lines
    dialects: list[dict[str, Any]] = [
        {"delimiter": separator, "quotechar": quote, "skipinitialspace": skipped}
        for quote in QUOTES
        for skipped in ((True, False) if any(map(_SPACED.search, lines)) else (False, True))
        for separator in SEPARATORS
    ]
    if any('\\"' in line for line in lines):
        dialects += [one | {"escapechar": "\\", "doublequote": False} for one in dialects]
    dialects.append({"delimiter": "\t", "quoting": csv.QUOTE_NONE})
    return max(dialects, key=lambda dialect: _fit(lines, dialect, len(start) == START))


def _fit(lines: list[str], dialect: dict[str, Any], cut: bool) -> tuple[int, int, bool]:
    try:
        header = _without_empty_end(next(csv.reader(lines[:1], strict=True, **dialect), []), 1)
    except csv.Error:
        return 0, 0, False
    known = sum(name.strip() in _KNOWN for name in header)
    return known, len(header), bool(known) and _all_whole(lines, len(header), dialect, cut)


def _all_whole(lines: list[str], width: int, dialect: dict[str, Any], cut: bool) -> bool:
    """Whether every row has as many cells as the header; what is cut off at the end may lack some."""
    try:
        rows = csv.reader(lines[1:], strict=True, **dialect)
        return all(len(_without_empty_end(row, width)) == width for row in rows if row)
    except csv.Error as error:
        return cut and "unexpected end" in str(error)


class _CsvLines:
    """Decoded lines for csv.reader; after a bad one it can go on, which a generator could not."""

    def __init__(self, source: Iterator[Line]) -> None:
        self.source = source
        self.number = 0
        self.text = ""

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        line = next(self.source)
        self.number = line.number
        self.text = decoded(line)
        return self.text
