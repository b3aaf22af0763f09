"""Tensors as the bytes of one safetensors file; nothing else is ever loaded."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from editing.shortage import BATCH, within_memory
from tasks.stores.errors import RecordError, StorageError


@within_memory(BATCH)
def tensor_bytes(tensors: Mapping[str, Tensor], what: str) -> bytes:
    """One safetensors file, dtypes kept. Raises RecordError for a tensor that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RecordError(f"{what}: tensor '{name}' is not finite; nothing was stored, undo the batch")
    return bytes(save(_apart(tensors)))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous. safetensors refuses those that share memory, as slices of one factor do: such
    are copied, and no others, which may be gigabytes."""
    found, taken = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        mine = tensor.detach().cpu().contiguous()
        memory = mine.untyped_storage()
        if memory.nbytes() != mine.nbytes or memory.data_ptr() in taken:
            mine = mine.clone()
        taken.add(mine.untyped_storage().data_ptr())
        found[name] = mine
    return found


def parsed(data: bytes, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose bytes were verified. Raises StorageError."""
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise StorageError(f"{what} is no safetensors file; nothing else is ever loaded") from error
