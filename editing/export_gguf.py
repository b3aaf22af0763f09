"""An update as a LoRA adapter in GGUF, which llama.cpp adds to a model of the same architecture (`--lora`)."""

import os
import tempfile
from pathlib import Path

import gguf
from transformers import PreTrainedModel

from editing.errors import ModelError
from editing.export import LoraExport
from editing.layout import layout_of
from editing.low_rank import fit_rank
from editing.weights import WeightUpdate

ARCHITECTURES = {
    "bloom": gguf.MODEL_ARCH.BLOOM,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "gptj": gguf.MODEL_ARCH.GPTJ,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "phi": gguf.MODEL_ARCH.PHI2,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""What GGUF calls each `config.model_type` that has a layout."""


def export_gguf_lora(update: WeightUpdate, model: PreTrainedModel, path: Path, *, max_rank: int = 512) -> LoraExport:
    """Write `update` as one GGUF file for a GGUF conversion of `model`; float32, α = r, whole or not at all.

    Raises:
        EditingError: the update is empty or not finite.
        ModelError: a weight has no name in GGUF.
    """
    layout, architecture = layout_of(model), ARCHITECTURES[model.config.model_type]
    needed = max((factors.A.shape[0] for factors in update.values()), default=1)
    fitted = fit_rank(update, (min(needed, max_rank),))
    names = gguf.get_tensor_name_map(architecture, len(layout.layer_list(model)))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[architecture])
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(fitted.rank))
        for weight, factors in fitted.update.items():
            # GGUF numbers the layers of the text part alone, under the names of the plain architecture.
            plain = weight.replace("model.language_model.", "model.")
            name = names.get_name(plain, try_suffixes=(".weight",))
            if name is None:
                raise ModelError(f"weight '{weight}' has no name in GGUF's architecture '{architecture.name}'")
            writer.add_tensor(f"{name}.lora_a", factors.A.numpy())
            writer.add_tensor(f"{name}.lora_b", factors.B.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return LoraExport(fitted.rank, fitted.error)
