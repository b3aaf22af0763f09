"""CSV with a header, as raw records."""

import csv
from collections.abc import Iterator
from pathlib import Path

from editing.edit import shown
from editing.errors import ReadError
from editing.readers.lines import BadLine, Broken, Found, Line, Source, decoded, read_lines


def csv_rows(path: Path) -> Source:
    """Records as {column: text}; the first line names the columns."""
    with path.open("rb") as file:
        source = _CsvLines(read_lines(file, path))
        reader = csv.reader(source, strict=True)
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
            if not cells:
                continue
            row += 1
            if len(cells) == len(header):
                yield Found(row, dict(zip(header, cells, strict=True)))
            else:
                reason = (
                    f"line {first_line} has {len(cells)} cells and the header {len(header)}; quote texts with commas"
                )
                yield Broken(row, reason, source.text)


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = [name.strip() for name in next(reader)]
    except StopIteration:
        return []
    except (csv.Error, BadLine) as error:
        raise ReadError(f"{str(path)!r}: broken header, {error}; name the columns in the first line") from error
    if len(header) < 2:
        raise ReadError(f"{str(path)!r} has the single column {shown(header)}; separate the columns by commas")
    for place, name in enumerate(header):
        if not name or name in header[:place]:
            problem = f"column {shown(name)} twice" if name else f"no name for column {place + 1}"
            raise ReadError(f"{str(path)!r} has {problem} in its first line; give each column a name of its own")
    return header


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
