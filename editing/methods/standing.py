"""How much of each fact's correction stands in the weights as they are, and how full these are.

    missing = |z* − z| / |z* − z_base|        z at the last edited layer, at the subject's last token

0: all of it stands; 1: as much is missing as on the base. It takes a pass over the prompts up to their subjects,
through the layers up to the last edited one: a fraction of what it takes to ask.

    drift of a layer            tr(Δ C Δᵀ) / tr(W C Wᵀ)          how far general text is moved
    directions used             tr(H (λC + H)⁻¹)                 H = Σ k kᵀ over the live facts

Shapes: d = key size, m = hidden size, n = facts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from editing.edit import Edit
from editing.groups import KeyNames
from editing.keys import SubjectReader
from editing.methods.located import gather
from editing.methods.shared.interface import MethodInput
from editing.methods.shared.solve import cholesky
from editing.progress import counted
from editing.tokens import EncodedPrompt, pad_token
from editing.weights import EditedWeights


def subject_states(given: MethodInput, keys: KeyNames, edits: Sequence[Edit]) -> Tensor:
    """Output of the last edited layer at each fact's subject, of the model as it stands, (n, m) float32 on the CPU.

    `given.on_progress` hears how many tokens ran.

    Raises:
        InvalidEdit: a subject is lost in tokenisation.
    """
    last = given.layers[-1]
    names = [keys.of(edit) for edit in edits]
    row = {name: number for number, name in enumerate(dict.fromkeys(names))}
    prompts = [EncodedPrompt(name, len(name) - 1) for name in row]
    if not prompts:
        return torch.zeros(0, given.model.config.get_text_config().hidden_size)
    reader = SubjectReader(given.model, given.layout, pad_token(given.tokenizer))
    [states] = gather(
        given,
        prompts,
        [{}] * len(prompts),
        lambda some, _: [reader.states(some, last, last, uniform=True).hidden],
        counted(given.on_progress, sum(map(len, row))),
    )
    return states[[row[name] for name in names]].float().cpu()


def missing_shares(z_star_nm: Tensor, z_base_nm: Tensor, z_nm: Tensor) -> Tensor:
    """|z* − z| / |z* − z_base| of each fact, (n,) float32."""
    wanted = (z_star_nm - z_base_nm).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    missing: Tensor = (z_star_nm - z_nm).norm(dim=1) / wanted
    return missing


def relative_drift(given: MethodInput, weights: EditedWeights, layer: int) -> float:
    """tr(Δ C Δᵀ) / tr(W C Wᵀ) of a layer: the mean square of what general text gets more, and of what it gets."""
    name = given.layout.weight_name(layer)
    change = weights.change(name)
    if change is None:
        return 0.0
    C_dd, W_md = given.second_moment(layer), given.layout.oriented(weights.original(name)).double()
    moved, whole = (float(((X.to(C_dd) @ C_dd) * X.to(C_dd)).sum()) for X in (change, W_md))
    return moved / whole if whole else 0.0


def directions_used(given: MethodInput, layer: int, weight: float) -> float:
    """tr(H (λC + H)⁻¹) of a layer: how many of the d directions the live facts hold against general text of weight λ.

    Raises:
        SolveError: λC + H is singular.
    """
    H_dd = given.earlier_keys(layer)
    M_dd = (weight * given.second_moment(layer)).add_(H_dd)
    return float((torch.cholesky_inverse(cholesky(M_dd, "raise statistics_weight")) * H_dd).sum())
