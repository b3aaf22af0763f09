"""What kind of file it is, by what stands in it: JSON, JSON Lines, a table of texts, or Parquet; packed or not."""

import codecs
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from editing.edit import InvalidField
from editing.errors import ReadError
from editing.readers.csv_rows import csv_rows
from editing.readers.json_tables import json_records
from editing.readers.json_values import json_lines
from editing.readers.lines import FILE_BYTES, RECORD_BYTES, Broken, Found, Source
from editing.readers.literals import from_cells
from editing.readers.told import Told

ENDINGS: Final = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")
PACKED: Final = (".gz", ".zst")
TABLES: Final = (".csv", ".tsv")
START: Final = 1 << 12
"""Bytes of a file that tell its kind."""
GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
PARQUET: Final = b"PAR1"
_CHUNK: Final = 1 << 20
_MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_WIDE: Final[dict[tuple[bool, ...], str]] = {
    (True, False, True, False): "utf-16-le",
    (False, True, False, True): "utf-16-be",
}
"""Of the first four bytes, which are not 0: what a table or JSON begins with is ASCII."""
_INDEX: Final = ("__index_level_0__", "Unnamed: 0")
"""What pandas calls the numbers of rows that nobody named."""


@dataclass(frozen=True)
class Foreign:
    """What other libraries read, which this package does not know."""

    parquet_rows: Callable[[Path, Told], Iterable[Mapping[str, Any]]] | None = None
    """The rows of a Parquet file as mappings; it tells how many there are."""
    unzstd: Callable[[Path], IO[bytes]] | None = None
    """A file that zstd has packed, opened."""


@contextmanager
def as_it_is(path: Path, foreign: Foreign) -> Iterator[Path]:
    """A file of the same content that is neither packed nor wide: the file itself, or one for the time being.

    Raises:
        ReadError: it is packed in a way that cannot be read, broken, or too large.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(GZIP) or start == ZSTD:
        with _beside(path) as copy:
            _unpack(path, copy, foreign)
            with as_it_is(copy, foreign) as inner:
                yield inner
    elif wide := _wide(start):
        with _beside(path) as copy:
            _recode(path, copy, wide)
            yield copy
    elif start != PARQUET and _ends_lines_by_returns(path):
        with _beside(path) as copy:
            _end_by_newlines(path, copy)
            yield copy
    else:
        yield path


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="errata-") as folder:
        yield Path(folder) / f"a{kind_of(path)}"


def kind_of(path: Path) -> str:
    """The ending that says what a file is, without how it is packed."""
    ending = path.suffix.lower()
    return Path(path.stem).suffix.lower() if ending in PACKED else ending


def _unpack(path: Path, copy: Path, foreign: Foreign) -> None:
    try:
        with _unpacking(path, foreign) as packed, copy.open("wb") as file:
            size = 0
            while data := packed.read(_CHUNK):
                size += len(data)
                if size > FILE_BYTES:
                    raise ReadError(f"{str(path)!r} unpacks to more than {FILE_BYTES:,} bytes; split it")
                file.write(data)
    except (EOFError, zlib.error, OSError) as error:
        raise ReadError(f"cannot unpack {str(path)!r}: {error}") from error


@contextmanager
def _unpacking(path: Path, foreign: Foreign) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    if zipped:
        with gzip.open(path, "rb") as unzipped:
            yield cast(IO[bytes], unzipped)
    elif foreign.unzstd is None:
        raise ReadError(f"{str(path)!r} is packed by zstd; unpack it")
    else:
        with foreign.unzstd(path) as unpacked:
            yield unpacked


def _wide(start: bytes) -> str | None:
    """The encoding of a file that has more than one byte a letter; None where it may be UTF-8."""
    marked = next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), None)
    return marked or _WIDE.get(tuple(byte != 0 for byte in start))


def _recode(path: Path, copy: Path, encoding: str) -> None:
    try:
        with path.open(encoding=encoding, newline="") as file, copy.open("w", encoding="utf-8", newline="") as made:
            shutil.copyfileobj(file, made)
    except UnicodeError as error:
        raise ReadError(f"{str(path)!r} begins as {encoding.upper()} and is none: {error}; save it as UTF-8") from error


def _ends_lines_by_returns(path: Path) -> bool:
    """Whether lines end as they did on the first Macs: a file that holds no other end in all that tells its kind."""
    with path.open("rb") as file:
        start = file.read(_CHUNK)
    return b"\r" in start[:-1] and b"\n" not in start


def _end_by_newlines(path: Path, copy: Path) -> None:
    with path.open("rb") as file, copy.open("wb") as made:
        while data := file.read(_CHUNK):
            made.write(data.replace(b"\r", b"\n"))


def records_in(plain: Path, path: Path, foreign: Foreign, told: Told) -> Source:
    """The raw records of a file that is not packed; `path` is its name."""
    told.at, told.size = 0, plain.stat().st_size
    with plain.open("rb") as file:
        start = file.read(START).removeprefix(codecs.BOM_UTF8)
    if start.startswith(PARQUET) or kind_of(path) == ".parquet":
        return _parquet(plain, path, foreign, told)
    if kind_of(path) in TABLES:
        return _table(plain, path, told)
    text = start.lstrip(b" \t\r\n")
    if kind_of(path) in (".jsonl", ".ndjson") and not _is_one_value(plain):
        return json_lines(plain, told)
    if text[:1] in (b"[", b"{"):
        return json_records(plain, path, told)
    if kind_of(path) == ".json":
        return json_records(plain, path, told)
    if kind_of(path) in ("", ".txt"):
        return _table(plain, path, told)
    raise ReadError(
        f"{str(path)!r} ends in {kind_of(path)!r}; the endings read are {', '.join(ENDINGS[:-1])}, also packed as "
        f"{' or '.join(PACKED)}"
    )


def _is_one_value(plain: Path) -> bool:
    """Whether a list, or an object over several lines, begins here: what is no value by itself up to a line's end."""
    with plain.open("rb") as file:
        first, more = file.readline(RECORD_BYTES).removeprefix(codecs.BOM_UTF8).strip(), file.read(1)
    try:
        alone = json.loads(first)
    except (ValueError, RecursionError):
        return first.startswith(b"[") or (first.startswith(b"{") and first.endswith((b"{", b"[", b",")))
    return isinstance(alone, (list, dict)) and not more


def _table(plain: Path, path: Path, told: Told) -> Source:
    for found in csv_rows(plain, path, told):
        if isinstance(found, Broken) or not isinstance(found.value, dict):
            yield found
            continue
        try:
            yield found._replace(value=from_cells(found.value))
        except InvalidField as error:
            yield Broken(found.row, str(error), json.dumps(found.value, ensure_ascii=False))


def _parquet(plain: Path, path: Path, foreign: Foreign, told: Told) -> Source:
    if foreign.parquet_rows is None:
        raise ReadError(f"{str(path)!r} is Parquet; pass foreign=tasks.parquet.FOREIGN to read it")
    for row, value in enumerate(foreign.parquet_rows(plain, told), start=1):
        told.at = row
        for name in _INDEX:
            if not isinstance(value.get(name), (int, type(None))):
                told.not_used(name)
        yield Found(row, {name: one for name, one in value.items() if name not in _INDEX})
