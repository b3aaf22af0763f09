"""A job's working state in memory: the base model, what is cached of it, and the version that stands in it now."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from editing.cache import Cache
from editing.chat import chat_of, check_system
from editing.config import LocatingConfig, MethodConfig
from editing.covariance import text_digest
from editing.edit import Edit
from editing.groups import KeyNames
from editing.layout import layout_of
from editing.measure.answers import Enough
from editing.measure.fluency import entropies
from editing.measure.metrics import EditScores, Known, evaluate
from editing.measure.perplexity import Perplexity, perplexity
from editing.methods import edited_layers
from editing.methods.mend.method import MendConfig, network_for
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.interface import BatchUpdate, MethodInput
from editing.models import LoadedModel
from editing.progress import OnProgress, unheard
from editing.search.values import search_values
from editing.weights import EditedWeights
from tasks.base_model import loaded_base
from tasks.lines.calibrations import read_calibration
from tasks.lines.hypernetworks import located
from tasks.lines.specs import LineSpec, calibrated_line
from tasks.meter import Meter
from tasks.settings import Settings
from tasks.stores.batches import read_each, restore_weights
from tasks.stores.manifest import Manifest
from tasks.stores.opening import open_store
from tasks.stores.snapshots import SnapshotStore
from tasks.update import kept
from tasks.update.begun import FLUENCY_SEED, Begun
from tasks.update.elsewhere import NOBODY, Shared
from tasks.update.prepared import Preparation
from tasks.update.values import Values, find_values

EDITS_AT_ONCE = 5
"""Edits whose scores on the base are asked together and kept together: what a killed job loses of them."""
MEASURED_VERSION = 1
"""The same of what is measured of a base: its scores, fluency, perplexity, answers."""


@dataclass
class Session:
    """One model in memory. `weights` is the only writer of its tensors."""

    loaded: LoadedModel
    config: MethodConfig
    method_input: MethodInput
    weights: EditedWeights
    cache: Cache
    held_out: list[str]
    spec: LineSpec
    """What the line is, with what a new one took of a calibration."""
    live: list[str] = field(default_factory=list)
    """Ids of the requests whose facts stand in the weights, oldest first; those of a root in its own order."""
    values_known: Values = field(default_factory=Values, repr=False)
    said: dict[int, Known] = field(default_factory=dict, repr=False)
    """What was said in each state of the weights that may come back."""
    # By state of the weights, text, tokens and end: how the model goes on; then likewise of texts, and of prompts.
    texts: dict[tuple[int, str, int, Enough | None], str] = field(default_factory=dict, repr=False)
    perplexities: dict[tuple[int, tuple[str, ...], int], Perplexity] = field(default_factory=dict, repr=False)
    fluencies: dict[tuple[int, str, int], float] = field(default_factory=dict, repr=False)
    begun: Begun | None = field(default=None, repr=False)

    @property
    def measured(self) -> tuple[str, int]:
        """What everything that is measured of the base depends on: the first part of its names in the cache."""
        return self.loaded.digest, MEASURED_VERSION

    def restore(self, versions: Iterable[tuple[Manifest, dict[str, Tensor]]]) -> None:
        """Apply further versions; the resulting tensors must have the recorded digests. Raises DigestMismatch."""
        read: list[Manifest] = []

        def reading() -> Iterator[tuple[Manifest, dict[str, Tensor]]]:
            for manifest, tensors in versions:
                read.append(manifest)
                self.values_known.restore(manifest, tensors)
                yield manifest, tensors

        found = restore_weights(self.loaded, self.weights, self.method_input.history, reading())
        self.live = [] if any(one.live is not None for one in read) else self.live
        self.live += found

    def restore_from(self, store: SnapshotStore, manifests: Iterable[Manifest]) -> None:
        """The same of versions that are only to be asked: nothing that later batches need is read."""
        self.restore(read_each([*manifests], partial(store.tensors, values=False)))

    def remember(self, request_ids: Sequence[str], batch: BatchUpdate) -> None:
        """A batch was kept: later batches leave its keys alone and count its features."""
        self.method_input.history.add(batch.keys, batch.moments, batch.gone)
        self.live += request_ids

    def values(self, edits: Sequence[Edit], live: Sequence[Edit] = ()) -> Tensor:
        """z* of each edit (n, m) float32, each searched only once: see `find_values`."""
        return find_values(self, edits, live)

    def sharing(self, edits: Sequence[Edit], live: Sequence[Edit]) -> list[Edit]:
        """Those of the live facts that share a key with one of the edits; none for a method that knows no keys."""
        if not isinstance(self.config, LocatingConfig):
            return []
        return self.keys.sharing(edits, live)

    @cached_property
    def keys(self) -> KeyNames:
        """By which facts are told to share a key."""
        return KeyNames(self.loaded.tokenizer, self.method_input.prefixes)

    def search(self, edits: Sequence[Edit], on_progress: OnProgress = unheard) -> Tensor:
        """z* of each edit (n, m) float32, searched now on the base; of size zero for a method that wants none.

        `on_progress` as in `search_values`.
        """
        if not isinstance(self.config, LocatingConfig):
            return torch.zeros(len(edits), 0)
        with self.weights.at_base():
            found = search_values(
                self.loaded.model,
                self.loaded.tokenizer,
                self.method_input.layout,
                edits,
                self.method_input.layers[-1],
                self.config.search,
                self.method_input.prefixes,
                on_progress,
                self.method_input.chat,
            )
        return torch.stack([value.z_star for value in found])

    def scores(
        self,
        edits: Sequence[Edit],
        before: Mapping[str, EditScores] | None = None,
        max_neighborhood: int | None = None,
        on_progress: OnProgress = unheard,
    ) -> list[EditScores]:
        """Metrics of each edit on the model as it stands, as `evaluate` gives them.

        What was said since the weights are what they are, or before a batch that was undone, is not asked again.
        """
        state = self.weights.state
        self.said = {number: known for number, known in self.said.items() if number <= state}
        return evaluate(
            self.loaded.model,
            self.loaded.tokenizer,
            edits,
            before=before,
            max_neighborhood=max_neighborhood,
            known=self.said.setdefault(state, {}),
            on_progress=on_progress,
        )

    def base_scores(self, edits: Sequence[Edit], max_neighborhood: int | None) -> dict[str, EditScores]:
        """Metrics of each edit on the base, by id: what 'before' means everywhere; cached, a few at a time."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer

        def make(missing: list[int]) -> Iterator[EditScores]:
            with Meter("what the base says", len(missing)) as meter:
                for start in range(0, len(missing), EDITS_AT_ONCE):
                    asked, part = [edits[i] for i in missing[start : start + EDITS_AT_ONCE]], meter.part(EDITS_AT_ONCE)
                    with self.weights.at_base():
                        found = evaluate(model, tokenizer, asked, max_neighborhood=max_neighborhood)
                    part(1, 1)
                    yield from found

        abouts = [[*self.measured, {"probes": max_neighborhood}, kept.content_of(tokenizer, edit)] for edit in edits]
        scores = self.cache.get_all("scores", abouts, make, kept.scores_bytes, kept.read_scores)
        # The cache knows edits by what they ask, not by their ids.
        return {edit.id: replace(one, edit_id=edit.id) for edit, one in zip(edits, scores, strict=True)}

    def fluency(self, prompts: Sequence[str], tokens: int, on_progress: OnProgress = unheard) -> float:
        """Mean entropy (bits) of what the model, as it stands, writes after prompts; the same draws every time."""
        return fmean(self._entropies(prompts, tokens, on_progress))

    def base_fluency(self, prompts: Sequence[str], tokens: int) -> float:
        """The same of the base; cached, each prompt by itself."""

        def make(missing: list[int]) -> list[float]:
            size = len(missing) * tokens
            with self.weights.at_base(), Meter("what the base writes", size) as meter:
                return self._entropies([prompts[number] for number in missing], tokens, meter.part(size))

        abouts = [[*self.measured, prompt, tokens, FLUENCY_SEED] for prompt in prompts]
        found: list[float] = self.cache.get_all("fluency", abouts, make, kept.number_bytes, kept.read_number)
        return fmean(found)

    def _entropies(self, prompts: Sequence[str], tokens: int, on_progress: OnProgress) -> list[float]:
        """Of each of different prompts, taken once in each state of the weights."""
        state, (model, tokenizer) = self.weights.state, (self.loaded.model, self.loaded.tokenizer)
        if self.begun is not None and (self.begun.state, self.begun.tokens) == (state, tokens):
            finished = self.begun.entropies(tokenizer, on_progress)
            self.fluencies |= {(state, prompt, tokens): one for prompt, one in finished.items()}
            self.begun = None
        missing = [one for one in dict.fromkeys(prompts) if (state, one, tokens) not in self.fluencies]
        made = entropies(model, tokenizer, missing, max_new_tokens=tokens, seed=FLUENCY_SEED, on_progress=on_progress)
        self.fluencies |= {(state, prompt, tokens): one for prompt, one in zip(missing, made, strict=True)}
        return [self.fluencies[state, prompt, tokens] for prompt in prompts]

    def perplexity(self, texts: Sequence[str], tokens: int, on_progress: OnProgress = unheard) -> Perplexity:
        """Of the model as it stands, on so many tokens of the texts; taken once in each state of the weights."""
        about = (self.weights.state, tuple(texts), tokens)
        if about not in self.perplexities:
            self.perplexities[about] = perplexity(
                self.loaded.model, self.loaded.tokenizer, texts, max_tokens=tokens, on_progress=on_progress
            )
        return self.perplexities[about]

    def base_perplexity(self, texts: Sequence[str], tokens: int) -> Perplexity:
        """The same of the base; cached."""

        def make() -> Perplexity:
            with self.weights.at_base(), Meter("perplexity of the base", tokens) as meter:
                return self.perplexity(texts, tokens, meter.part(tokens))

        about = [*self.measured, text_digest(texts), tokens, "blocks"]
        return self.cache.get("perplexity", about, make, kept.perplexity_bytes, kept.read_perplexity)


def open_session(
    spec: LineSpec,
    settings: Settings,
    *,
    statistics_texts: Sequence[str] | None = None,
    function: Mapping[str, Any] | None = None,
    only_asked: bool = False,
    new: bool = False,
    shared: Shared = NOBODY,
) -> Session:
    """Load the base of a line with its contexts and key statistics, all from the cache when they are there.

    Key statistics come from text that the model samples itself, or from `statistics_texts`; a method that uses none
    gets none. Layers, contexts and the kind of statistics are those of `function`, what the line's versions are made
    with (tasks/update/function.py), where there is one. Where the model is `only_asked`, and nothing written, there are
    neither contexts nor statistics; of long texts parts are `shared` out. A `new` line takes what a calibration of its
    base says of what it leaves open.

    Raises:
        ModelError, StatisticsError
        HypernetworkError: the hypernetwork is missing, broken, or belongs to another base or other weights.
        RecordError: the calibration is damaged.
    """
    loaded = loaded_base(spec.model, spec.dtype, settings)
    if new:
        store = open_store(settings.store_uri, endpoint_url=settings.s3_endpoint_url, create=True)
        spec = calibrated_line(spec, read_calibration(store, loaded.digest))
    return session_on(loaded, spec, settings, statistics_texts, function, only_asked=only_asked, shared=shared)


def session_on(
    loaded: LoadedModel,
    spec: LineSpec,
    settings: Settings,
    statistics_texts: Sequence[str] | None = None,
    function: Mapping[str, Any] | None = None,
    *,
    only_asked: bool = False,
    shared: Shared = NOBODY,
) -> Session:
    """The same on a base that is loaded."""
    chat = chat_of(loaded.tokenizer, spec.template, spec.system)
    check_system(chat, loaded.model.config)  # refused before anything long begins, as what follows
    config, layout = spec.config if only_asked else located(spec.config, settings), layout_of(loaded.model)
    if function:
        config = config.model_copy(update={"layers": tuple(function["layers"])})
    layers = edited_layers(loaded.model, layout, config)
    if isinstance(config, MendConfig) and not only_asked:
        network_for(loaded.model, layout, layers, loaded.digest, config)
    cache = Cache(settings.cache_folder)
    base = Preparation(loaded, cache, shared)
    ready = base.for_asking(config) if only_asked else base.make(layout, layers, config, statistics_texts, function)
    weights = EditedWeights(loaded.model, layout)
    given = MethodInput(
        loaded.model,
        loaded.tokenizer,
        layout,
        layers,
        ready.statistics,
        KeyHistory(),
        ready.prefixes,
        weights,
        chat=chat,
    )
    return Session(loaded, config, given, weights, cache, ready.held_out, spec)
