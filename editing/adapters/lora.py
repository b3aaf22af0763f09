"""Edits for other programs: an update as a LoRA adapter in PEFT's format, and back.

An adapter adds (α / r) B A to a weight; with α = r that is B A, so an update is an adapter as it stands
(Hu et al., "LoRA", https://arxiv.org/abs/2106.09685). Serving engines take certain ranks only: factors are padded with
zeros to the next one, which changes nothing. For a merged model see `editing.adapters.plain`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from editing.adapters.rank import fit_rank, without_zeros
from editing.errors import ModelError
from editing.files import write_atomically
from editing.layout import ModelLayout
from editing.progress import OnProgress, unheard
from editing.weights import Factors, WeightUpdate

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that serving engines have kernels for."""
PREFIX = "base_model.model."
UNSUPPORTED = ("use_dora", "alpha_pattern", "modules_to_save", "layer_replication", "lora_bias", "use_qalora")
"""Settings of a LoRA config that make it more than a sum W + (α / r) B A."""


@dataclass(frozen=True)
class LoraExport:
    """What was written."""

    rank: int
    error: float
    """|Δ − Δ'| / |Δ|, Frobenius; 0 where the adapter holds the update exactly."""


def export_lora(
    update: WeightUpdate,
    layout: ModelLayout,
    base: str,
    folder: Path,
    *,
    ranks: tuple[int, ...] = SERVED_RANKS,
    max_rank: int = 512,
    on_progress: OnProgress = unheard,
) -> LoraExport:
    """Write `update` as a PEFT adapter into `folder`; load it with `PeftModel.from_pretrained(model, folder)`.

    Args:
        base: the model that the adapter belongs to, as its users name it: a hub id or a folder.
        ranks: ranks to choose from; the smallest that holds the update is taken.
        max_rank: ranks above this are not used; an update of more is cut, and `error` says what that costs.
        on_progress: as in `fit_rank`.

    Raises:
        EditingError: the update is empty, not finite, or no rank is allowed.
    """
    fitted = fit_rank(update, tuple(rank for rank in ranks if rank <= max_rank), on_progress)
    tensors: dict[str, Tensor] = {}
    for name, factors in fitted.update.items():
        module = PREFIX + name.removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = factors.A, factors.B
    config = _config(update, layout, base, fitted.rank)
    # The config goes last: a folder that has one is complete.
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    write_atomically(folder / WEIGHTS_FILE, save(tensors, {"format": "pt"}))
    write_atomically(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    return LoraExport(fitted.rank, fitted.error)


def _config(update: WeightUpdate, layout: ModelLayout, base: str, rank: int) -> dict[str, Any]:
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": layout.transposed,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(name.removesuffix(".weight") for name in update),
        "task_type": "CAUSAL_LM",
    }


def import_lora(folder: Path) -> dict[str, Factors]:
    """A LoRA adapter as an update to go on from; ranks of padding are left out.

    What `export_lora` wrote without cutting comes back bit for bit.

    Raises:
        ModelError: the folder holds no adapter, a broken one, or one that is more than a plain LoRA.
    """
    config, tensors = _read(folder)
    used = [name for name in UNSUPPORTED if config.get(name)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if config.get("peft_type") != "LORA" or used:
        raise ModelError(
            f"adapter '{folder}' is {config.get('peft_type')} with {', '.join(used) or 'no further settings'}; only a "
            "plain LoRA can be imported: merge it into its base and edit that"
        )
    update = {}
    for name in sorted(key for key in tensors if ".lora_A." in key):
        partner = name.replace(".lora_A.", ".lora_B.")
        if partner not in tensors:
            raise ModelError(f"adapter '{folder}' has '{name}' without '{partner}'; export it again")
        A, B = tensors.pop(name).float(), tensors.pop(partner).float()
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1]:
            raise ModelError(
                f"'{name}' {tuple(A.shape)} of adapter '{folder}' does not fit its lora_B {tuple(B.shape)}"
            )
        weight = name.removeprefix(PREFIX).split(".lora_A.")[0] + ".weight"
        update[weight] = without_zeros(Factors(B * _scale(config, A.shape[0]), A))
    if tensors or not update:
        found = min(tensors, default="nothing")
        raise ModelError(f"adapter '{folder}' holds {found}, which is no lora_A / lora_B pair of a weight; merge it")
    return update


def _scale(config: dict[str, Any], rank: int) -> float:
    divisor = rank**0.5 if config.get("use_rslora") else rank
    return float(config.get("lora_alpha", rank)) / divisor


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG_FILE} is no JSON object")
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"no adapter can be read from '{folder}' ({error}); give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ModelError(f"'{broken[0]}' of adapter '{folder}' is not finite; export it again")
    return config, tensors
