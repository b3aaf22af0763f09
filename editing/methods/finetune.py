"""Fine-tuning one down projection on the targets: the plain baselines FT-L and FT-M, and LocFT-BF.

Zhu et al., "Modifying Memories in Transformer Models", 2020, https://arxiv.org/abs/2012.00363 (a bound on the change);
Zhang et al., "A Comprehensive Study of Knowledge Editing", 2024, https://arxiv.org/abs/2401.01286 (FT-L and FT-M);
Yang et al., "Fine-tuning Done Right in Model Editing", 2025, https://arxiv.org/abs/2509.22072 (LocFT-BF).

    min −log p(target | prompt)  over Δ  so that  |Δ| ≤ norm_limit · |W|  (Frobenius)

FT-M: cross-entropy on the target's tokens, the prompt masked. FT-L: every token of the target is asked of the prompt's
last token. LocFT-BF: FT-M in minibatches and passes over the whole batch, the target closed by the end of text; set
`minibatch` and `append_eos`. The inputs X of the tuned weight depend on the layers below alone, so they stay as they
are, and every gradient with respect to W lies in their span: Δ = B Qᵀ, Q being an orthonormal basis of X, loses nothing
against tuning all of W and gives factors. (For gradient descent the two are the same; Adam, used here and in the
papers' code, rescales coordinates, here those of B.) Neither key statistics nor a value search nor history take part.

Shapes: d = key size, m = hidden size, t = tokens, r = rank of X.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from editing.body import run_body
from editing.config import OneLayerConfig
from editing.edit import Edit
from editing.keys import capture_inputs, in_rows, stop_after
from editing.methods.gradients.descent import Descent
from editing.methods.gradients.targets import encode_targets
from editing.methods.shared.interface import BatchUpdate, Method, MethodInput, one_by_one, only_layer
from editing.placed import tensor_of
from editing.tokens import Rows
from editing.weights import Factors, WeightUpdate, overlay


class FineTuneConfig(OneLayerConfig):
    method: Literal["finetune"] = "finetune"
    objective: Literal["target", "last"] = Field("target", description="target: FT-M; last: FT-L.")
    steps: int = Field(50, ge=1, le=1000, description="Most evaluations of the batch's loss.")
    learning_rate: float = Field(5e-3, gt=0, description="Adam's step size.")
    stop_loss: float = Field(0.05, ge=0, description="Tuning ends when the batch's loss is below this.")
    norm_limit: float = Field(0.2, gt=0, description="Largest |Δ| of one batch as a share of |W|.")
    minibatch: int | None = Field(None, ge=1, description="Edits of one step, for LocFT-BF; none: the whole batch.")
    append_eos: bool = Field(False, description="Close targets by the end of text, for LocFT-BF.")

    @field_validator("append_eos", mode="after")
    @classmethod
    def _follows_the_target(cls, append_eos: bool, info: ValidationInfo) -> bool:
        if append_eos and info.data.get("objective") == "last":
            raise ValueError("the end of text follows the target; take objective 'target'")
        return append_eos


def compute_update(given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: FineTuneConfig) -> BatchUpdate:
    """The update that tuning on all `edits` together gives; `z_star_nm` is not looked at.

    Raises:
        SearchError: the loss became NaN or infinite.
        InvalidEdit: a subject is lost in tokenisation.
    """
    layer = only_layer(given, "finetune")
    return BatchUpdate({given.layout.weight_name(layer): _tune(given, layer, edits, config)}, {})


def compute_independent_updates(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, config: FineTuneConfig
) -> list[WeightUpdate]:
    """For each edit the update that tuning on it alone gives."""
    layer = only_layer(given, "finetune")
    name = given.layout.weight_name(layer)
    return [{name: _tune(one, layer, [edit], config)} for one, edit in one_by_one(given, edits)]


def _tune(given: MethodInput, layer: int, edits: Sequence[Edit], config: FineTuneConfig) -> Factors:
    """Adam on B, the change kept within its bound after every step."""
    encode = partial(
        encode_targets,
        given.model,
        given.tokenizer,
        at_last=config.objective == "last",
        append_eos=config.append_eos,
    )
    Q_dr = _basis(given, layer, encode(edits).rows)
    name = given.layout.weight_name(layer)
    W = tensor_of(given.model, name)
    limit = config.norm_limit * float(W.float().norm())
    B_mr = torch.zeros(given.layout.oriented(W).shape[0], Q_dr.shape[1], device=Q_dr.device, requires_grad=True)

    @torch.no_grad()
    def bound() -> None:
        B_mr.mul_((limit / B_mr.norm()).clamp(max=1))  # |B Qᵀ| = |B|

    with overlay(given.model, given.layout, {name: Factors(B_mr, Q_dr.T)}):  # gradients pass through to B
        descent = Descent(
            "fine-tuning", config.steps, config.learning_rate, config.stop_loss, config.minibatch, config.seed
        )
        descent.run(given.model, edits, [B_mr], encode, bound, given.on_progress)
    return Factors(B_mr.detach().cpu().contiguous(), Q_dr.T.cpu().contiguous())


@torch.no_grad()
def _basis(given: MethodInput, layer: int, rows: Rows) -> Tensor:
    """Q (d, r) float32: an orthonormal basis of the inputs of the tuned weight at all real tokens."""
    module = given.layout.layer_list(given.model)[layer]
    with capture_inputs({layer: given.layout.projection(given.model, layer)}) as inputs, stop_after(module):
        run_body(given.model, **rows.inputs)
    X_td = in_rows(inputs[layer], rows.attention_mask)[rows.attention_mask.bool()].double()
    _, singular, Vh_rd = torch.linalg.svd(X_td, full_matrices=False)
    Q_rd: Tensor = Vh_rd[singular > 1e-6 * singular[0]]
    return Q_rd.T.float()


FINETUNE = Method("finetune", FineTuneConfig, compute_update, compute_independent_updates)
