"""Figures of a job: drift over edits, and the metrics before and after.

Drawn with matplotlib's object API (no pyplot, no shared state) in the colours of the light page. `to_svg` replaces
each of these colours by a CSS variable, so that one drawing follows the page into dark mode.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from tasks.report.data import JobReport

INK, MUTED, GRID = "#22262b", "#66707c", "#dfe3e8"
BASE, CHAMPION, CANDIDATE = "#a3abb5", "#6d8fb3", "#0b62a8"
EFFICACY, GENERALIZATION, LOCALITY = "#0b63a9", "#c2570c", "#0a7d5a"
PERPLEXITY, FLUENCY = "#9a3f86", "#5b6675"

CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    BASE: "--chart-base",
    CHAMPION: "--chart-champion",
    CANDIDATE: "--chart-candidate",
    EFFICACY: "--chart-efficacy",
    GENERALIZATION: "--chart-generalization",
    LOCALITY: "--chart-locality",
    PERPLEXITY: "--chart-perplexity",
    FLUENCY: "--chart-fluency",
}

SHARES = (
    ("efficacy_prob", "Efficacy"),
    ("efficacy_argmax", "Efficacy, exact"),
    ("generalization_prob", "Generalization"),
    ("generalization_argmax", "Generalization, exact"),
    ("locality_prob", "Locality"),
    ("locality_argmax", "Locality, exact"),
    ("locality_kept", "Locality, kept"),
    ("retained_efficacy_prob", "Earlier facts kept"),
)


def job_figures(report: JobReport) -> dict[str, Figure]:
    """The figures of a job by name."""
    drawings = {"before_after": bars_figure(report.baseline, report.champion, report.candidate)}
    if len(report.drift) > 1:
        drawings["drift"] = drift_figure(report.drift, report.baseline)
    return drawings


def drawn(report: JobReport) -> dict[str, str]:
    """The figures of a job by name, as inline SVG."""
    return {name: to_svg(figure) for name, figure in job_figures(report).items()}


def drift_figure(drift: Sequence[Mapping[str, float]], baseline: Mapping[str, float]) -> Figure:
    """Success rates (upper panel, percent), perplexity ratio and fluency (lower panel) over the number of edits.

    `drift` holds one mapping a kept batch, with `edits` (their number so far) and metrics; `baseline` gives the
    base model's locality and fluency as dotted lines. A metric that was not measured leaves a gap.
    """
    figure = Figure(figsize=(9.0, 5.4))
    rates, ability = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2]})
    edits = [point.get("edits", math.nan) for point in drift]
    for name, label, colour, marker in (
        ("efficacy_prob", "Efficacy", EFFICACY, "o"),
        ("generalization_prob", "Generalization", GENERALIZATION, "s"),
        ("locality_prob", "Locality", LOCALITY, "^"),
    ):
        rates.plot(edits, _column(drift, name, 100.0), color=colour, marker=marker, label=label, lw=1.8, ms=5)
    _reference(rates, 100.0 * baseline.get("locality_prob", math.nan), LOCALITY, "Locality of the base")
    rates.set_ylim(0, 104)
    rates.set_ylabel("success, %", color=MUTED)
    _style(rates)
    _legend(rates)

    ability.plot(
        edits,
        _column(drift, "perplexity_ratio"),
        color=PERPLEXITY,
        marker="o",
        label="Perplexity ratio",
        lw=1.8,
        ms=5,
    )
    _reference(ability, 1.0, PERPLEXITY, None)
    ability.set_ylabel("perplexity / base", color=PERPLEXITY)
    ability.set_xlabel("edits in the model", color=MUTED)
    ability.xaxis.set_major_locator(MaxNLocator(integer=True))
    ability.ticklabel_format(axis="y", useOffset=False)
    _widen(ability, 0.02)
    _style(ability)
    fluency = ability.twinx()
    fluency.plot(edits, _column(drift, "fluency"), color=FLUENCY, marker="D", ls="--", label="Fluency", lw=1.5, ms=4)
    _reference(fluency, baseline.get("fluency", math.nan), FLUENCY, None)
    fluency.set_ylabel("fluency, bits", color=FLUENCY)
    fluency.ticklabel_format(axis="y", useOffset=False)
    _widen(fluency, 0.2)
    _style(fluency, grid=False)
    _legend(ability, fluency)
    return _laid_out(figure)


def bars_figure(
    baseline: Mapping[str, float], champion: Mapping[str, float] | None, candidate: Mapping[str, float]
) -> Figure:
    """Success rates of base, champion (if there is one) and candidate side by side, in percent."""
    series = [("Base", BASE, baseline), ("Candidate", CANDIDATE, candidate)]
    if champion is not None:
        series.insert(1, ("Champion", CHAMPION, champion))
    rows = [(name, label) for name, label in SHARES if any(_finite(values.get(name)) for _, _, values in series)]
    figure = Figure(figsize=(9.0, 1.0 + 0.19 * len(series) * max(len(rows), 1)))
    axes = figure.subplots()
    height = 0.8 / len(series)
    for place, (title, colour, values) in enumerate(series):
        centres = [row + (place - (len(series) - 1) / 2) * height for row in range(len(rows))]
        shares = [100.0 * values[name] if _finite(values.get(name)) else 0.0 for name, _ in rows]
        axes.barh(centres, shares, height=0.88 * height, color=colour, label=title)
        for (name, _), centre, share in zip(rows, centres, shares, strict=True):
            text = f"{share:.0f}" if _finite(values.get(name)) else "–"
            axes.text(share + 0.8, centre, text, va="center", fontsize=8, color=MUTED)
    axes.set_yticks(range(len(rows)), [label for _, label in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 106)
    axes.set_xlabel("success, %", color=MUTED)
    _style(axes)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    _legend(axes)
    return _laid_out(figure)


def _laid_out(figure: Figure) -> Figure:
    """With the place of each panel, once: a figure that has a layout engine is laid out and drawn twice a saving."""
    ConstrainedLayoutEngine().execute(figure)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as one inline `<svg>` element: no prolog, no size of its own, colours as CSS variables."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", text, count=1)
    for colour, variable in CSS_VARIABLES.items():
        text = re.sub(rf"{colour}\b", f"var({variable}, {colour})", text)
    return text


def alone(svg: str) -> str:
    """What `to_svg` gave as a file of its own: on white whatever page shows it, and of a size, or MLflow shows none."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found is not None  # of matplotlib's
    width, height = (f"{4 / 3 * float(points):.0f}" for points in found.groups())
    return svg.replace("<svg", f'<svg width="{width}" height="{height}" style="background: white"', 1)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _column(drift: Sequence[Mapping[str, float]], name: str, factor: float = 1.0) -> list[float]:
    return [factor * point.get(name, math.nan) for point in drift]


def _reference(axes: Axes, level: float, colour: str, label: str | None) -> None:
    if math.isfinite(level):
        axes.axhline(level, color=colour, lw=1.1, ls=(0, (1, 2)), label=label)


def _widen(axes: Axes, least: float) -> None:
    """Keep noise from filling the panel: the y axis spans at least `least`."""
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, max(high - low, least) / 2
    axes.set_ylim(middle - 1.1 * half, middle + 1.1 * half)


def _style(axes: Axes, grid: bool = True) -> None:
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0.0)
    if grid:
        axes.grid(True, color=GRID, lw=0.8)
    axes.tick_params(colors=MUTED, labelsize=9, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom",))
        spine.set_color(GRID)


def _legend(*axes: Axes) -> None:
    """One legend above the panel for the lines of all its axes."""
    pairs = [axis.get_legend_handles_labels() for axis in axes]
    handles = [handle for handles, _ in pairs for handle in handles]
    labels = [label for _, labels in pairs for label in labels]
    axes[0].legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        borderaxespad=0.2,
    )
