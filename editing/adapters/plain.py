"""A model as a plain folder for `from_pretrained`, in words that transformers 4 and 5 read alike.

What `save_pretrained` of transformers 5 writes, 4 reads otherwise or not at all: it takes the frequencies of rotary
positions from other fields, and silently from its defaults where those are absent; it knows no `TokenizersBackend`;
and it wants the further special tokens under another name. All of these are said twice, or as both read them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from editing.files import write_atomically
from editing.models import LoadedModel, quiet_transformers

SHARD = "2GB"
"""Of the weights, so much is written at once."""
ONLY_5 = ("backend", "is_local", "local_files_only")
"""Of a tokenizer's configuration: where it came from, which says nothing of how it splits texts."""


def save_plain(loaded: LoadedModel, folder: Path) -> None:
    """Write the model as it stands, its tokenizer and chat template; no second copy of the weights is made."""
    with quiet_transformers():
        loaded.model.save_pretrained(folder, max_shard_size=SHARD)
        loaded.tokenizer.save_pretrained(folder)
    _rewrite(folder / "config.json", read_by_both)
    _rewrite(folder / "tokenizer_config.json", lambda config: tokenizer_read_by_both(config, loaded))


def read_by_both(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration with what transformers 4 looks for beside what 5 does."""
    found = dict(config)
    if isinstance(found.get("text_config"), dict):
        found["text_config"] = read_by_both(found["text_config"])
    if "dtype" in found:
        found["torch_dtype"] = found["dtype"]
    rope = found.get("rope_parameters")
    if not isinstance(rope, dict):
        return found
    if "full_attention" in rope:  # one of each kind of layer
        local = rope.get("sliding_attention", {})
        return found | {"rope_local_base_freq": local.get("rope_theta")} | _rope(rope["full_attention"])
    found |= _rope(rope)
    if found.get("model_type") == "gpt_neox":
        names = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}
        found |= {old: rope[new] for old, new in names.items() if new in rope}
    return found


def _rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta`, `partial_rotary_factor` and `rope_scaling` out of transformers 5's one object."""
    plain = {name: parameters[name] for name in ("rope_theta", "partial_rotary_factor") if name in parameters}
    scaled = {name: value for name, value in parameters.items() if name not in plain}
    return plain | {"rope_scaling": None if scaled.get("rope_type", "default") == "default" else scaled}


def tokenizer_read_by_both(config: Mapping[str, Any], loaded: LoadedModel) -> dict[str, Any]:
    """A tokenizer's configuration as both read it, with the chat template that has a file of its own, too."""
    found = {name: value for name, value in config.items() if name not in ONLY_5}
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(found.get("extra_special_tokens"), list):
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    # 4 has kinds of tokens among its own inputs, and `generate` refuses them of a model that takes none.
    found["model_input_names"] = ["input_ids", "attention_mask"]
    if isinstance(loaded.tokenizer.chat_template, str):
        found["chat_template"] = loaded.tokenizer.chat_template
    return found


def _rewrite(path: Path, change: Any) -> None:
    config = change(json.loads(path.read_text(encoding="utf-8")))
    write_atomically(path, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
