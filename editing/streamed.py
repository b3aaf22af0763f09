"""Tensors written to a file of safetensors from where they lie, with no second copy of them in memory."""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write tensors of the CPU, contiguous ones, that share no memory, and what JSON may say of them.

    safetensors writes `.tmp…` beside `path` and renames that, so `path` is no device; nothing is flushed to the disk.

    Raises:
        OSError: it cannot be written.
    """
    try:
        save_file(dict(tensors), path, dict(about) if about else None)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error), str(path)) from error
