"""What a session keeps in the cache, by what names and as bytes. Each `read_` raises for what is none of it."""

import json
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from editing.edit import Edit
from editing.measure.metrics import EditScores, edit_pairs
from editing.measure.perplexity import Perplexity
from editing.request import fact_of
from editing.taught import join_of
from editing.tokens import holds_special
from tasks.update.prepared import dump_json


def content_of(tokenizer: PreTrainedTokenizerBase, edit: Edit, **more: object) -> dict[str, object]:
    """What an edit says, and how special tokens in it are read and answers are joined: it was otherwise once."""
    read: dict[str, object] = {"special": "text"} if holds_special(tokenizer, edit.model_dump_json()) else {}
    joins = [join_of(*pair) for pair in edit_pairs(edit, edit.neighborhood)]
    read |= {} if set(joins) <= {" "} else {"joins": joins}
    return fact_of(edit).model_dump(exclude={"id"}) | read | more


def value_bytes(z_star: Tensor) -> bytes:
    return bytes(save({"z_star": z_star.contiguous()}))


def read_value(path: Path) -> Tensor:
    """Raises OSError, SafetensorError, KeyError or ValueError for anything but a finite tensor."""
    tensor: Tensor = load(path.read_bytes())["z_star"]
    if not tensor.isfinite().all():
        raise ValueError("a value that is not finite")
    return tensor


def scores_bytes(scores: EditScores) -> bytes:
    return dump_json(scores.to_json())


def read_scores(path: Path) -> EditScores:
    """Raises OSError, ValueError, KeyError or TypeError for anything but scores."""
    return EditScores.from_json(json.loads(path.read_text()))


def number_bytes(value: float) -> bytes:
    return dump_json({"value": value})


def read_number(path: Path) -> float:
    """Raises OSError, ValueError, KeyError or TypeError for anything but a number."""
    return float(json.loads(path.read_text())["value"])


def perplexity_bytes(value: Perplexity) -> bytes:
    return dump_json({"value": float(value), "blocks": value.blocks})


def read_perplexity(path: Path) -> Perplexity:
    """Raises OSError, ValueError, KeyError or TypeError for anything but a perplexity."""
    found = json.loads(path.read_text())
    return Perplexity(found["value"], tuple(map(float, found["blocks"])))
