"""From the bytes of a file to lines, in bounded memory, and what the sources of raw records have in common.

Every source yields Found (a parsed record) or Broken (one that cannot be parsed, with the reason), numbered from 1:
in JSON Lines the row is the line, in a JSON list the place, in CSV the record after the header.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from editing.errors import ReadError
from editing.readers.told import Told

FILE_BYTES: Final = 1_000_000_000
RECORD_BYTES: Final = 1_000_000
"""The longest line in bytes, and the longest element of a JSON list in characters."""


class Found(NamedTuple):
    """A parsed record; `raw` is its text where that is at hand."""

    row: int
    value: object
    raw: str | None = None


class Broken(NamedTuple):
    """A record that cannot be parsed."""

    row: int
    reason: str
    raw: str


Source = Iterator[Found | Broken]


class Line(NamedTuple):
    number: int
    offset: int
    data: bytes
    whole: bool


class BadLine(Exception):
    """A line that is too long or not UTF-8."""

    def __init__(self, reason: str, line: Line) -> None:
        super().__init__(reason)
        self.raw = line.data.decode("utf-8", "backslashreplace")


def check_file(path: Path) -> None:
    """Raises ReadError unless `path` is a regular file of an acceptable size."""
    try:
        size = path.stat().st_size
        regular, folder = path.is_file(), path.is_dir()
    except FileNotFoundError as error:
        raise ReadError(f"no file {str(path)!r}; check the path") from error
    except (OSError, ValueError) as error:
        raise ReadError(f"cannot open {str(path)!r}: {error}") from error
    if not regular:
        kind = "a folder" if folder else "no regular file"
        raise ReadError(f"{str(path)!r} is {kind}; give the path of one file")
    if size == 0:
        raise ReadError(f"{str(path)!r} is empty; give a file with at least one record")
    if size > FILE_BYTES:
        raise ReadError(f"{str(path)!r} has {size:,} bytes, at most {FILE_BYTES:,} are read; split it")


def read_lines(file: BinaryIO, told: Told) -> Iterator[Line]:
    """Lines as bytes; of one that is longer than RECORD_BYTES only the beginning is kept."""
    offset = skip_mark(file)
    number = 0
    while data := file.readline(RECORD_BYTES + 1):
        number += 1
        start, length = data, len(data)
        while not data.endswith(b"\n") and (data := file.readline(RECORD_BYTES)):
            length += len(data)
        yield Line(number, offset, start, whole=length == len(start) <= RECORD_BYTES)
        offset += length
        told.at = offset


def decoded(line: Line) -> str:
    if not line.whole:
        raise BadLine(f"line {line.number} has more than {RECORD_BYTES:,} bytes; shorten it", line)
    try:
        return line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLine(f"line {line.number} {not_utf8(error, line.offset + error.start)}", line) from error


def not_utf8(error: UnicodeDecodeError, position: int) -> str:
    found = error.object[error.start]
    return f"is not UTF-8: byte 0x{found:02x} at byte position {position} of the file; save it as UTF-8"


def skip_mark(file: BinaryIO) -> int:
    """Skip a UTF-8 byte order mark; returns the position of the first byte of text."""
    start = file.read(3)
    return file.seek(len(start) if start == codecs.BOM_UTF8 else 0)
