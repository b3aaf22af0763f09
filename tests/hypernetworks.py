"""Hypernetworks without a training, for laws that hold of any."""

import tempfile
from pathlib import Path

import torch

from editing.layout import layout_of
from editing.methods.mend.files import save_network
from editing.methods.mend.method import weight_shapes
from editing.methods.mend.network import MendNetwork, MendSpec
from editing.methods.shared.interface import MethodInput

_FOLDER = tempfile.TemporaryDirectory(prefix="errata-hypernetworks-", ignore_cleanup_errors=True)


def untrained(
    model, digest: str, layers, projections=(), *, step_size: float = 0.1, rank: int = 8, ridge: float | None = None
) -> MendNetwork:
    """The identity: its updates are steps along the plain gradient; without a ridge they are added up."""
    layout = layout_of(model)
    shapes = weight_shapes(model, layout, layout.projections(model, layers, projections))
    return MendNetwork(MendSpec(base_digest=digest, shapes=shapes, rank=rank, ridge=ridge), step_size)


def moved(network: MendNetwork) -> MendNetwork:
    """The same with every parameter somewhere else, as after a training."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network


def options(given: MethodInput, *, plain: bool = False) -> dict[str, object]:
    """What the configuration of mend needs for a given: some hypernetwork of its layers, or that of plain steps."""
    base = given.statistics.base_digest
    path = Path(_FOLDER.name) / f"{base[:12]}-{'-'.join(map(str, given.layers))}-{plain}.safetensors"
    if not path.is_file():
        made = untrained(given.model, base, given.layers)
        save_network(made if plain else moved(made), path)
    return {"hypernetwork": str(path)}
