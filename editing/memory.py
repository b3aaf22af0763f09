"""What a job takes of memory, foretold from a model's configuration alone.

Shapes: P parameters of w bytes, L edited layers, d key size, m hidden size, V vocabulary, T tokens and t places of one
step of the search. Everything is counted that stands at once; what is smaller than a hundredth of it is not.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from editing.collection import TOKENS_AT_ONCE
from editing.config import LocatingConfig
from editing.key_sums import PART_BATCHES, SUMMED_AT_ONCE
from editing.layout import layout_of

RUNTIME = 400 << 20
"""Python with torch and transformers."""
TOKENS_AN_EDIT = 34
"""Tokens of a step of the search for each edit: its contexts from the subject on, a prompt for KL, a conversation."""
PLACES_AN_EDIT = 6.3
"""Of them, those at which something is predicted."""
BEFORE_AN_EDIT = 5 * 15 * 4
"""Tokens before the subjects' ends whose keys and values in attention stand for all steps: contexts, length, turns."""
KEPT_OF_HIDDEN, KEPT_OF_KEYS = 20, 3
"""How often a layer keeps a token's hidden state, and its key, for the way back: norms and attention; the MLP."""
KEPT_OF_LOGITS = 5
"""Logits, their logarithms, those of before, and the gradient of both."""
DOUBLE, SINGLE = 8, 4


@dataclass(frozen=True)
class Shape:
    """What of a model decides how much memory it takes."""

    parameters: int
    layers: int
    in_layers: int
    """Parameters of all layers together."""
    hidden: int
    keys: int
    attention: int
    """Numbers of a token's keys and values in one layer's attention."""
    vocabulary: int
    edited: int
    above: int
    """Layers above the last edited one, through which values are searched."""


@dataclass(frozen=True)
class Part:
    """A stage of a job."""

    name: str
    bytes: int
    """What it takes beside what stands already."""
    stands: int
    """What of it stays, for the stages after it."""
    lower: str
    """What makes it less."""


def shape_of(config: PreTrainedConfig, edited: Sequence[int]) -> Shape:
    """The shape of a model that is not loaded, of which these layers are edited.

    Raises:
        ModelError: it cannot be edited.
    """
    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    layout = layout_of(model)
    layers = layout.layer_list(model)
    m, d = layout.oriented(model.get_parameter(layout.weight_name(edited[0]))).shape
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=len(layers),
        in_layers=sum(parameter.numel() for layer in layers for parameter in layer.parameters()),
        hidden=m,
        keys=d,
        attention=2 * _heads(text) * _head_size(text),
        vocabulary=text.vocab_size,
        edited=len(edited),
        above=len(layers) - 1 - edited[-1],
    )


def _heads(config: PreTrainedConfig) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _head_size(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def stages(shape: Shape, width: int, method: LocatingConfig, *, narrow: bool = False) -> Iterator[Part]:
    """The stages of a job in their order; `narrow`: products in bfloat16 beside wider weights."""
    L, d, m = shape.edited, shape.keys, shape.hidden
    square, moment = d * d * DOUBLE, d * d * SINGLE
    yield Part("Python and its libraries", RUNTIME, RUNTIME, "")
    weights = shape.parameters * width
    yield Part("weights", weights, weights, "dtype (bfloat16 halves float32)")
    waiting = SUMMED_AT_ONCE * d * SINGLE
    keys = method.statistics_tokens * (1 + method.statistics_alternatives)
    sums = L if keys <= PART_BATCHES * TOKENS_AT_ONCE else 2 * L  # of the part at hand, and of those before it
    yield Part("key statistics", (sums + 2) * moment + (L + 1) * waiting, L * moment, "layers")
    edits = method.search.edits_at_once
    tokens = edits * TOKENS_AN_EDIT
    kept = tokens * (KEPT_OF_HIDDEN * m + KEPT_OF_KEYS * d) * shape.above * SINGLE
    before = edits * BEFORE_AN_EDIT * shape.attention * shape.above * SINGLE
    logits = int(edits * PLACES_AN_EDIT) * shape.vocabulary * SINGLE * KEPT_OF_LOGITS
    copies = shape.in_layers * shape.above // shape.layers * 2 if narrow else 0
    yield Part("search of values", kept + before + logits + copies, 0, "search.edits_at_once")
    yield Part("solve", (L + 2) * square, L * square, "layers")
    written = 2 * L * m * d * (width + DOUBLE)  # weights and their sums, and those of before until a batch is judged
    yield Part("weights as written", written, written, "layers")


def conversion(shape: Shape) -> Part:
    """What it takes before all else to dequantise a GGUF file to float32, once."""
    return Part("conversion of GGUF", shape.parameters * SINGLE, 0, "a folder of the model instead")


def peak(parts: Iterable[Part]) -> int:
    """The most that stands at once, in bytes."""
    standing = most = 0
    for part in parts:
        most, standing = max(most, standing + part.bytes), standing + part.stands
    return max(most, standing)


def bytes_a_fact(shape: Shape) -> int:
    """What every fact adds to a version: its factors of each edited weight, in float32."""
    return shape.edited * (shape.keys + shape.hidden) * SINGLE
