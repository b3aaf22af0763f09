"""MEMIT with history: facts written into several MLP layers at once, earlier facts kept.

Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, https://arxiv.org/abs/2210.07229, algorithm 1;
the keys of earlier facts in the solve as in AlphaEdit's sequential setting (Fang et al., ICLR 2025).

    z*  by the value search, at the last edited layer L, on the base model          (eq. 16)
    for each layer l of the edited ones, rising:
        K  keys at the subject's last token, averaged over contexts                  (eq. 19)
        R  = (z* − z) / (L − l + 1), z taken with the layers below already edited   (eq. 20)
        Δ  = R Kᵀ (λC + H + K Kᵀ)⁻¹                                                  (eq. 14)

Where the architecture has a norm between the down projection and the hidden state (OLMo 2, Gemma 2 and 3), R is the
change of the projection's output that takes the normed one nearest to that (editing/postnorm.py).

Shapes: d = key size, m = hidden size, n = edits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editing.config import MethodConfig
from editing.covariance import KeyStatistics
from editing.edit import Edit
from editing.history import KeyHistory
from editing.keys import subject_states
from editing.layout import ModelLayout
from editing.postnorm import change_before_norm
from editing.solve import factors, independent_gains, memit_gain
from editing.tokens import encode_prompt, pad_token
from editing.weights import Factors, WeightUpdate, overlay

EDITS_AT_ONCE = 16


class MemitConfig(MethodConfig):
    method: Literal["memit"] = "memit"
    statistics_weight: float = Field(2000.0, gt=0, description="λ: weight of general text against the facts.")


@dataclass(frozen=True)
class Setting:
    """What a method works on: the model as it stands, and what belongs to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layout: ModelLayout
    layers: tuple[int, ...]
    statistics: KeyStatistics
    history: KeyHistory
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class BatchUpdate:
    """An update that is not yet written, and the keys to remember if it is kept."""

    update: WeightUpdate
    keys: dict[int, Tensor]
    """{layer: (n, d)} float32 on the CPU."""


def compute_update(setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MemitConfig) -> BatchUpdate:
    """The update that writes `edits` together; the model is left as it is.

    Raises:
        SolveError: the linear system is singular.
        InvalidEdit: a subject is lost in tokenisation.
    """
    update: dict[str, Factors] = {}
    keys: dict[int, Tensor] = {}
    for layer in setting.layers:
        K_nd, R_mn = _keys_and_residual(setting, edits, z_star_nm, layer, [update] * len(edits))
        gain_nd = memit_gain(*_moments(setting, layer, K_nd), K_nd.T, config.statistics_weight)
        update[setting.layout.weight_name(layer)] = factors(R_mn, gain_nd)
        keys[layer] = K_nd.cpu()
    return BatchUpdate(update, keys)


def compute_independent_updates(
    setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, config: MemitConfig
) -> list[WeightUpdate]:
    """For each edit the update that would write it alone, all computed together; the model is left as it is."""
    updates: list[dict[str, Factors]] = [{} for _ in edits]
    for layer in setting.layers:
        K_nd, R_mn = _keys_and_residual(setting, edits, z_star_nm, layer, updates)
        gain_nd = independent_gains(*_moments(setting, layer, K_nd), K_nd.T, config.statistics_weight)
        for i, update in enumerate(updates):
            update[setting.layout.weight_name(layer)] = factors(R_mn[:, i : i + 1], gain_nd[i : i + 1])
    return list(updates)


def _keys_and_residual(
    setting: Setting, edits: Sequence[Edit], z_star_nm: Tensor, layer: int, updates: Sequence[WeightUpdate]
) -> tuple[Tensor, Tensor]:
    """K (n, d) averaged over contexts and R (m, n), with `updates[i]` in force for edit i."""
    last, contexts = setting.layers[-1], len(setting.prefixes)
    keys, written, hidden = [], [], []
    pad_id = pad_token(setting.tokenizer)
    for start in range(0, len(edits), EDITS_AT_ONCE):
        chunk = slice(start, start + EDITS_AT_ONCE)
        prompts = [
            encode_prompt(setting.tokenizer, prefix, edit.prompt, edit.subject)
            for edit in edits[chunk]
            for prefix in setting.prefixes
        ]
        in_force = [update for update in updates[chunk] for _ in setting.prefixes]
        shared = all(update is in_force[0] for update in in_force)
        with overlay(setting.model, setting.layout, in_force[0] if shared else in_force):
            states = subject_states(setting.model, setting.layout, prompts, layer, last, pad_id)
        keys.append(states.keys.view(-1, contexts, states.keys.shape[1]).mean(1))
        written.append(states.written[::contexts])
        hidden.append(states.hidden[::contexts])
    R_nm = (z_star_nm.to(hidden[0].device) - torch.cat(hidden)) / (last - layer + 1)
    norm = setting.layout.norm_after(setting.model, layer)
    if norm is not None:
        R_nm = change_before_norm(norm, torch.cat(written), R_nm)
    return torch.cat(keys), R_nm.T


def _moments(setting: Setting, layer: int, K_nd: Tensor) -> tuple[Tensor, Tensor]:
    """C and H of a layer where the keys are."""
    C_dd = setting.statistics.moments[layer].to(K_nd.device)
    return C_dd, setting.history.gram(layer, K_nd.shape[1]).to(K_nd.device)
