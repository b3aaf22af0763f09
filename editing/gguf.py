"""A GGUF file as an ordinary model folder: dequantised to float32 once, kept under the digest of its bytes.

The folder appears by one rename when everything in it is on the disk, so a process that dies leaves none. Two
processes at once are safe: the second waits for the first's lock, then finds the folder.
"""

import contextlib
import copy
import functools
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from editing.digests import file_digest
from editing.errors import ModelError
from editing.files import flush
from editing.progress import OnProgress, unheard

SEAL = "errata-source.json"
"""Last file of a finished folder: the source's digest and the size of every other file."""


class NotKept(ModelError):
    """The folder of converted models cannot be written."""


def converted_folder(file: Path, name: str, folder: Path, on_progress: OnProgress = unheard) -> Path:
    """The folder in `folder` that holds the model of GGUF `file`, made now unless it is there already.

    Raises:
        NotKept: it is not there, and nothing can be written in `folder`.
    """
    digest = file_digest(file)
    target = folder / f"{_slug(name)}-{digest[:12]}"
    if is_sealed(target, digest):
        return target
    with _locked(folder / f".{target.name}.lock"):
        if not is_sealed(target, digest):
            _build(file, target, digest, on_progress)
    return target


def is_sealed(folder: Path, digest: str) -> bool:
    """True when `folder` was finished from the source with this digest and its files have the sizes of that time."""
    try:
        seal = json.loads((folder / SEAL).read_text())
        return bool(
            seal["source_sha256"] == digest
            and all((folder / name).stat().st_size == size for name, size in seal["sizes"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _build(file: Path, target: Path, digest: str, on_progress: OnProgress) -> None:
    """Convert beside `target`, then move there. Runs under the lock, so what lies about is a dead process's."""
    work = target.with_name(f".{target.name}.unfinished")
    for leftover in (work, target):
        if leftover.exists():
            shutil.rmtree(leftover)
    work.mkdir()
    try:
        dequantise(file, work, on_progress)
        sizes = {path.name: path.stat().st_size for path in sorted(work.iterdir())}
        (work / SEAL).write_text(json.dumps({"source_sha256": digest, "source": file.name, "sizes": sizes}, indent=1))
        for path in (*work.iterdir(), work):
            flush(path)
        work.rename(target)
        flush(target.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def dequantise(file: Path, folder: Path, on_progress: OnProgress = unheard) -> None:
    """Write the model and tokenizer of a GGUF file to `folder` as float32 safetensors.

    `on_progress` hears of tensors, as if there were three times as many: what comes before and after counts as much.
    """
    with _read_once(file, on_progress):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
            quantised = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
            )
    # transformers refuses to save a model that came from GGUF, so its tensors move into one that never did.
    config = copy.deepcopy(quantised.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(quantised).__name__]
    with torch.device("meta"):
        plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = quantised.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


_GGUF = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map", "dequantize")}
"""What the package has itself."""


class _Reader(gguf.GGUFReader):  # type: ignore[misc]  # it has no types
    """The same from a plain array: it takes hundreds of thousands of slices, which cost a memmap ten times as much."""

    @property
    def data(self) -> Any:
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data = np.asarray(mapped)

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self._data):
            raise ValueError(
                f"it ends after {len(self._data):,} bytes and tells of {end:,} or more: it was cut or is damaged; "
                "download it again."
            )
        return super()._get(offset, dtype, count, override_order)


class _Head(_Reader):
    """Reads no further than to the number of layers: the vocabulary, which takes seconds, comes after it."""

    class Read(Exception):
        pass

    def _push_field(self, field: Any, skip_sum: bool = False) -> int:
        if field.name.endswith(".block_count"):
            raise self.Read(int(field.parts[-1][0]))
        return int(super()._push_field(field, skip_sum))


def layers_in(file: Path) -> int | None:
    """How many layers the model of a GGUF file has; None where it does not say."""
    try:
        _Head(file)
    except _Head.Read as found:
        return int(found.args[0])
    except (OSError, ValueError, LookupError):
        pass
    return None


def template_in(file: Path) -> bool:
    """Whether a GGUF file holds a chat template; no weight is read."""
    return _Reader(file).get_field("tokenizer.chat_template") is not None


def header_of(file: Path) -> tuple[PreTrainedConfig, str]:
    """The config of a GGUF file's model, and the type of its weights, e.g. Q4_K_M; none of them is read."""
    with _read_once(file, unheard) as reader:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    return config, _type_of(reader)


def _type_of(reader: gguf.GGUFReader) -> str:
    """By `general.file_type`, or what most of the numbers are stored as."""
    field = reader.get_field("general.file_type")
    with contextlib.suppress(ValueError):  # a type of a newer llama.cpp
        if field is not None and (named := gguf.LlamaFileType(field.contents())) != gguf.LlamaFileType.GUESSED:
            return str(named.name).removeprefix("MOSTLY_").removeprefix("ALL_")
    stored = Counter[str]()
    for tensor in reader.tensors:
        stored[tensor.tensor_type.name] += tensor.n_elements
    return stored.most_common(1)[0][0]


@contextlib.contextmanager
def _read_once(file: Path, on_progress: OnProgress) -> Iterator[gguf.GGUFReader]:
    """Inside, transformers reads `file` once instead of for configuration, tokenizer and weights each.

    It also asks for the same table of names once for every module of the model. What it finds in the place of gguf's
    own functions gives the same as they do, so it is no matter if another thread gets it too.
    """
    reader = _Reader(file)
    read = dequantised = len(reader.tensors)  # to read it costs about what dequantising does
    total = 3 * read

    def read_once(path: str | os.PathLike[str], *arguments: Any) -> gguf.GGUFReader:
        return reader if Path(path) == file and not arguments else _Reader(path, *arguments)

    def dequantize(*arguments: Any) -> Any:
        nonlocal dequantised
        dequantised += 1
        on_progress(min(dequantised, 2 * read), total)
        return _GGUF["dequantize"](*arguments)

    on_progress(read, total)
    names = functools.cache(_GGUF["get_tensor_name_map"])
    try:
        _set(gguf, {"GGUFReader": read_once, "get_tensor_name_map": names, "dequantize": dequantize})
        yield reader
    finally:
        _set(gguf, _GGUF)


def _set(module: Any, functions: Mapping[str, Any]) -> None:
    for name, function in functions.items():
        setattr(module, name, function)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system lets it go when the process ends, however it ends."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise NotKept(f"nothing can be written in '{path.parent}' ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "model"
