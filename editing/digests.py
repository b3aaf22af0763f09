"""Digests: sha256 of bytes, of JSON in one spelling, of tensors and of files.

Digests made here name what is stored, so what each of them is taken over must never change.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def canonical_json(value: object) -> bytes:
    """JSON in one spelling: sorted keys, no spaces, ASCII; tuples become lists.

    Raises:
        ValueError: there is NaN or infinity in it.
        TypeError: JSON cannot hold it.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def sha256(data: bytes | Iterable[bytes]) -> str:
    """Hex digest of bytes, or of what comes piece by piece."""
    digest = hashlib.sha256()
    for part in (data,) if isinstance(data, bytes) else data:
        digest.update(part)
    return digest.hexdigest()


def json_digest(value: object) -> str:
    """Hex digest of `canonical_json`."""
    return sha256(canonical_json(value))


def file_digest(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tensor_digest(tensor: "Tensor") -> str:
    """Hex digest over dtype, shape and bytes of a tensor."""
    import torch  # whoever only names bytes (who submits, who looks) does without

    flat = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)} ".encode())
    digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensors_digest(tensors: "Mapping[str, Tensor]", on_bytes: Callable[[int], None] = lambda size: None) -> str:
    """Hex digest over name, dtype, shape and bytes of every tensor, sorted by name, each read in its turn.

    `on_bytes` hears the size of each when it is done.
    """
    names, digests = sorted(tensors), list[str]()

    def one(name: str) -> tuple[str, int]:
        tensor = tensors[name]
        return tensor_digest(tensor), tensor.nbytes

    with ThreadPoolExecutor(max_workers=4) as pool:  # hashlib lets other threads run while it works
        for digest, size in pool.map(one, names):
            digests.append(digest)
            on_bytes(size)
    return sha256(f"{name} {digest}\n".encode() for name, digest in zip(names, digests, strict=True))
