"""Training of MEND's hypernetwork: step by step, resumable to the bit.

Adam on the losses of editing/methods/mend/loss.py, averaged over a batch. Which edits a step sees, and which of their
prompts, follows from the seed and the step's number alone: there is no state of a generator to keep.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from editing.edit import Edit
from editing.errors import HypernetworkError, SearchError
from editing.files import write_atomically
from editing.layout import layout_of
from editing.methods.gradients.lower_states import lower_states
from editing.methods.mend.examples import Example, check_examples, edits_digest, examples_at
from editing.methods.mend.files import network_bytes, parse_network
from editing.methods.mend.loss import EditGradients, left_alone, losses
from editing.methods.mend.method import weight_shapes
from editing.methods.mend.network import MendNetwork, MendSpec
from editing.methods.mend.options import MendProgress, MendTraining, StepLosses
from editing.models import LoadedModel
from editing.placed import device_of
from editing.shortage import ELSEWHERE, within_memory

ADAM = ("step", "exp_avg", "exp_avg_sq")
"""What Adam knows of each parameter."""
LESS = f"train with fewer updates in a pass (updates_at_once) or a lower rank (rank), or take {ELSEWHERE}"
"""What trains with less memory."""


class MendTrainer:
    """A hypernetwork, its optimiser, and how far they are; `start` or `resume` makes one."""

    def __init__(
        self, loaded: LoadedModel, edits: Sequence[Edit], network: MendNetwork, config: MendTraining, step: int = 0
    ) -> None:
        self.loaded, self.edits, self.config, self.step = loaded, list(edits), config, step
        layout = layout_of(loaded.model)
        self.below = lower_states(loaded.model, min(layout.weight_layer(name) for name in network.spec.shapes))
        self.gradients = EditGradients(loaded, network.spec.shapes, self.below)
        self.network = network.to(device_of(loaded.model))
        self.parameters: dict[str, nn.Parameter] = dict(network.named_parameters())
        steps = [parameter for name, parameter in self.parameters.items() if name.endswith("log_step")]
        others = [parameter for name, parameter in self.parameters.items() if not name.endswith("log_step")]
        groups: list[dict[str, Any]] = [
            {"params": others, "full": config.learning_rate},
            {"params": steps, "full": config.step_learning_rate},
        ]
        self.adam = torch.optim.Adam(groups)
        self.skipped = self.skipped_in_a_row = 0

    @classmethod
    @within_memory(LESS)
    def start(
        cls,
        loaded: LoadedModel,
        edits: Sequence[Edit],
        layers: Sequence[int],
        projections: Sequence[str] = (),
        config: MendTraining | None = None,
        network: MendNetwork | None = None,
    ) -> "MendTrainer":
        """A hypernetwork for the weights at `projections` of `layers`; none: their down projections.

        Args:
            network: an earlier one to begin with; left out, a new one.

        Raises:
            InvalidEdit: a prompt or a target has no tokens, or is longer than the model reads.
            HypernetworkError: there are no edits, nothing says what is to stay as it is, no step size works, or
                `network` belongs to another base or other weights, or is of another rank.
            ModelError: a layer has no such projection.
        """
        config = config or MendTraining()
        layout = layout_of(loaded.model)
        modules = layout.projections(loaded.model, layers, projections)
        shapes = weight_shapes(loaded.model, layout, modules)
        spec = MendSpec(base_digest=loaded.digest, shapes=shapes, rank=config.rank, ridge=config.ridge)
        check_examples(loaded, edits)
        started = MendNetwork(spec, config.step_size or 1.0, config.seed)
        if network is not None:
            network.spec.check(loaded.digest, shapes)
            if network.spec.rank != config.rank:
                raise HypernetworkError(
                    f"the hypernetwork to begin with has rank {network.spec.rank}, not {config.rank}; give its rank"
                )
            started.load_state_dict(network.state_dict())
            if config.step_size is not None:
                started.set_step_size(config.step_size)
        trainer = cls(loaded, edits, started, config)
        if network is None and config.step_size is None:
            started.set_step_size(trainer.best_step_size())
        return trainer

    @classmethod
    def resume(
        cls, path: Path, loaded: LoadedModel, edits: Sequence[Edit], config: MendTraining | None = None
    ) -> "MendTrainer":
        """Go on where `save` was called; see `resume_from`."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise HypernetworkError(f"cannot read the training '{path}' ({error.strerror})") from error
        return cls.resume_from(data, str(path), loaded, edits, config)

    @classmethod
    @within_memory(LESS)
    def resume_from(
        cls,
        data: bytes,
        path: str,
        loaded: LoadedModel,
        edits: Sequence[Edit],
        config: MendTraining | None = None,
    ) -> "MendTrainer":
        """Go on from what `to_bytes` gave, with its own configuration, as if nothing had come between.

        Args:
            path: how messages name the data.

        Raises:
            HypernetworkError: the file is missing, broken, holds no training, or belongs to another base, other edits
                or another rank.
        """
        network, tensors, about = parse_network(data, path)
        network.spec.check(loaded.digest, network.spec.shapes)
        try:
            progress = MendProgress.model_validate(about.get("training"))
        except ValidationError as error:
            raise HypernetworkError(f"'{path}' holds no training to go on with; give what `save` wrote") from error
        if progress.edits != edits_digest(edits):
            raise HypernetworkError(
                f"the training in '{path}' has other edits than these {len(edits)}; give its own, in their order"
            )
        config = config or progress.config
        spec = network.spec
        if (config.rank, config.ridge) != (spec.rank, spec.ridge):
            raise HypernetworkError(
                f"'{path}' has rank {spec.rank} and ridge {spec.ridge}, not {config.rank} and {config.ridge}; keep them"
            )
        trainer = cls(loaded, edits, network, config, progress.step)
        trainer.skipped, trainer.skipped_in_a_row = progress.skipped, progress.skipped_in_a_row
        if progress.step > progress.skipped:
            trainer._restore(path, tensors)
        return trainer

    def save(self, path: Path) -> None:
        """Write all that `resume` needs, whole or not at all; `load_network` reads the hypernetwork out of it."""
        write_atomically(path, self.to_bytes())

    @within_memory(LESS)
    def to_bytes(self) -> bytes:
        """What `save` writes."""
        moments = {
            f"adam.{key}.{name}": self.adam.state[parameter][key]
            for name, parameter in self.parameters.items()
            if parameter in self.adam.state
            for key in ADAM
        }
        progress = MendProgress(
            config=self.config,
            edits=edits_digest(self.edits),
            step=self.step,
            skipped=self.skipped,
            skipped_in_a_row=self.skipped_in_a_row,
        )
        return network_bytes(self.network, more=moments, about={"training": progress.model_dump(mode="json")})

    @within_memory(LESS)
    def train_step(self) -> StepLosses:
        """Take one step of Adam, or none if a loss or its gradient is not finite; the base is left as it is.

        Raises:
            HypernetworkError: `max_skipped` steps in a row were skipped.
        """
        seen = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        edit, locality, gradients = self._accumulated()
        self.step += 1
        loss = self.config.edit_weight * edit + locality
        norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm()) if gradients else math.nan
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if skipped:
            self._skip(seen)
        else:
            self.skipped_in_a_row = 0
            for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
                parameter.grad = gradient * min(1.0, self.config.clip / (norm + 1e-12))
            for group in self.adam.param_groups:
                group["lr"] = group["full"] * self._share()
            self.adam.step()
            self.adam.zero_grad()
        return StepLosses(self.step, loss, edit, locality, norm, skipped)

    def _share(self) -> float:
        """Of the full step sizes, at this step."""
        config = self.config
        return min(1.0, self.step / (config.warm_up + 1), math.sqrt(config.decay_after / self.step))

    def best_step_size(self) -> float:
        """Of powers of √10, that with which plain gradients have the least loss on the first batch.

        Raises:
            HypernetworkError: none gives a finite loss.
        """
        found = {}
        for step_size in (10 ** (k / 2) for k in range(-8, 3)):
            self.network.set_step_size(step_size)
            edit, locality, _ = self._accumulated(learning=False)
            loss = self.config.edit_weight * edit + locality
            found[step_size] = loss if math.isfinite(loss) else math.inf
        best = min(found, key=lambda step_size: found[step_size])
        if found[best] == math.inf:
            raise HypernetworkError(
                "no step size gives a finite loss on the first batch; look at the base and the edits"
            )
        return best

    def _accumulated(self, learning: bool = True) -> tuple[float, float, list[Tensor]]:
        """L_e and L_loc of this step's examples, means, and the gradient of L; none where the base is not finite.

        `learning`: μ and σ hear of the examples, all before any is looked at with them, so that passes may be small.
        """
        config = self.config
        count = config.batch * config.edits_together
        drawn = examples_at(self.edits, self.step * count, count, config.seed)
        at_once = config.updates_at_once * config.edits_together
        passes = [drawn[start : start + at_once] for start in range(0, count, at_once)]
        try:
            tokens = [self.gradients.of([one.edit for one in examples]) for examples in passes]
            earlier = left_alone(self.network, self.gradients, self._before(drawn))
        except SearchError:
            return math.nan, math.nan, []
        for gradients in tokens if learning else ():
            self.network.observe(gradients)
        edit = locality = 0.0
        summed: list[Tensor] = []
        for examples, gradients in zip(passes, tokens, strict=True):
            with torch.set_grad_enabled(learning):
                edit_loss, locality_loss = losses(
                    self.loaded, self.network, examples, gradients, config.edits_together, self.below, earlier
                )
            edit, locality = edit + edit_loss.item() / count, locality + locality_loss.item() / count
            if learning:
                loss = (config.edit_weight * edit_loss + locality_loss) / count
                parts = torch.autograd.grad(loss, list(self.parameters.values()))
                summed = [total + part for total, part in zip(summed, parts, strict=True)] if summed else list(parts)
        return edit, locality, summed

    def _before(self, drawn: Sequence[Example]) -> list[Edit]:
        """The edits that count as written before this step's."""
        count, subjects = self.config.edits_before, {one.edit.subject for one in drawn}
        examples = examples_at(self.edits, self.step * count, count, self.config.seed + 1)
        return [one.edit for one in examples if one.edit.subject not in subjects]

    def _restore(self, path: str, tensors: Mapping[str, Tensor]) -> None:
        """Give Adam back what `save` stored of it."""
        for name, parameter in self.parameters.items():
            stored = {key: tensors[f"adam.{key}.{name}"] for key in ADAM if f"adam.{key}.{name}" in tensors}
            if len(stored) < len(ADAM):
                raise HypernetworkError(f"'{path}' lacks what Adam knows of {name}; give what `save` wrote")
            count = stored.pop("step")  # Adam counts on the CPU
            moments = {key: tensor.to(parameter.device) for key, tensor in stored.items()}
            self.adam.state[parameter] = {"step": count, **moments}

    def _skip(self, seen: Mapping[str, Tensor]) -> None:
        for name, buffer in self.network.named_buffers():
            buffer.copy_(seen[name])
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.config.max_skipped:
            raise HypernetworkError(
                f"the loss was not finite in {self.skipped_in_a_row} steps in a row, the last one step {self.step}; "
                f"go on from an earlier file with a lower learning_rate (now {self.config.learning_rate:g}), or start "
                "with a smaller step_size"
            )
