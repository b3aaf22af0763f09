"""Where memory does not suffice: how that is told from other failures, and said in one line with what to lower.

Without torch, for commands that do not load it.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from editing.errors import OutOfMemory

SAID = ("out of memory", "allocate memory", "not enough memory", "_ALLOC_FAILED")
"""How torch says it of a GPU, of a processor here and elsewhere, and of a library for GPUs."""
ELSEWHERE = "a device with more memory (ERRATA_DEVICE)"
BATCH = f"edit fewer layers (layers), or in a smaller batch (batch_size), or take {ELSEWHERE}"
"""What makes a solve take less."""
LAYERS = f"edit fewer layers (layers, of a new line), or take {ELSEWHERE}"
"""What makes writing weights take less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: as Python says it, the system, or torch, which has no class for a processor's."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)
    return said or isinstance(error, MemoryError)


@contextmanager
def within_memory(less: str = f"take {ELSEWHERE}, or bfloat16 in a new line (dtype)") -> Iterator[None]:
    """What runs inside, or is decorated by it, needs less memory where the user does as `less` says.

    Of several around each other the innermost is heard.

    Raises:
        OutOfMemory: there is too little.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory ({one_line(error, 120)}) {less}; errata doctor --model says what a job takes"
        ) from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message on one line, or its kind when it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text[-1] in ".!?…" else text + "."
