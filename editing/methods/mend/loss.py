"""What MEND's hypernetwork is trained to make small, differentiable in its parameters.

Mitchell et al., "Fast Model Editing at Scale", ICLR 2022, https://arxiv.org/abs/2110.11309, section 3.3:

    L = c_edit · L_e + L_loc
    L_e   = −log p̃(target | paraphrase)             p̃: the model with the edit's update in force
    L_loc = KL(p(· | locality) ‖ p̃(· | locality))   at the tokens of the locality prompt's answer

−log p is the sum over the target's tokens, KL the mean over the answer's. The paraphrase may be the edit's own prompt.
The update runs as an overlay, each edit its own in its own rows: gradients reach the hypernetwork through its factors,
and no tensor of the base is ever written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from editing.edit import Edit
from editing.layout import layout_of
from editing.methods.gradients.features import TokenGradients, token_gradients
from editing.methods.gradients.lower_states import LowerStates
from editing.methods.gradients.memo import TensorMemo
from editing.methods.gradients.targets import encode_pairs, encode_targets, target_logits
from editing.methods.mend.combine import combine, unit_inputs
from editing.methods.mend.examples import Example
from editing.methods.mend.method import remembered
from editing.methods.mend.network import MendNetwork
from editing.models import LoadedModel
from editing.placed import device_of
from editing.weights import overlay


class EditGradients:
    """What the gradients of edits on the base are made of.

    The base stays as it is, so each edit's are computed once, by itself: to the last bit they do not depend on what
    else is in a batch, and a training that goes on after a stop meets the same numbers as one that never stopped.
    """

    def __init__(self, loaded: LoadedModel, names: Iterable[str], below: LowerStates | None) -> None:
        self.loaded, self.below, self.memo = loaded, below, TensorMemo()
        self.modules = {name: loaded.model.get_submodule(name.removesuffix(".weight")) for name in names}

    def of(self, edits: Sequence[Edit]) -> dict[str, TokenGradients]:
        """By weight, the tokens of all `edits` in their order.

        Raises:
            SearchError: the base's loss is not finite.
        """
        device = device_of(self.loaded.model)
        each = [self.memo.get((edit.prompt, edit.subject, edit.target_new), partial(self._one, edit)) for edit in edits]
        found = {}
        for i, name in enumerate(self.modules):
            u_td, delta_tm = (torch.cat([parts[2 * i + k] for parts in each]).to(device) for k in (0, 1))
            found[name] = TokenGradients(u_td, delta_tm, tuple(len(parts[2 * i]) for parts in each))
        return found

    def _one(self, edit: Edit) -> tuple[Tensor, ...]:
        targets = encode_targets(self.loaded.model, self.loaded.tokenizer, [edit]).summed()
        targets = replace(targets, below=self.below)
        found = token_gradients(self.loaded.model, self.modules, targets)
        return tuple(part for name in self.modules for part in (found[name].u_td, found[name].delta_tm))


def left_alone(network: MendNetwork, gradients: EditGradients, edits: Sequence[Edit]) -> dict[str, Tensor]:
    """H (d, d) float64 by weight as `combine` wants it, `edits` being those of earlier batches.

    Raises:
        SearchError: the base's loss is not finite.
    """
    names = remembered(layout_of(gradients.loaded.model), network)
    if not edits or not names:
        return {}
    inputs = {name: unit_inputs(one) for name, one in gradients.of(edits).items() if name in names}
    return {name: U_td.T @ U_td for name, U_td in inputs.items()}


def losses(
    loaded: LoadedModel,
    network: MendNetwork,
    examples: Sequence[Example],
    gradients: Mapping[str, TokenGradients],
    together: int = 1,
    below: LowerStates | None = None,
    earlier: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """L_e and L_loc summed over the examples; each `together` of them have their one common update in force.

    Args:
        below: what knows the layers below those of the updates, if anything does.
        earlier: H of what the updates are to leave alone, see `combine`.
    """
    model, tokenizer, count = loaded.model, loaded.tokenizer, len(examples)
    asked, spared = [one.asked for one in examples], [one.spared for one in examples]
    alone = replace(encode_pairs(model, tokenizer, spared), below=below)
    with torch.no_grad():
        base = target_logits(model, alone).log_softmax(-1)
    both = replace(encode_pairs(model, tokenizer, [*asked, *spared]), below=below)
    parts = network.updates(gradients)
    common = []
    for start in range(0, count, together):
        stop = start + together
        tokens = {name: one.rows(start, stop) for name, one in gradients.items()}
        common.append(combine(parts[start:stop], tokens, network.spec.ridge, earlier))
    with overlay(model, layout_of(model), [common[row // together] for row in range(count)] * 2):
        logits = target_logits(model, both)
    is_asked = both.places[:, 0] < count
    edit_loss = nn.functional.cross_entropy(logits[is_asked], both.tokens[is_asked], reduction="sum")
    edited = logits[~is_asked].log_softmax(-1)
    return edit_loss, ((base.exp() * (base - edited)).sum(1) * alone.weights).sum()
