"""Hypernetworks as files: safetensors with a description as JSON, whole or absent, never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from editing.digests import sha256
from editing.errors import HypernetworkError
from editing.files import write_atomically
from editing.methods.mend.network import MendNetwork, MendSpec
from editing.shortage import ELSEWHERE, is_out_of_memory, within_memory

FORMAT = "errata-mend-2"
NETWORK = "network."
"""What the names of the hypernetwork's own tensors begin with."""


def save_network(
    network: MendNetwork,
    path: Path,
    *,
    more: Mapping[str, Tensor] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a hypernetwork, and what goes with it: further tensors, and what JSON can hold."""
    write_atomically(path, network_bytes(network, more=more, about=about))


def network_bytes(
    network: MendNetwork, *, more: Mapping[str, Tensor] | None = None, about: Mapping[str, Any] | None = None
) -> bytes:
    """What `save_network` writes; the same for the same tensors."""
    tensors = {NETWORK + name: tensor for name, tensor in network.state_dict().items()} | dict(more or {})
    described = {"format": FORMAT, "spec": network.spec.model_dump(mode="json"), **(about or {})}
    return bytes(
        save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {"about": json.dumps(described, sort_keys=True)},
        )
    )


def load_network(path: Path, digest: str | None = None) -> MendNetwork:
    """The hypernetwork of a file that `save_network` or a trainer wrote, on the CPU.

    Args:
        digest: sha256 that the file must have, if that is known.

    Raises:
        HypernetworkError: the file is missing, broken, no hypernetwork, or has another digest.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HypernetworkError(
            f"cannot read hypernetwork '{path}' ({error.strerror}); give the file that the training wrote"
        ) from error
    found = sha256(data)
    if digest is not None and found != digest:
        raise HypernetworkError(
            f"hypernetwork '{path}' has digest {found[:12]}, {digest[:12]} is wanted; put the file back as it was"
        )
    return parse_network(data, str(path))[0]


@within_memory(f"train one of lower rank (rank), or take {ELSEWHERE}")
def parse_network(data: bytes, named: str) -> tuple[MendNetwork, dict[str, Tensor], dict[str, Any]]:
    """The hypernetwork out of a file's bytes, with the further tensors and the description.

    `named` says in messages where they are from. Raises HypernetworkError as `load_network` does.
    """
    try:
        tensors, about = load(data), _description(data)
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}, known is {FORMAT}")
        network = MendNetwork(MendSpec.model_validate(about["spec"]))
        own = {name.removeprefix(NETWORK): tensor for name, tensor in tensors.items() if name.startswith(NETWORK)}
        network.load_state_dict(own)
    except (SafetensorError, KeyError, TypeError, ValueError, ValidationError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise HypernetworkError(
            f"'{named}' is no hypernetwork, or a broken one ({reason}); train it again or give another file"
        ) from error
    if not all(tensor.isfinite().all() for tensor in own.values()):
        raise HypernetworkError(f"hypernetwork '{named}' is not finite; go back to an earlier file")
    return network, {name: tensor for name, tensor in tensors.items() if not name.startswith(NETWORK)}, about


def _description(data: bytes) -> dict[str, Any]:
    """The description out of a file's header: its length in eight bytes, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["about"])
    return found
