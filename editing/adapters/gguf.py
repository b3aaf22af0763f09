"""An update as a LoRA adapter in GGUF, which llama.cpp adds to a model of its architecture (`--lora`), and back."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel

from editing.adapters.lora import LoraExport
from editing.adapters.rank import fit_rank, without_zeros
from editing.errors import ModelError
from editing.files import flush
from editing.layout import layout_of
from editing.progress import OnProgress, unheard
from editing.weights import Factors, WeightUpdate

ARCHITECTURES = {
    "bloom": gguf.MODEL_ARCH.BLOOM,
    "cohere": gguf.MODEL_ARCH.COMMAND_R,
    "cohere2": gguf.MODEL_ARCH.COHERE2,
    "exaone4": gguf.MODEL_ARCH.EXAONE4,
    "falcon": gguf.MODEL_ARCH.FALCON,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "glm": gguf.MODEL_ARCH.CHATGLM,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "gptj": gguf.MODEL_ARCH.GPTJ,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "ministral": gguf.MODEL_ARCH.LLAMA,
    "ministral3": gguf.MODEL_ARCH.MISTRAL3,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "olmo": gguf.MODEL_ARCH.OLMO,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "olmo3": gguf.MODEL_ARCH.OLMO2,
    "phi": gguf.MODEL_ARCH.PHI2,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "stablelm": gguf.MODEL_ARCH.STABLELM,
    "starcoder2": gguf.MODEL_ARCH.STARCODER2,
}
"""What GGUF calls each `config.model_type` that has a layout and that llama.cpp reads."""


def export_gguf_lora(
    update: WeightUpdate,
    model: PreTrainedModel,
    path: Path,
    *,
    max_rank: int = 512,
    on_progress: OnProgress = unheard,
) -> LoraExport:
    """Write `update` as one GGUF file for a GGUF conversion of `model`; float32, α = r, whole or not at all.

    `on_progress` as in `fit_rank`.

    Raises:
        EditingError: the update is empty or not finite.
        ModelError: llama.cpp does not know the architecture, or a weight has no name in GGUF.
    """
    architecture, name_of = _names(model)
    needed = max((factors.A.shape[0] for factors in update.values()), default=1)
    fitted = fit_rank(update, (min(needed, max_rank),), on_progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[architecture])
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(fitted.rank))
        for weight, factors in fitted.update.items():
            name = name_of(weight)
            if name is None:
                raise ModelError(f"weight '{weight}' has no name in GGUF's architecture '{architecture.name}'")
            writer.add_tensor(f"{name}.lora_a", factors.A.numpy())
            writer.add_tensor(f"{name}.lora_b", factors.B.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        flush(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return LoraExport(fitted.rank, fitted.error)


def import_gguf_lora(path: Path, model: PreTrainedModel) -> dict[str, Factors]:
    """A GGUF adapter for `model` as an update to go on from; what `export_gguf_lora` wrote uncut comes back exactly.

    Raises:
        ModelError: the file is no adapter of this architecture, is broken, or holds other weights than are edited.
    """
    layout, (architecture, name_of) = layout_of(model), _names(model)
    try:
        reader = gguf.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {tensor.name: torch.from_numpy(tensor.data.copy()).float() for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise ModelError(f"'{path}' cannot be read as GGUF ({error}); give what export_gguf_lora wrote") from error
    kind, made_for, wanted = (
        fields.get("adapter.type"),
        fields.get("general.architecture"),
        gguf.MODEL_ARCH_NAMES[architecture],
    )
    if (kind, made_for) != ("lora", wanted):
        raise ModelError(f"'{path}' is {kind or 'no adapter'} for {made_for}; give a LoRA adapter for {wanted}")
    update = {}
    for layer in range(len(layout.layer_list(model))):
        weight = layout.weight_name(layer)
        A, B = (tensors.pop(f"{name_of(weight)}.{part}", None) for part in ("lora_a", "lora_b"))
        if A is None or B is None:
            continue
        m, d = layout.oriented(model.get_parameter(weight)).shape
        if A.shape[1:] != (d,) or B.shape != (m, len(A)) or not (A.isfinite().all() and B.isfinite().all()):
            raise ModelError(f"adapter '{path}' does not fit '{weight}' of this model ({m} x {d}), or is not finite")
        update[weight] = without_zeros(Factors(B * (float(fields[gguf.Keys.Adapter.LORA_ALPHA]) / len(A)), A))
    if tensors or not update:
        raise ModelError(
            f"adapter '{path}' holds {min(tensors, default='nothing')}, which is no down projection of this model; "
            "merge it into its base and edit that"
        )
    return update


def _names(model: PreTrainedModel) -> tuple[gguf.MODEL_ARCH, Callable[[str], str | None]]:
    """What GGUF calls the architecture and each weight."""
    architecture = ARCHITECTURES.get(model.config.model_type)
    if architecture is None:
        raise ModelError(
            f"llama.cpp does not know the architecture '{model.config.model_type}', so no GGUF adapter fits it; export "
            "an adapter in PEFT's format, or the whole model"
        )
    names = gguf.get_tensor_name_map(architecture, len(layout_of(model).layer_list(model)))

    def name_of(weight: str) -> str | None:
        # GGUF numbers the layers of the text part alone, under the names of the plain architecture.
        found: str | None = names.get_name(weight.replace("model.language_model.", "model."), try_suffixes=(".weight",))
        return found

    return architecture, name_of
