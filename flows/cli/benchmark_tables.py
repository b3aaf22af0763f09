"""What a benchmark measured, as tables."""

from typing import Any

from flows.cli.console import number, percent, say, table

STATES = ("before", "after", "in_context")
NATS = frozenset({"gain", "gain_plain", "logprob", "change"})
"""Numbers of probes that are no shares."""
CURVE = ("efficacy_prob", "generalization_prob", "locality_prob")


def show(result: dict[str, Any]) -> None:
    """What was measured, a table each."""
    before, after = result["metrics"]["before"], result["metrics"]["after"]
    rows = [[name, percent(before.get(name)), percent(value)] for name, value in after.items()]
    score = {when: result["counterfact"][when]["score"] for when in STATES[:2]}
    rows.append(["CounterFact's score", percent(score["before"]), percent(score["after"])])
    rows.append(["fluency", number(result["fluency"]["before"]), number(result["fluency"]["after"])])
    text = result["perplexity"]
    rows.append(["perplexity", *(_with_error(text[when], text["stderr"][when], 1, 2) for when in STATES[:2])])
    rows.append(["its ratio", "", _with_error(text["ratio"], text["stderr"]["ratio"], 1, 4)])
    title = f"{result['method']}, {result['edits']} edits, {result['mode']}: {result['seconds_per_edit']:.2f} s an edit"
    table(title, ["metric", "before", "after"], rows, ["before", "after"])
    _show_said(result["said"], result["in_context"])
    _show_answers(result["answers"])
    _show_groups("probe", result["probes"])
    for what in ("portability", "locality"):
        _show_groups(what, result[what])
    _show_curve(result["curve"])
    if "kl" in result:
        show_ability(result.get("ability", {}), result["kl"])


def _show_said(said: dict[str, Any], in_context: dict[str, Any]) -> None:
    """The answers themselves, and what the base says with each correction in the prompt."""
    columns = ["before", "after", "old answer after", "base, corrected in the prompt"]
    rows = [
        [
            f"asked by {way}",
            *(percent(one[name]) for name in ("before", "after", "old_after")),
            percent(in_context["said"].get(way, {}).get("said")),
        ]
        for way, one in said.items()
    ]
    table("what is said", ["", *columns], rows, columns)


def _show_answers(answers: dict[str, Any]) -> None:
    """What is said after editing, by the kind of the new answer."""
    ways = list(dict.fromkeys(way for one in answers.values() for way in one["said"]))
    rows = [
        [kind, one["edits"], *(percent(one["said"].get(way, {}).get("after")) for way in ways)]
        for kind, one in answers.items()
    ]
    columns = ["edits", *(f"said: {way}" for way in ways)]
    table("by the tokens of the new answer", ["new answer", *columns], rows, columns)


def _show_groups(what: str, found: dict[str, Any]) -> None:
    """Shares in per cent; what is no share (its name says nats a token) as it is."""
    rows = []
    for name, one in found.items():
        for label in one["after"]:
            shown = number if label in NATS else percent
            states = [shown(one.get(state, {}).get(label)) for state in STATES]
            first = label == next(iter(one["after"]))
            rows.append([name if first else "", one["edits"] if first else "", label, *states])
    if rows:
        columns = ["before", "after", "base, corrected in the prompt"]
        columns = columns if any("in_context" in one for one in found.values()) else columns[:2]
        rows = [row[: 3 + len(columns)] for row in rows]
        table(what, [what, "edits", "measure", *columns], rows, ["edits", *columns])


def _show_curve(curve: list[dict[str, Any]]) -> None:
    ways = list(dict.fromkeys(way for point in curve for way in point["said"]))
    rows = [
        [
            point["edits"],
            *(percent(point["metrics"].get(name)) for name in CURVE),
            *(percent(point["said"].get(way, {}).get("said")) for way in ways),
            number(point["perplexity"]),
            number(point["kl"]["mean"], 4),
        ]
        for point in curve
    ]
    if rows:
        columns = ["edits", *CURVE, *(f"said: {way}" for way in ways), "perplexity", "KL"]
        table("all facts so far, asked again", columns, rows, columns)


def show_ability(ability: dict[str, Any], kl: dict[str, Any]) -> None:
    """Print `ability` and `kl` of a result."""
    columns = ("before", "after", "difference")
    rows = []
    for name, one in ability.items():
        measures = {"acc": one} | {label: one[label] for label in ("acc_norm", "perplexity") if label in one}
        for label, found in measures.items():
            scale, unit = (1, "") if label == "perplexity" else (100, ", %")
            cells = [_with_error(found[when], found["stderr"][when], scale) for when in columns]
            rows.append([name if label == "acc" else "", one["questions"], label + unit, *cells])
    title = "general ability ± standard error, that of differences paired"
    if rows:
        table(title, ["set", "n", "measure", *columns], rows, ["n", *columns])
    mean, same = _with_error(kl["mean"], kl["stderr"], 1, 5), percent(kl["same_top"])
    say(f"next tokens at {kl['positions']:,} places of the text: KL from the base {mean}, the same one first at {same}")


def _with_error(value: float, error: float | None, scale: float, digits: int = 1) -> str:
    shown = number(scale * value, digits)
    return shown if error is None else f"{shown} ± {number(scale * error, digits)}"
