"""A job's working state in memory: the base model, what is cached of it, and the version that stands in it now."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from editing.config import MethodConfig
from editing.edit import Edit
from editing.files import write_atomically
from editing.layout import layout_of
from editing.measure.fluency import fluency
from editing.measure.metrics import EditScores, evaluate
from editing.methods import edited_layers, find_method
from editing.methods.base import BatchUpdate, Setting
from editing.methods.history import KeyHistory
from editing.methods.mend.method import MendConfig, network_for
from editing.models import LoadedModel, load_model
from editing.search.values import search_values
from editing.weights import EditedWeights
from tasks.lines.hypernetworks import located
from tasks.lines.specs import LineSpec
from tasks.settings import Settings
from tasks.stores.batches import restore_weights
from tasks.stores.manifest import Manifest
from tasks.update.prepared import Progress, prepare, silent

FLUENCY_SEED = 0
VALUES_VERSION = 2
"""Counts the changes of what a value search finds for one configuration; cached values of another are not used."""


@dataclass
class Session:
    """One model in memory. `weights` is the only writer of its tensors."""

    loaded: LoadedModel
    config: MethodConfig
    setting: Setting
    weights: EditedWeights
    cache: Path
    held_out: list[str]
    live: list[str] = field(default_factory=list)
    """Ids of the requests whose facts stand in the weights, oldest first."""

    def restore(self, versions: Iterable[tuple[Manifest, dict[str, Tensor]]]) -> None:
        """Apply further versions; the resulting tensors must have the recorded digests. Raises DigestMismatch."""
        self.live += restore_weights(self.loaded, self.weights, self.setting.history, versions)

    def remember(self, request_ids: Sequence[str], batch: BatchUpdate) -> None:
        """A batch was kept: later batches leave its keys alone and count its features."""
        self.setting.history.add(batch.keys, batch.moments)
        self.live += request_ids

    def values(self, edits: Sequence[Edit], on_progress: Progress = silent) -> Tensor:
        """z* of each edit (n, m) float32: searched on the base, each only once, then read from the cache."""
        if not find_method(self.config.method).searches:
            return self.search(edits)
        paths = {edit.id: self._value_path(edit) for edit in edits}
        found = {edit.id: _read_tensor(paths[edit.id], "z_star") for edit in edits}
        missing = [edit for edit in edits if found[edit.id] is None]
        at_once = self.config.search.edits_at_once
        on_progress("values", len(edits) - len(missing), len(edits))
        for start in range(0, len(missing), at_once):
            chunk = missing[start : start + at_once]
            for edit, z_star in zip(chunk, self.search(chunk), strict=True):
                found[edit.id] = z_star
                write_atomically(paths[edit.id], save({"z_star": z_star.contiguous()}))
            on_progress("values", len(edits) - len(missing) + start + len(chunk), len(edits))
        return torch.stack([z for edit in edits if (z := found[edit.id]) is not None])

    def search(self, edits: Sequence[Edit], on_done: Callable[[int], None] = lambda done: None) -> Tensor:
        """z* of each edit (n, m) float32, searched now on the base; of size zero for a method that wants none."""
        if not find_method(self.config.method).searches:
            return torch.zeros(len(edits), 0)
        with self.weights.at_base():
            found = search_values(
                self.loaded.model,
                self.loaded.tokenizer,
                self.setting.layout,
                edits,
                self.setting.layers[-1],
                self.config.search,
                self.setting.prefixes,
                on_done,
            )
        return torch.stack([value.z_star for value in found])

    def base_scores(self, edits: Sequence[Edit], max_neighborhood: int | None) -> dict[str, EditScores]:
        """Metrics of each edit on the base, by id: what 'before' means everywhere; cached."""
        paths = {edit.id: self._cached("scores", {"probes": max_neighborhood}, edit, "json") for edit in edits}
        found = {edit.id: scores for edit in edits if (scores := _read_scores(paths[edit.id], edit.id))}
        missing = [edit for edit in edits if edit.id not in found]
        if missing:
            with self.weights.at_base():
                fresh = evaluate(self.loaded.model, self.loaded.tokenizer, missing, max_neighborhood=max_neighborhood)
            for scores in fresh:
                found[scores.edit_id] = scores
                write_atomically(paths[scores.edit_id], json.dumps(scores.to_json()).encode())
        return found

    def fluency(self, prompts: Sequence[str], tokens: int) -> float:
        """Mean entropy (bits) of what the model, as it stands, writes after the prompts; the same draws every time."""
        return fluency(self.loaded.model, self.loaded.tokenizer, prompts, max_new_tokens=tokens, seed=FLUENCY_SEED)

    def base_fluency(self, prompts: Sequence[str], tokens: int) -> float:
        """The same of the base; cached."""
        about = json.dumps([self.loaded.digest, list(prompts), tokens, FLUENCY_SEED])
        path = self.cache / "fluency" / f"{hashlib.sha256(about.encode()).hexdigest()}.json"
        found = _read_fluency(path)
        if found is None:
            with self.weights.at_base():
                found = self.fluency(prompts, tokens)
            write_atomically(path, json.dumps({"fluency": found}).encode())
        return found

    def _value_path(self, edit: Edit) -> Path:
        about = {
            "version": VALUES_VERSION,
            "search": self.config.search.model_dump(exclude={"edits_at_once"}),
            "layer": self.setting.layers[-1],
            "prefixes": self.setting.prefixes,
        }
        stated = Edit(id="value", subject=edit.subject, prompt=edit.prompt, target_new=edit.target_new)
        return self._cached("values", about, stated, "safetensors")

    def _cached(self, kind: str, about: dict[str, object], edit: Edit, suffix: str) -> Path:
        content = json.dumps([self.loaded.digest, about, edit.model_dump(exclude={"id"})], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        return self.cache / kind / digest[:2] / f"{digest}.{suffix}"


def open_session(
    spec: LineSpec,
    settings: Settings,
    *,
    statistics_texts: Sequence[str] | None = None,
    on_progress: Progress = silent,
) -> Session:
    """Load the base of a line with its contexts and key statistics, all from the cache when they are there.

    Key statistics come from text that the model samples itself, or from `statistics_texts`; a method that uses none
    gets none.

    Raises:
        ModelError, StatisticsError
        HypernetworkError: the hypernetwork is missing, broken, or belongs to another base or other weights.
    """
    config = located(spec.config, settings)
    on_progress("model", 0, 1)
    loaded = load_model(spec.model, dtype=spec.dtype, device=settings.device, cache=settings.cache_folder)
    on_progress("model", 1, 1)
    layout = layout_of(loaded.model)
    layers = edited_layers(loaded.model, layout, config)
    if isinstance(config, MendConfig):  # refused before anything long begins
        network_for(loaded.model, layout, layers, loaded.digest, config)
    cache = settings.cache_folder
    ready = prepare(loaded, layout, layers, config, cache, statistics_texts, on_progress)
    weights = EditedWeights(loaded.model, layout)
    setting = Setting(
        loaded.model, loaded.tokenizer, layout, layers, ready.statistics, KeyHistory(), ready.prefixes, weights
    )
    return Session(loaded, config, setting, weights, cache, ready.held_out)


def _read_tensor(path: Path, name: str) -> Tensor | None:
    try:
        tensor = load(path.read_bytes())[name]
    except (OSError, SafetensorError, KeyError):
        return None
    return tensor if tensor.isfinite().all() else None


def _read_scores(path: Path, edit_id: str) -> EditScores | None:
    try:
        return EditScores.from_json({**json.loads(path.read_text()), "edit_id": edit_id})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_fluency(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_text())["fluency"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
