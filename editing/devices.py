"""What the numbers of a model are, and where it computes, checked before anything is loaded."""

from dataclasses import dataclass, field

import torch

from editing.errors import NoSuchModel
from editing.shortage import one_line

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

SPREAD = "auto"
FREE = 0.9
"""How much of what is free weights may take where nothing else is said, as transformers does."""


def checked_dtype(dtype: str) -> torch.dtype:
    """Raises NoSuchModel for one that no model is edited in."""
    if dtype not in DTYPES:
        raise NoSuchModel(f"unknown dtype '{dtype}'; choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


@dataclass(frozen=True)
class Spread:
    """A model's weights lie where there is room: in the GPUs, then in memory, then on the disk."""

    memory: dict[int | str, int] = field(default_factory=dict)
    """Bytes that weights may take of a GPU, by its number, and of `cpu`; of one that is not named, FREE of what is."""

    def room(self) -> dict[int | str, int]:
        """The same of every place that there is, in the order in which they are filled."""
        from accelerate.utils import get_max_memory  # type: ignore[import-untyped]  # here: it takes a second

        free = get_max_memory()  # asked for some places, it names those alone
        if "mps" in free:  # the processor's own memory, under the name of a device without float64
            free["cpu"] = free.pop("mps")
        return {name: int(size * FREE) for name, size in free.items()} | self.memory


def checked_device(device: str) -> torch.device | Spread:
    """Raises NoSuchModel for one that is not here, or cannot do what edits take."""
    kind, _, limits = device.partition(":")
    if kind == SPREAD:
        return Spread(dict(_limit(device, one) for one in limits.split(",") if limits))
    try:
        torch_device = torch.device(device)
        if torch_device.type == "mps":
            raise NoSuchModel(f"device '{device}' has no float64, in which weights are summed and solved; use 'cpu'")
        if torch_device.type == "meta":
            raise NoSuchModel(f"device '{device}' cannot be used here (it holds no numbers); use 'cpu'")
        torch.empty(0, device=torch_device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise NoSuchModel(f"device '{device}' cannot be used here ({one_line(error)}); use 'cpu'") from error
    return torch_device


def first_device(device: str) -> torch.device:
    """Where a model computes first. Raises as `checked_device`."""
    found = checked_device(device)
    if isinstance(found, torch.device):
        return found
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _limit(device: str, text: str) -> tuple[int | str, int]:
    """`0=20GiB` or `cpu=48GB`."""
    from accelerate.utils import convert_file_size_to_int  # here: it takes a second

    name, _, size = (part.strip() for part in text.partition("="))
    known = ["cpu", *map(str, range(torch.cuda.device_count()))]
    if name not in known:
        raise NoSuchModel(f"device '{device}' limits '{name}', here are {', '.join(known)}; e.g. '{SPREAD}:cpu=8GiB'")
    try:
        return (int(name) if name.isdigit() else name), convert_file_size_to_int(size)
    except ValueError as error:
        raise NoSuchModel(
            f"device '{device}' gives '{name}' the size '{size}', which is none; e.g. '{SPREAD}:cpu=8GiB'"
        ) from error
