"""What the numbers of a model are, and where it computes, checked before anything is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from editing.errors import ModelError, OutOfMemory

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def checked_dtype(dtype: str) -> torch.dtype:
    """Raises ModelError for one that no model is edited in."""
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype '{dtype}'; choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def checked_device(device: str) -> torch.device:
    """Raises ModelError for one that is not here, or cannot do what edits take."""
    try:
        torch_device = torch.device(device)
        if torch_device.type == "mps":
            raise ModelError(f"device '{device}' has no float64, in which weights are summed and solved; use 'cpu'")
        torch.empty(0, device=torch_device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device '{device}' cannot be used here ({one_line(error)}); use 'cpu'") from error
    return torch_device


@contextmanager
def within_memory(less: str) -> Iterator[None]:
    """What runs inside, or is decorated by it, needs less memory where the user does as `less` says.

    Raises:
        OutOfMemory: there is too little.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        enough = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
        if enough and "allocate memory" not in str(error):  # how torch says it of a processor
            raise
        raise OutOfMemory(
            f"out of memory ({one_line(error, 120)}) {less}; errata doctor --model says what a job takes"
        ) from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message on one line, or its kind when it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text[-1] in ".!?…" else text + "."
