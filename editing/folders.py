"""A model's folder looked at before transformers reads it: what is missing, cut off or quantised, in one line.

Nothing here needs the weights themselves: of each file of safetensors the header is read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from editing.errors import ModelError, NoSuchModel
from editing.foreign_code import check_no_code

POINTER = b"version https://git-lfs"
"""How a file begins that git-lfs has left in the place of a large one."""
TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
"""Files by which a tokenizer can be made."""
OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
"""Tokenizers that need no file."""
QUANTISED_BY = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quantization_config.json")
"""Files in which quantisers of their time said what they did, where the config does not."""
EXACT = ("F64", "F32", "F16", "BF16")
"""The dtypes that a weight to be edited has."""
ADAPTER = "adapter_config.json"
MERGED = "it holds an adapter: merge it into its base and save that"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The file of the weights, or that which names their files."""
HEADER_BYTES = 100_000_000
"""The longest header of safetensors, by its format."""


def check_folder(reference: str, folder: Path) -> None:
    """Raises ModelError for a folder that is no model, or that lacks or has in the wrong form what is needed."""
    check_config(reference, folder, sorted(folder.iterdir()))
    _check_weights(reference, folder)


def check_config(reference: str, folder: Path, files: Iterable[Path] = ()) -> None:
    """Raises ModelError for a folder whose config.json is of no model that could be edited, or without one of `files`.

    Its weights are not asked for.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        remedy = MERGED if (folder / ADAPTER).is_file() else "give a folder that save_pretrained wrote"
        raise NoSuchModel(f"folder '{reference}' has no config.json; {remedy}")
    for file in (*files, config_file):
        _check_is_there(reference, file)
    check_no_code(reference, folder)
    config = json.loads(config_file.read_text())
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"model '{reference}' cannot be loaded: its config.json names no model_type; save the model again"
        )
    check_not_quantised(reference, config)
    for name in QUANTISED_BY:
        if (folder / name).is_file():
            raise ModelError(quantised(reference, name))


def has_weights(folder: Path) -> bool:
    """Whether a folder holds any file of weights, and not what git-lfs has left in the place of all of them."""
    return not all(_is_pointer(file) for file in folder.glob("*.safetensors"))


def check_tokenizer(reference: str, folder: Path) -> None:
    """Raises ModelError for a folder without a tokenizer."""
    said = folder / "tokenizer_config.json"
    by_bytes = said.is_file() and any(name in said.read_text(errors="replace") for name in OF_BYTES)
    if not by_bytes and not any(file.is_file() for pattern in TOKENIZERS for file in folder.glob(pattern)):
        raise ModelError(
            f"folder '{reference}' has no tokenizer (tokenizer.json); put the files of the tokenizer that the model "
            "was trained with beside its weights"
        )


def check_not_quantised(reference: str, config: object) -> None:
    """Raises ModelError for a config that says how the weights were quantised."""
    if not isinstance(config, Mapping):
        return
    for said in (config.get("quantization_config"), config.get("compression_config")):
        if isinstance(said, Mapping) and said:
            by = said.get("quant_method") or ("bitsandbytes" if any("load_in" in name for name in said) else "")
            raise ModelError(quantised(reference, str(by) or "quantization_config in config.json"))
        if said:
            raise ModelError(quantised(reference, str(said)))
    for part in config.values():  # of several models in one, each has its own
        check_not_quantised(reference, part)


def quantised(reference: str, by: str) -> str:
    """The refusal of quantised weights, by what quantised them."""
    return (
        f"model '{reference}' is quantised ({by}), and numbers so coarse take no correction: edit the full-precision "
        "model that it was made of, and quantise what is exported"
    )


def _check_is_there(reference: str, file: Path) -> None:
    """Raises ModelError for a link to nowhere, and for what git-lfs has left in the place of a file."""
    if file.is_symlink() and not file.exists():
        raise ModelError(
            f"'{reference}/{file.name}' is a link to '{file.readlink()}', which is not there: download or copy the file"
        )
    if _is_pointer(file):
        raise ModelError(
            f"'{reference}/{file.name}' is a pointer of git-lfs and not the file itself: run git lfs pull in the "
            "folder, or download the file"
        )


def _is_pointer(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(POINTER)) == POINTER


def _check_weights(reference: str, folder: Path) -> None:
    """Raises ModelError for weights that are missing, cut off, quantised, or pickles."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")))
        if pickles:
            raise ModelError(
                f"folder '{reference}' holds pickle weights only ({pickles[0]}), which can run code when read; load it "
                "where you trust it and save it again with save_pretrained, which writes safetensors"
            )
        of_gguf = next((path.name for path in sorted(folder.glob("*.gguf"))), None)
        remedy = "save the model there again" if of_gguf is None else f"give the GGUF file, '{reference}/{of_gguf}'"
        raise ModelError(f"folder '{reference}' holds no weights (*.safetensors); {remedy}")
    if (folder / ADAPTER).is_file():  # which transformers would lay over the weights where PEFT is installed
        raise ModelError(f"folder '{reference}' is no plain model; {MERGED}")
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise ModelError(
            f"folder '{reference}' holds {files[0].name} and neither {WEIGHTS} nor {INDEX}, which names the files "
            "of the weights: download it or save the model again"
        )
    _check_index(reference, folder)
    for file in files:
        for tensor, dtype in _dtypes(reference, file):
            packed = tensor.endswith((".weight", "_packed", ".qweight"))  # masks of attention may be whole numbers
            if dtype not in EXACT and (packed or dtype.startswith("F")):
                raise ModelError(quantised(reference, f"{tensor} in {file.name} is {dtype}"))


def _check_index(reference: str, folder: Path) -> None:
    """Raises ModelError for an index of weights that is none, or names a file that is not there."""
    index = folder / INDEX
    if not index.is_file():
        return
    broken = f"'{reference}/{INDEX}' is no index of weights (metadata and weight_map); save the model again"
    try:
        found = json.loads(index.read_text())
        names = sorted({str(name) for name in found["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(broken) from error
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"folder '{reference}' lacks {name}, which its index names: download it or save it again")
    if not names or not isinstance(found.get("metadata"), dict):
        raise ModelError(broken)


def _dtypes(reference: str, file: Path) -> Iterator[tuple[str, str]]:
    """The name and dtype of each tensor, by the header of the file, which is as long as that says."""
    whole = file.stat().st_size
    broken = f"'{reference}/{file.name}' is no whole file of safetensors ({whole:,} bytes): download or save it again"
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > min(HEADER_BYTES, whole - 8):
                raise ModelError(broken)
            header: dict[str, Any] = json.loads(opened.read(size))
        header.pop("__metadata__", None)
        end = max((one["data_offsets"][1] for one in header.values()), default=0)
        found = [(name, str(one["dtype"])) for name, one in header.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(broken) from error
    if end + 8 + size != whole:
        raise ModelError(broken)
    yield from found
