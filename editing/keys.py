"""Keys and hidden states at the subject's last token, read in one pass that stops at the last layer it needs.

Shapes: n = rows, d = key size, m = hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from editing.body import run_body
from editing.layout import ModelLayout
from editing.tokens import EncodedPrompt, align_rows

LayerOutput = Tensor | tuple[Any, ...]
"""Hidden states, or a tuple that begins with them: architectures differ."""


def hidden_of(output: LayerOutput) -> Tensor:
    """The hidden states of what a layer gave."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


class _Enough(Exception):
    """Ends a forward pass early."""


@contextmanager
def stop_after(module: nn.Module) -> Iterator[None]:
    """End any forward pass inside this context as soon as `module` has run."""

    def stop(module: nn.Module, args: object, output: object) -> None:
        raise _Enough

    handle = module.register_forward_hook(stop)
    try:
        yield
    except _Enough:
        pass
    finally:
        handle.remove()


@contextmanager
def capture_inputs(modules: dict[int, nn.Module]) -> Iterator[dict[int, Tensor]]:
    """The first argument of each module's latest call, by the module's number."""
    inputs: dict[int, Tensor] = {}

    def saver(number: int):  # type: ignore[no-untyped-def]  # the hook's type is torch's own
        def save(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[number] = args[0]

        return save

    handles = [module.register_forward_pre_hook(saver(number)) for number, module in modules.items()]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_output(module: nn.Module) -> Iterator[list[LayerOutput]]:
    """What `module` gave in its latest call, as a list of one."""
    outputs: list[LayerOutput] = []

    def save(module: nn.Module, args: object, output: LayerOutput) -> None:
        outputs[:] = [output]

    handle = module.register_forward_hook(save)
    try:
        yield outputs
    finally:
        handle.remove()


@dataclass(frozen=True)
class SubjectStates:
    """What the model holds at the subject's last token, float32."""

    keys: Tensor
    """k of one layer, (n, d)."""
    written: Tensor
    """What that layer's down projection makes of its keys, (n, m)."""
    hidden: Tensor
    """Output of a later layer, (n, m)."""


@torch.no_grad()
def subject_states(
    model: PreTrainedModel,
    layout: ModelLayout,
    prompts: Sequence[EncodedPrompt],
    key_layer: int,
    hidden_layer: int,
    pad_id: int,
) -> SubjectStates:
    """Keys of `key_layer` and the output of `hidden_layer` for each prompt, in one batch.

    Causal attention makes later tokens irrelevant, so each row ends at its subject and the last column is the place.
    """
    last = layout.layer_list(model)[hidden_layer]
    rows = align_rows([p.ids[: p.subject_index + 1] for p in prompts], [p.subject_index for p in prompts], pad_id).to(
        model.device
    )
    projection = layout.projection(model, key_layer)
    with (
        capture_inputs({key_layer: projection}) as inputs,
        capture_output(projection) as written,
        capture_output(last) as output,
        stop_after(last),
    ):
        run_body(model, input_ids=rows.input_ids, attention_mask=rows.attention_mask, position_ids=rows.position_ids)
    found = (inputs[key_layer], hidden_of(written[0]), hidden_of(output[0]))
    return SubjectStates(*(states.view(*rows.input_ids.shape, -1)[:, rows.anchor].float() for states in found))
