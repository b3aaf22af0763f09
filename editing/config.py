"""Configurations of methods: frozen, unknown fields refused, checked where a value is given."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from editing.errors import ModelError
from editing.numbers_given import NumbersAreNoBooleans
from editing.products import Products

STATISTICS_TOKENS = 6144
"""Tokens of text behind key statistics, where a configuration says nothing else: 64 sampled rows with their words."""
BEFORE_SHRINKAGE = {
    "shrink": False,
    "statistics_tokens": 98304,
    "statistics_alternatives": 0,
    "statistics_weight": 2000.0,
}
"""What a configuration meant by fields that it leaves out, where it was stored before there was the field `shrink`."""

LayerNumbers = Annotated[tuple[int, ...], Field(min_length=1, max_length=64)]
OneLayerNumber = Annotated[tuple[int, ...], Field(min_length=1, max_length=1)]


FewerBits = Literal["int8", "q8_0", "q4_1"]
"""Formats of weights in which a model is served: editing/measure/quantised.py."""


class Config(NumbersAreNoBooleans):
    """Frozen, closed, without NaN or infinity, and with true and false for no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ValueSearchConfig(Config):
    """The search for the hidden state z* that makes the model say the target (MEMIT, section 4.2; ROME, eq. 4)."""

    steps: int = Field(
        15,
        ge=1,
        le=1000,
        description="Most evaluations of the loss, √n times as many for n of one key; published: 25.",
    )
    optimiser: Literal["normalised", "adam"] = Field("normalised", description="How δ steps down; published: adam.")
    step_length: float = Field(0.25, gt=0, description="First step of `normalised`, as a share of |z|.")
    learning_rate: float = Field(0.5, gt=0, description="Step size of `adam`.")
    stop_loss: float = Field(0.05, ge=0, description="An edit leaves the search when its loss is below this.")
    clamp: float = Field(0.75, gt=0, description="Largest |δ| as a multiple of the hidden state's norm.")
    weight_decay: float = Field(0.5, ge=0, description="Weight of |δ| / |z|² in the loss.")
    kl_weight: float = Field(0.0625, ge=0, description="Weight of KL on '{subject} is a' in the loss.")
    stop_at_argmax: bool = Field(
        False, description="An edit also leaves when every target token is the most probable one (ENCORE, section 4.1)."
    )
    products: Products = Field(
        "auto", description="Products of the search: as the weights are, or bfloat16 (auto: where that is faster)."
    )
    edits_at_once: int = Field(10, ge=1, description="Edits searched in one batch of rows; bounds memory.")


class MethodConfig(Config):
    """What every method has; `method` is the name that METHODS knows it by.

    A config has the fields that its method reads and no other: an option that would be ignored is refused.
    """

    one_layer: ClassVar[bool] = False
    late_layers: ClassVar[bool] = False
    last_layers: ClassVar[int | None] = None
    makes_up: ClassVar[bool] = False
    """Whether the solve itself can keep out of protected directions of keys, and make up for it in all others."""

    layers: LayerNumbers | None = Field(None, description="Edited layers, rising; none: the model's preset.")
    seed: int = Field(0, ge=0, description="Seed of everything that is sampled.")
    norm_clamp: float | None = Field(
        None, gt=1, description="PRUNE's α: how the total's singular values above the base weight's are lowered."
    )
    compensate: bool = Field(
        True,
        description="Give back what `norm_clamp` took before, and where the method solves make up elsewhere for "
        "`protect`; false: filters.",
    )
    protect: float | None = Field(
        None, gt=0, lt=1, description="Share of the base weight's Σ σ²: updates leave its leading directions alone."
    )
    protect_strength: float = Field(1.0, gt=0, le=1, description="How much of the update there is taken away.")
    protect_side: Literal["keys", "both"] = Field(
        "keys", description="Directions of the weight's input (SPHERE), or of its output too (REVIVE)."
    )
    method: str

    @property
    def spares(self) -> bool:
        """Whether the solve keeps out of the protected directions of keys, so that nothing is left to filter there."""
        return self.makes_up and self.protect is not None and self.compensate


class OneLayerConfig(MethodConfig):
    """The same for methods that edit a single layer."""

    one_layer: ClassVar[bool] = True

    layers: OneLayerNumber | None = Field(None, description="The edited layer; none: the last of the model's preset.")


class LocatingConfig(MethodConfig):
    """The same for methods that locate, then edit: they search values, in contexts, and use key statistics."""

    contexts: int = Field(5, ge=1, le=64, description="Contexts of each prompt: the bare one and sampled prefixes.")
    context_tokens: int = Field(16, ge=1, le=64, description="Length of each sampled prefix.")
    statistics_tokens: int = Field(STATISTICS_TOKENS, ge=1, description="Tokens of text behind the key statistics.")
    statistics_alternatives: int = Field(
        4, ge=0, le=64, description="Further tokens at each place of sampled text, whose keys count too."
    )
    shrink: bool = Field(True, description="Shrink the key statistics as Ledoit and Wolf do, so that little text does.")
    search: ValueSearchConfig = ValueSearchConfig()


class SpreadingConfig(LocatingConfig):
    """The same for those that spread what is missing over several layers."""

    spread: Literal["linear", "sqrt"] = Field(
        "linear", description="Share of the residual that a layer takes, k layers being left: 1/k, or 1/√k (PMET)."
    )


PRESET_LAYERS = {
    ("llama", 30, 576): (2, 3, 4, 5),
    ("gemma3_text", 18, 640): (3, 4, 5, 6),
    ("gpt2", 48, 1600): (13, 14, 15, 16, 17),
    ("gptj", 28, 4096): (3, 4, 5, 6, 7, 8),
}
"""Edited layers by (model_type, number of layers, hidden size), where they were measured or published."""


def layers_for(config: MethodConfig, model_type: str, count: int, hidden: int) -> tuple[int, ...]:
    """The configured layers, the preset for this model, or four layers that begin at a twelfth of its depth.

    A method of one layer gets the last of them, at which the others search their values; one of late layers gets
    four that begin at four fifths of the depth instead, one of the last layers as many as it says.
    """
    if config.layers is not None:
        return config.layers
    if config.last_layers is not None:
        return tuple(range(max(0, count - config.last_layers), count))
    layers = _late_layers(count) if config.late_layers else _usual_layers(model_type, count, hidden)
    return layers[-1:] if config.one_layer else layers


def _late_layers(count: int) -> tuple[int, ...]:
    """Up to four layers that begin at four fifths of the depth, below the last one."""
    first = min(4 * count // 5, count - 2)
    return tuple(range(first, min(first + 4, count - 1)))


def _usual_layers(model_type: str, count: int, hidden: int) -> tuple[int, ...]:
    if (model_type, count, hidden) in PRESET_LAYERS:
        return PRESET_LAYERS[model_type, count, hidden]
    if count < 3:
        raise ModelError(f"a model of {count} layers is too shallow to edit; it needs at least 3")
    first = max(1, count // 12)
    return tuple(range(first, min(first + 4, max(first + 1, count // 2))))
