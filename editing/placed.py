"""Where a model's weights lie: in its modules, or set aside by accelerate, in memory or on the disk.

A module whose weights are set aside has placeholders without numbers; accelerate puts the numbers there for the length
of its forward pass. So they are read and written where it takes them from.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """The numbers of a parameter, wherever they lie."""
    parameter: Tensor = model.get_parameter(name)
    return parameter.data if not parameter.is_meta else _kept(model, name)[0][name.rpartition(".")[2]]


def put_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Let a parameter be this tensor from now on; it is not copied."""
    parameter: Tensor = model.get_parameter(name)
    if not parameter.is_meta:
        parameter.data = tensor
        return
    kept, _ = _kept(model, name)
    leaf = name.rpartition(".")[2]
    if hasattr(kept, "dataset"):
        kept, leaf = kept.dataset, f"{kept.prefix}{leaf}"
    # What lies on the disk stays there as it is, and what was written is kept in memory.
    (kept if isinstance(kept, dict) else kept.state_dict)[leaf] = tensor


def device_of(model: PreTrainedModel) -> torch.device:
    """Where a model computes: the inputs of its first layers are wanted there."""
    device: torch.device = model.device
    if device.type != "meta":
        return device
    hooks = (hook for module in model.modules() for hook in _hooks(module))
    return next(torch.device(one) for hook in hooks if (one := hook.execution_device) is not None)


def is_set_aside(model: nn.Module) -> bool:
    """Whether some of the model's weights are put into its modules only while they compute."""
    return any(parameter.is_meta for parameter in model.parameters())


class Tensors(Mapping[str, Tensor]):
    """The parameters of a model by name, tied ones once; each is read when it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        # Placeholders are not the same object any more where the numbers are.
        tied = getattr(model, "all_tied_weights_keys", {}) if is_set_aside(model) else {}
        self._model, self._names = model, [name for name, _ in model.named_parameters() if name not in tied]

    @property
    def size(self) -> int:
        """Bytes of all of them; none is read."""
        return sum(self._model.get_parameter(name).nbytes for name in self._names)

    def __getitem__(self, name: str) -> Tensor:
        return tensor_of(self._model, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _kept(model: nn.Module, name: str):  # type: ignore[no-untyped-def]  # accelerate's maps have no types
    module = model.get_submodule(name.rpartition(".")[0])
    return next((hook.weights_map, hook) for hook in _hooks(module) if hook.weights_map is not None)


def _hooks(module: nn.Module):  # type: ignore[no-untyped-def]  # as above
    hook = getattr(module, "_hf_hook", None)
    some = () if hook is None else getattr(hook, "hooks", (hook,))
    return [one for one in some if hasattr(one, "weights_map")]
