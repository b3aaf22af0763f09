"""The search for what suits a base: layers first, then how strongly, then how far and how long values are searched.

Each setting writes the same few facts into the base as one batch, is asked, and is undone. Whatever was tried is kept
in the cache as soon as it is known, values too, so that a search that was killed goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from editing.config import Config
from editing.edit import Edit
from editing.measure.metrics import EditScores, evaluate, summarise
from editing.methods import compute_update
from editing.methods.memit import MemitConfig
from editing.methods.shared.history import KeyHistory
from tasks.lines.calibrations import Trial, with_options
from tasks.progress import note, progress
from tasks.stores.batches import apply
from tasks.update.prepared import dump_json
from tasks.update.searched import VALUES_VERSION
from tasks.update.session import Session
from tasks.update.values import Values
from tasks.update.writing import told

SEARCH_VERSION = 1
"""Counts the changes of what a trial measures that neither VALUES_VERSION nor MEASURED_VERSION counts; trials in the
cache of another are not used."""
GAIN = 0.01
"""By how much a setting must do better than the one before it to be taken in its place."""
BYTES = 4 << 30
"""Of key statistics of all layers that are tried; more would not fit beside the model on a small machine."""
RULE, LAYERS, WIDTH, WEIGHT, CLAMP, STEPS = "rule", "layers", "width", "weight", "clamp", "steps"

_METRICS = TypeAdapter(dict[str, float])
_STRINGS = TypeAdapter(dict[str, str])

# As far as the options go that they become: layers, statistics_weight, search.clamp and search.steps.
Width = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(gt=0)]
Steps = Annotated[int, Field(ge=1, le=1000)]


class CalibrationPlan(Config):
    """What a search tries, and on how much."""

    facts: int = Field(10, ge=4, le=100, description="Facts to try on, written as one batch.")
    seed: int = Field(0, ge=0, description="Seed of which facts, and of the answers that they get.")
    statistics_tokens: int = Field(6144, ge=1, description="Tokens behind the key statistics; as a new line has.")
    perplexity_tokens: int = Field(1024, ge=64, description="Tokens of sampled text that perplexity is taken on.")
    deepest: float = Field(0.6, gt=0, le=1, description="Share of the depth up to which layers are tried.")
    windows: int = Field(4, ge=1, description="Layers from the rule's on down to there that are tried.")
    widths: tuple[Width, ...] = Field((2, 6), description="Numbers of layers that are tried beside the rule's.")
    weights: tuple[Share, ...] = Field((0.25, 4.0), description="λ, as shares of the default.")
    clamps: tuple[Share, ...] = Field((0.5, 1.5), description="Clamps, as shares of the default.")
    steps: tuple[Steps, ...] = Field((25,), description="Steps of the value search.")


def score_of(metrics: dict[str, float]) -> float:
    """What a setting is worth: what is said, at the prompt and reworded, less what it cost the neighbors and the text.

    A point of neighbors lost, or of those that say something else, is worth as much as one gained; a per cent of
    perplexity, five.
    """
    gained = (metrics["efficacy_argmax"] + (metrics["generalization_prob"] + metrics["generalization_argmax"]) / 2) / 2
    lost = max(0.0, metrics["locality_before"] - metrics["locality_prob"])
    return gained - lost - 0.25 * (1 - metrics["locality_kept"]) - 5 * max(0.0, metrics["perplexity_ratio"] - 1)


def layers_tried(rule: Sequence[int], count: int, key_size: int, plan: CalibrationPlan) -> list[tuple[int, ...]]:
    """The rule's layers, then as many that end deeper and deeper, as far as their statistics fit."""
    width, first = len(rule), rule[-1]
    deepest = max(first, min(int(plan.deepest * count), count - 2))
    room = max(width, BYTES // (8 * key_size**2))
    spaces = max(1, plan.windows - 1)
    ends = dict.fromkeys(first + (deepest - first) * i // spaces for i in range(plan.windows))
    return [tuple(range(end - width + 1, end + 1)) for end in ends if end - rule[0] + 1 <= room]


@dataclass(frozen=True)
class Search:
    """Settings tried one after another on one base. `session` has key statistics of every layer that may be tried."""

    session: Session
    facts: Sequence[Edit]
    plan: CalibrationPlan
    rule: tuple[int, ...]
    """The layers that a new line has without a calibration."""

    def run(self) -> tuple[list[Trial], Trial, Trial]:
        """All that was tried, what the rule does, and the best."""
        trials: list[Trial] = []
        best = first = self._try(RULE, {"layers": list(self.rule)}, trials)
        for stage, candidates in self._stages():
            base = best  # of a stage all candidates differ in one thing from what was best before it
            for options in candidates(base.options):
                trial = self._try(stage, options, trials)
                best = trial if trial.score > best.score + GAIN else best
        progress("settings", len(trials), len(trials))
        return trials, first, best

    @property
    def most(self) -> int:
        """How many settings are tried at most."""
        return 1 + sum(len(list(candidates({"layers": list(self.rule)}))) for _, candidates in self._stages())

    def _stages(self) -> Iterator[tuple[str, Callable[[dict[str, Any]], Iterator[dict[str, Any]]]]]:
        plan, usual = self.plan, MemitConfig()

        def layers(best: dict[str, Any]) -> Iterator[dict[str, Any]]:
            yield from (best | {"layers": list(some)} for some in self.windows[1:])

        def widths(best: dict[str, Any]) -> Iterator[dict[str, Any]]:
            last, known = best["layers"][-1], self.session.method_input.statistics.moments
            for width in plan.widths:
                some = list(range(last - width + 1, last + 1))
                if width != len(best["layers"]) and all(layer in known for layer in some):
                    yield best | {"layers": some}

        def weights(best: dict[str, Any]) -> Iterator[dict[str, Any]]:
            yield from (best | {"statistics_weight": usual.statistics_weight * share} for share in plan.weights)

        def searched(name: str, values: Sequence[float]) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
            return lambda best: (best | {"search": best.get("search", {}) | {name: value}} for value in values)

        yield LAYERS, layers
        yield WIDTH, widths
        yield WEIGHT, weights
        yield CLAMP, searched("clamp", [usual.search.clamp * share for share in plan.clamps])
        yield STEPS, searched("steps", plan.steps)

    @cached_property
    def windows(self) -> list[tuple[int, ...]]:
        """The layers that are tried, the rule's first."""
        layout, model = self.session.method_input.layout, self.session.loaded.model
        return layers_tried(self.rule, len(layout.layer_list(model)), layout.key_size(model), self.plan)

    def _try(self, stage: str, options: dict[str, Any], trials: list[Trial]) -> Trial:
        progress("settings", len(trials), max(self.most, len(trials) + 1))
        about = [*self.session.measured, VALUES_VERSION, SEARCH_VERSION, self.about, options]
        metrics = self.session.cache.get("calibration", about, lambda: self._measure(options), dump_json, _read)
        trials.append(Trial(stage=stage, options=options, metrics=metrics, score=score_of(metrics)))
        note(described(trials[-1]))
        return trials[-1]

    @cached_property
    def about(self) -> list[Any]:
        """What the numbers of a trial depend on, beside the base and the setting."""
        session = self.session
        statistics = [session.method_input.statistics.source, session.method_input.statistics.tokens]
        facts = [edit.model_dump(mode="json", exclude={"id"}) for edit in self.facts]
        return [statistics, session.method_input.prefixes, facts, self.plan.perplexity_tokens]

    def _measure(self, options: dict[str, Any]) -> dict[str, float]:
        """Write the facts with this setting, ask, and undo."""
        session, config = self.session, with_options(self.session.config, options)
        given = replace(session.method_input, layers=tuple(options["layers"]), history=KeyHistory())
        tried = replace(session, config=config, method_input=given, values_known=Values())
        z_star = tried.values(self.facts)
        with told(given, self.facts) as heard:
            made = compute_update(heard, self.facts, z_star, config)
        undo = apply(session.weights, made.update)
        try:
            after = summarise(self._ask(self.before))
            perplexity = session.perplexity(session.held_out, self.plan.perplexity_tokens)
        finally:
            session.weights.revert(undo)
        first = summarise(list(self.before.values()))
        base = session.base_perplexity(session.held_out, self.plan.perplexity_tokens)
        return after | {"locality_before": first["locality_prob"], "perplexity_ratio": float(perplexity) / float(base)}

    @cached_property
    def before(self) -> dict[str, EditScores]:
        """What the base says, by fact."""
        return {one.edit_id: one for one in self._ask(None)}

    def _ask(self, before: dict[str, EditScores] | None) -> list[EditScores]:
        loaded = self.session.loaded
        return evaluate(loaded.model, loaded.tokenizer, self.facts, before=before)


def every_layer(windows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """All layers that may be edited in the search, for whose keys statistics are needed."""
    return tuple(range(windows[0][0], windows[-1][-1] + 1))


def described(trial: Trial) -> str:
    """A line about a setting, as it comes."""
    m = trial.metrics
    return (
        f"{trial.stage}: {shown_options(trial.options)}: says {100 * m['efficacy_argmax']:.0f} %, reworded "
        f"{100 * m['generalization_argmax']:.0f} %, neighbors {100 * m['locality_kept']:.0f} %, "
        f"perplexity x{m['perplexity_ratio']:.3f}, score {trial.score:.3f}"
    )


def shown_options(options: dict[str, Any]) -> str:
    """`layers 3-6, λ 650, clamp 0.5`"""
    layers = options["layers"]
    parts = [f"layers {layers[0]}-{layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"]
    parts += [f"λ {options['statistics_weight']:g}"] if "statistics_weight" in options else []
    parts += [f"{name} {value:g}" for name, value in options.get("search", {}).items()]
    return ", ".join(parts)


def _read(path: Path) -> dict[str, float]:
    return _METRICS.validate_json(path.read_bytes())


def read_strings_by_name(path: Path) -> dict[str, str]:
    """A cached mapping of strings. Raises OSError, or ValueError for anything else."""
    return _STRINGS.validate_json(path.read_bytes())
