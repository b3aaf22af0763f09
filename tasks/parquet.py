"""Parquet files as plain rows, for the readers of editing/, which must not know pyarrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

from editing.errors import ReadError
from editing.readers.containers import Foreign
from editing.readers.told import Told

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
            has_bytes = "binary" in str(file.schema_arrow)
            for batch in file.iter_batches(batch_size=_BATCH):
                rows = batch.to_pylist()
                yield from map(_as_texts, rows) if has_bytes else rows
    except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
        raise ReadError(f"cannot read the Parquet file {str(path)!r}: {_one_line(error)}") from error


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
