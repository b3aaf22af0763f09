"""What the gradient of a loss with respect to a linear module's weight is made of: inputs and output gradients.

    ∂loss/∂W = Σ δ uᵀ  over all tokens, u being the module's input and δ the loss's gradient at its output

Shapes: b = rows, s = tokens of a row, d = key size, m = value size, t = tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from editing.errors import SearchError
from editing.keys import in_rows
from editing.methods.gradients.targets import Targets, target_loss


def gradient_parts(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], targets: Targets
) -> dict[str, tuple[Tensor, Tensor]]:
    """u (b, s, d) and δ (b, s, m) of each module for `target_loss`, in the model's dtype; no parameter's .grad is set.

    Raises:
        SearchError: the loss is NaN or infinite.
    """
    with _probed(modules) as (inputs, probes):
        loss = target_loss(model, targets)
        if not loss.isfinite():
            raise SearchError(f"the loss of the targets is {loss.item()}; leave out the edits that are not finite")
        gradients = torch.autograd.grad(loss, [probes[name] for name in modules])
    mask = targets.rows.attention_mask
    return {
        name: (in_rows(inputs[name], mask), in_rows(gradient, mask))
        for name, gradient in zip(modules, gradients, strict=True)
    }


@dataclass(frozen=True)
class TokenGradients:
    """What all tokens of some rows contribute to the gradient of one weight: ∂loss/∂W = δᵀ u."""

    u_td: Tensor
    delta_tm: Tensor
    lengths: tuple[int, ...]
    """How many of the tokens belong to each row, in order."""

    def rows(self, first: int, last: int) -> "TokenGradients":
        """Those of the rows from `first` up to `last`."""
        start, count = sum(self.lengths[:first]), sum(self.lengths[first:last])
        at = slice(start, start + count)
        return TokenGradients(self.u_td[at], self.delta_tm[at], self.lengths[first:last])


def token_gradients(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], targets: Targets
) -> dict[str, TokenGradients]:
    """u and δ of every token whose output the loss depends on, float32, where the model is.

    Raises:
        SearchError: the loss is NaN or infinite.
    """
    found = {}
    for name, (u_bsd, delta_bsm) in gradient_parts(model, modules, targets).items():
        counts = targets.rows.attention_mask.bool() & delta_bsm.ne(0).any(dim=2)
        lengths = tuple(counts.sum(1).tolist())
        found[name] = TokenGradients(u_bsd[counts].float(), delta_bsm[counts].float(), lengths)
    return found


def join(parts: Sequence[TokenGradients]) -> TokenGradients:
    """The rows of all `parts`, in order."""
    return TokenGradients(
        torch.cat([part.u_td for part in parts]),
        torch.cat([part.delta_tm for part in parts]),
        tuple(length for part in parts for length in part.lengths),
    )


def feature_moments(Z_tz: Tensor) -> Tensor:
    """Σ 1, Σ z and Σ z² over the features, (3, d + m) float64."""
    Z_tz = Z_tz.double()
    return torch.stack([torch.ones_like(Z_tz), Z_tz, Z_tz.square()]).sum(1)


def at_places(values_bsx: Tensor, targets: Targets) -> Tensor:
    """The rows of `values_bsx` where the wanted tokens are predicted, (t, x) float64."""
    return values_bsx[targets.places[:, 0], targets.places[:, 1]].double()


@contextmanager
def _probed(modules: Mapping[str, nn.Module]) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Inside, each module's input is kept, and a zero that wants a gradient is added to its output."""
    inputs: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}

    def probe(name: str):  # type: ignore[no-untyped-def]  # the hook's type is torch's own
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[name], probes[name] = args[0].detach(), torch.zeros_like(output, requires_grad=True)
            return output + probes[name]

        return add

    handles = [module.register_forward_hook(probe(name)) for name, module in modules.items()]
    try:
        yield inputs, probes
    finally:
        for handle in handles:
            handle.remove()
