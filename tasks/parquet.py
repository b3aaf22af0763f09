"""Parquet files as plain rows, for the readers of editing/, which must not know pyarrow."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from editing.errors import ReadError
from editing.readers.containers import Foreign
from editing.readers.told import Told

if TYPE_CHECKING:
    import numpy
    from pyarrow.parquet import ParquetFile

FILE_BYTES: Final = 1_000_000_000
_BATCH: Final = 256


def unzstd(path: Path) -> IO[bytes]:
    """A file that zstd has packed, opened.

    Raises:
        OSError: it cannot be opened.
    """
    import pyarrow as pa  # as below

    return cast(IO[bytes], pa.input_stream(str(path), compression="zstd"))


def parquet_rows(path: Path, told: Told | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file as dicts, a batch of 256 in memory at a time; how many there are is told.

    Raises:
        ReadError: the file is missing, no Parquet, or broken.
    """
    import pyarrow as pa  # takes a while, and most files that are submitted are of other kinds
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if told is not None:
                told.at, told.size = 0, file.metadata.num_rows
            schema = str(file.schema_arrow)
            has_bytes, maps = "binary" in schema, "strict" if "map<" in schema else None
            numbers = _numbers(file)
            for batch in file.iter_batches(batch_size=_BATCH):
                rows = batch.to_pylist(maps_as_pydicts=maps)
                for name, as_written in numbers.items():
                    for row in rows:
                        if row[name] is not None:
                            row[name] = as_written(row[name])
                yield from map(_as_texts, rows) if has_bytes else rows
    except (pa.ArrowException, OSError, ValueError, ArithmeticError, KeyError) as error:  # KeyError: a map's key twice
        raise ReadError(f"cannot read the Parquet file {str(path)!r}: {_one_line(error)}") from error


def _numbers(file: "ParquetFile") -> dict[str, Callable[[float], float]]:
    """By the name of a column of fractions, what makes one of its values what was written into it."""
    import pyarrow as pa  # as above

    found: dict[str, Callable[[float], float]] = {}
    for column in file.schema_arrow:
        if pa.types.is_floating(column.type):
            if _is_of_whole_numbers(file, column.name):
                found[column.name] = _whole
            elif column.type.bit_width < 64:  # 70.1 is 70.0999984741211 once it has more digits
                found[column.name] = partial(_shortest, kind=column.type.to_pandas_dtype())
    return found


def _is_of_whole_numbers(file: "ParquetFile", name: str) -> bool:
    """Whether some values are missing and the others whole: pandas makes fractions of such numbers."""
    import numpy  # as above

    missing = False
    for batch in file.iter_batches(columns=[name]):
        values = batch.column(0).to_numpy(zero_copy_only=False)
        gone = numpy.isnan(values)
        missing = missing or bool(gone.any())
        if not numpy.isfinite(values[~gone]).all() or (values[~gone] != numpy.floor(values[~gone])).any():
            return False
    return missing


def _whole(value: float) -> float:
    return value if math.isnan(value) else int(value)


def _shortest(value: float, kind: "type[numpy.floating[Any]]") -> float:
    return float(str(kind(value)))


def _as_texts(value: Any) -> Any:
    """The same with texts for bytes: some programs do not say that what they store is text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [_as_texts(member) for member in value]
    return {name: _as_texts(one) for name, one in value.items()} if isinstance(value, dict) else value


FOREIGN: Final = Foreign(parquet_rows, unzstd)
"""What readers are given to read all kinds of files."""


def read_text(path: Path, field: str = "text") -> list[str]:
    """The texts of a Parquet column, or the lines of a text file (UTF-8); blank ones are left out.

    Raises:
        ReadError: the file is missing, too large, broken or without any text, or has no column `field`.
    """
    try:
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise ReadError(f"{str(path)!r} has {size:,} bytes, at most {FILE_BYTES:,} are read; split it")
        if path.suffix.lower() == ".parquet":
            texts = _column(path, field)
        else:
            texts = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ReadError(
            f"{str(path)!r} is not UTF-8: byte 0x{error.object[error.start]:02x} at byte position "
            f"{error.start}; save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:
        raise ReadError(f"cannot read {str(path)!r}: {_one_line(error)}") from error
    if texts := [text for text in texts if text.strip()]:
        return texts
    raise ReadError(f"{str(path)!r} holds no text; give a file with at least one line")


def _column(path: Path, field: str) -> list[str]:
    import pyarrow as pa  # as above
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise ReadError(f"{str(path)!r} has no column {field!r}; its columns are {', '.join(names)}")
            kind = file.schema_arrow.field(field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ReadError(f"column {field!r} of {str(path)!r} holds {kind}; choose one of texts")
            batches = file.iter_batches(batch_size=_BATCH, columns=[field])
            return [text for batch in batches for text in batch.column(0).to_pylist() if text is not None]
    except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
        raise ReadError(f"cannot read the Parquet file {str(path)!r}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
