"""What MEND's hypernetwork is trained to make small, differentiable in its parameters.

Mitchell et al., "Fast Model Editing at Scale", ICLR 2022, https://arxiv.org/abs/2110.11309, section 3.3:

    L = c_edit · L_e + L_loc
    L_e   = −log p̃(target | paraphrase)             p̃: the model with the edit's update in force
    L_loc = KL(p(· | locality) ‖ p̃(· | locality))   at the tokens of the locality prompt's answer

The paraphrase may be the edit's own prompt. The update runs as an overlay, each edit its own in its own rows: gradients
reach the hypernetwork through its factors, and no tensor of the base is ever written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from editing.features import TokenGradients, token_gradients
from editing.layout import layout_of
from editing.lower_states import LowerStates
from editing.methods.mend_examples import Example
from editing.methods.mend_network import MendNetwork
from editing.models import LoadedModel
from editing.targets import encode_pairs, encode_targets, target_logits, target_loss
from editing.weights import concatenate, overlay


def edit_gradients(
    loaded: LoadedModel,
    modules: Mapping[str, nn.Module],
    examples: Sequence[Example],
    below: LowerStates | None = None,
) -> dict[str, TokenGradients]:
    """What the gradients of the examples' edits on the base are made of, by weight.

    `below`, where it is given, knows the layers below those of `modules`.

    Raises:
        SearchError: the base's loss is not finite.
    """
    targets = encode_targets(loaded.model, loaded.tokenizer, [one.edit for one in examples])
    return token_gradients(loaded.model, modules, replace(targets, below=below))


def losses(
    loaded: LoadedModel,
    network: MendNetwork,
    examples: Sequence[Example],
    gradients: Mapping[str, TokenGradients],
    together: int = 1,
    below: LowerStates | None = None,
) -> tuple[Tensor, Tensor]:
    """L_e and L_loc summed over the examples; each `together` of them have the sum of their updates in force."""
    model, tokenizer = loaded.model, loaded.tokenizer
    asked = replace(encode_pairs(model, tokenizer, [one.asked for one in examples]), below=below)
    spared = replace(encode_pairs(model, tokenizer, [one.spared for one in examples]), below=below)
    with torch.no_grad():
        base = target_logits(model, spared).log_softmax(-1)
    alone = network.updates(gradients)
    summed = [concatenate(alone[start : start + together]) for start in range(0, len(alone), together)]
    with overlay(model, layout_of(model), [summed[row // together] for row in range(len(alone))]):
        edit_loss = target_loss(model, asked)
        edited = target_logits(model, spared).log_softmax(-1)
    return edit_loss, ((base.exp() * (base - edited)).sum(1) * spared.weights).sum()
