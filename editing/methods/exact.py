"""MEMIT exact in the order of facts: what a fact asks of each layer depends on the base and on that fact alone.

Each fact is replayed by itself on the base, through the edited layers l, rising, with the layers below as that fact
alone leaves them. So its δ enters each lower layer as what a single edit writes there, in all contexts:

    K_i = its keys,   R_i = (z* − z) / (L − l + 1),   Δ_i = R_i K_iᵀ (λC + K_i K_iᵀ)⁻¹            (MEMIT's loop)

For each layer, then, plain least squares over the columns of all live facts, which knows no order:

    Δ = R Kᵀ (λC + K Kᵀ)⁻¹,    K = [K_1 … K_n],  R = [R_1 … R_n]

A batch adds what is missing to that, whatever stands in the weights; H holds every column that was solved before:

    Δ' = (R − Δ K) Kᵀ (λC + H + K Kᵀ)⁻¹

Columns that are there once make all facts anew without a pass through the model. What is given up: no layer makes up
for what the facts together left unwritten below it.

Shapes: d = key size, m = value size, n = edits, c = columns of all edits, k = columns of an edit.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from editing.edit import Edit
from editing.methods.encoded import SOLVE, encoded, groups_of
from editing.methods.locate import Solve, joined, taken_out_first
from editing.methods.located import Located, locate, roots, weighed
from editing.methods.shared.interface import BatchUpdate, MethodInput, edited_weights
from editing.methods.shared.solve import factors
from editing.progress import counted
from editing.weights import Factors


def locate_alone(
    given: MethodInput, edits: Sequence[Edit], z_star_nm: Tensor, alone: Solve, *, bare_apart: bool
) -> dict[int, Located]:
    """What each edit asks of each layer, whatever stands in the weights: on the base, as if it were the only one.

    `alone` gives the gains (k, n, d) that write each edit as such.

    Raises:
        UsageError: the model's edited weights are not given.
        SolveError: the linear system is singular, or a key or a residual is not finite.
        InvalidEdit: a subject is lost in tokenisation.
    """
    found: dict[int, Located] = {}
    updates: list[dict[str, Factors]] = [{} for _ in edits]
    texts, wanted = encoded(given, edits), None
    done = texts.counting(given)
    with edited_weights(given, "exact_order").at_base():
        for layer in given.layers:
            located = locate(given, edits, z_star_nm, layer, updates, texts, wanted, done)
            wanted, name = located.wanted_cnm, given.layout.weight_name(layer)
            gain_knd = alone(layer, located.columns(bare_apart))
            for i, update in enumerate(updates):
                update[name] = located.of(i).factors(gain_knd[:, i : i + 1])
            found[layer] = located
            done(SOLVE)
    return found


def solve_in_any_order(
    given: MethodInput, edits: Sequence[Edit], found: Mapping[int, Located], solve: Solve, *, bare_apart: bool
) -> BatchUpdate:
    """The update that adds these edits to what stands in the weights; the model is not asked.

    Where nothing stands there the update has one rank an edit, and one more where conversations ask for it; else one
    for each column, since what is missing is another at each.

    Raises:
        UsageError, SolveError: as `locate_alone`.
    """
    update: dict[str, Factors] = {}
    keys: dict[int, Tensor] = {}
    out, given = taken_out_first(given, edits, solve, bare_apart=bare_apart, columns_kept=True)
    done = counted(given.on_progress, len(found))
    groups = groups_of(given, edits)
    for layer, located in found.items():
        name, K_dc = given.layout.weight_name(layer), located.columns(bare_apart)
        root_c = roots(groups, K_dc)
        with given.history.without(layer, out.gone.get(layer)):
            gain_cd = solve(layer, K_dc * root_c) * root_c[:, None]
        change_md = edited_weights(given, "exact_order").change(name)
        if change_md is None:
            update[name] = located.factors(gain_cd.reshape(-1, len(edits), len(K_dc)))
        else:
            if name in out.update:
                change_md = change_md + out.update[name].B.double() @ out.update[name].A.double()
            missing_mc = _wanted(located, K_dc).double() - change_md @ K_dc.double()
            update[name] = joined(out.update.get(name), factors(missing_mc, gain_cd))
        keys[layer] = weighed(groups, K_dc).cpu().contiguous()
        done(1)
    return BatchUpdate(update, keys, gone=out.gone)


def _wanted(located: Located, K_dc: Tensor) -> Tensor:
    """R of each column, (m, c)."""
    kinds = K_dc.shape[1] // located.R_mn.shape[1]
    chats = len(located.chat_cnd) if kinds > 1 else 0
    return torch.cat([located.R_mn] * (kinds - chats) + [located.R_chat_mn] * chats, dim=1)
