"""Keys and hidden states at the subject's last token, read in one pass that stops at the last layer it needs.

Shapes: n = rows, d = key size, m = hidden size.
"""

import copy
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from editing.body import run_body
from editing.layout import ModelLayout
from editing.linear import fast_linear
from editing.placed import device_of
from editing.tokens import EncodedPrompt, Rows, align_rows

SHARED_TOKENS = 4
"""A common beginning of fewer tokens is not worth a pass of its own."""

ROOM = 2**30
"""Bytes that hidden states between the passes of a loop may take."""

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
    """End a forward pass inside this context as soon as `module` has run."""

    def stop(module: nn.Module, args: object, output: object) -> None:
        raise _Enough

    with _ended_by(module.register_forward_hook(stop)):
        yield


@contextmanager
def stop_before(module: nn.Module) -> Iterator[None]:
    """End a forward pass inside this context as soon as `module` is to run, hooks registered earlier done."""

    def stop(module: nn.Module, args: object) -> None:
        raise _Enough

    with _ended_by(module.register_forward_pre_hook(stop)):
        yield


@contextmanager
def _ended_by(hook: RemovableHandle) -> Iterator[None]:
    try:
        yield
    except _Enough:
        pass
    finally:
        hook.remove()


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


def in_rows(states: Tensor, mask: Tensor) -> Tensor:
    """States of a pass over rows of this mask (b, s) as (b, s, ·): OPT lays the tokens of all rows in one."""
    return states.view(*mask.shape, -1)


@contextmanager
def capture_output(module: nn.Module, *, copied: bool = False) -> Iterator[list[LayerOutput]]:
    """What `module` gave in its latest call, as a list of one; a copy, where what comes next may add to it in place."""
    outputs: list[LayerOutput] = []

    def save(module: nn.Module, args: object, output: LayerOutput) -> None:
        outputs[:] = [output.clone() if copied and isinstance(output, Tensor) else output]

    handle = module.register_forward_hook(save)
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def layers_give(layers: nn.ModuleList, given: LayerOutput) -> Iterator[None]:
    """Inside, each of these layers gives that, whatever it gets, and does nothing.

    Masks, rotary embeddings and norms of a pass stay the architecture's own, so no family needs code of its own.
    """

    def give(*args: object, **kwargs: object) -> LayerOutput:
        return given

    own = [vars(module).get("forward") for module in layers]  # accelerate's, where parts lie elsewhere
    try:
        for module in layers:
            module.forward = give
        yield
    finally:
        for module, forward in zip(layers, own, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


class Begun:
    """What layers gave in passes over some rows, so that the next pass over the same rows begins above them.

    For the rising layers of a loop that changes no layer once a pass has read a key above it. What does not find room
    is passed through again from the tokens on.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room = room
        self._found: dict[Hashable, tuple[int, LayerOutput]] = {}

    @contextmanager
    def going_on(self, rows: Hashable, layers: nn.ModuleList, upto: int) -> Iterator[None]:
        """A pass over these rows inside begins where the last one ended, and is kept up to the layer below `upto`."""
        below, given = self._found.get(rows, (-1, ()))
        if below >= upto:
            below, given = -1, ()
        with ExitStack() as entered:
            if below >= 0:
                entered.enter_context(layers_give(layers[: below + 1], given))
            output = entered.enter_context(capture_output(layers[upto - 1], copied=True)) if upto > below + 1 else []
            yield
        if output:
            self._keep(rows, upto - 1, output[0])

    def _keep(self, rows: Hashable, layer: int, output: LayerOutput) -> None:
        if rows in self._found:
            self.room += hidden_of(self._found.pop(rows)[1]).nbytes
        if (size := hidden_of(output).nbytes) <= self.room:
            self.room -= size
            self._found[rows] = layer, output


@dataclass(frozen=True)
class SubjectStates:
    """What the model holds at the subject's last token, float32."""

    keys: Tensor
    """k of one layer, (n, d)."""
    written: Tensor
    """What that layer's down projection makes of its keys, (n, m)."""
    hidden: Tensor
    """Output of a later layer, (n, m)."""


@dataclass(frozen=True)
class SubjectReader:
    """Reads a model at the last tokens of subjects, all prompts of a call in one batch.

    `uniform` says that the model treats all rows in the same way (no overlay of its own for each), so that what the
    prompts begin with in common runs once, for as long as the reader lives: no weight may change. With `begun` its
    passes go on from those of the reader before, which read the same prompts in the same order.
    """

    model: PreTrainedModel
    layout: ModelLayout
    pad_id: int
    begun: Begun | None = None
    passes: Iterator[int] = field(default_factory=itertools.count)
    beginnings: dict[tuple[nn.Module, tuple[int, ...]], DynamicCache] = field(default_factory=dict)
    """Keys and values of what rows begin with, of passes that end at a module."""

    @torch.no_grad()
    def states(
        self, prompts: Sequence[EncodedPrompt], key_layer: int, hidden_layer: int, *, uniform: bool = False
    ) -> SubjectStates:
        """Keys of `key_layer` and the output of `hidden_layer` for each prompt."""
        last = self.layout.layer_list(self.model)[hidden_layer]
        projection = self.layout.projection(self.model, key_layer)
        with (
            capture_inputs({key_layer: projection}) as inputs,
            capture_output(projection, copied=True) as written,
            capture_output(last) as output,
        ):
            place = self._run(prompts, key_layer, stop_after, last, uniform)
        states = inputs[key_layer], hidden_of(written[0]), hidden_of(output[0])
        return SubjectStates(*(place(state) for state in states))

    @torch.no_grad()
    def keys(self, prompts: Sequence[EncodedPrompt], layer: int, *, uniform: bool = False) -> Tensor:
        """The keys of `states` alone, (n, d) float32: the pass ends where they are."""
        projection = self.layout.projection(self.model, layer)
        with capture_inputs({layer: projection}) as inputs:
            place = self._run(prompts, layer, stop_before, projection, uniform)
        return place(inputs[layer])

    def _run(
        self,
        prompts: Sequence[EncodedPrompt],
        layer: int,
        stop: Callable[[nn.Module], AbstractContextManager[None]],
        end: nn.Module,
        uniform: bool,
    ) -> Callable[[Tensor], Tensor]:
        """Run the model on the prompts; gives what picks the rows (n, ·) of the subjects out of a state of that pass.

        Causal attention makes later tokens irrelevant, so each row ends at its subject. Padding is on the right, so
        that a row goes on without a gap from a beginning that all have in common.
        """
        model, pad_id = self.model, self.pad_id
        ids = [prompt.ids[: prompt.subject_index + 1] for prompt in prompts]
        shared = _beginning(ids) if uniform and len(ids) > 1 else 0
        cache = None
        if shared >= SHARED_TOKENS:
            first = ids[0][:shared]
            if (end, first) not in self.beginnings:
                cache = DynamicCache()
                with stop(end):
                    _run(model, align_rows([first], [0], pad_id).to(device_of(model)), 0, cache)
                self.beginnings[end, first] = cache
            cache = copy.deepcopy(self.beginnings[end, first])
            cache.batch_repeat_interleave(len(ids))
            ids = [row[shared:] for row in ids]
        rows = align_rows(ids, [0] * len(ids), pad_id).to(device_of(model))
        going_on: AbstractContextManager[None] = nullcontext()
        if self.begun:
            name = next(self.passes), shared if cache else 0, *ids
            going_on = self.begun.going_on(name, self.layout.layer_list(model), layer)
        with going_on, stop(end):
            _run(model, rows, shared if cache else 0, cache)
        last = torch.tensor([len(row) - 1 for row in ids], device=device_of(model))

        def place(states: Tensor) -> Tensor:
            each = torch.arange(len(last), device=last.device)
            return states.view(*rows.input_ids.shape, -1)[each.to(states.device), last.to(states.device)].float()

        return place


def _run(model: PreTrainedModel, rows: Rows, before: int, cache: Cache | None) -> None:
    """One pass over `rows`, whose first `before` tokens are in the cache."""
    seen = rows.attention_mask.new_ones(len(rows.attention_mask), before)
    with fast_linear(model):
        run_body(
            model,
            input_ids=rows.input_ids,
            attention_mask=torch.cat([seen, rows.attention_mask], dim=1),
            position_ids=rows.position_ids + before,
            cache=cache,
        )


def _beginning(rows: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all rows begin with, short of the last token of any."""
    first, last = min(rows), max(rows)  # in the order of tuples, so what these two share all share
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(shared, min(map(len, rows)) - 1)
