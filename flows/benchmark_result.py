"""What a benchmark found as rows of numbers: `result.json`, but for the run itself."""

from collections.abc import Sequence
from typing import Any

from editing.measure.answer_kinds import KINDS
from editing.measure.asking import Found, summary
from editing.measure.counterfact import score
from editing.measure.metrics import EditScores, summarise
from editing.measure.said import Said, summarise_said
from flows.benchmark_states import State

REPORTED = (
    "efficacy_prob",
    "efficacy_argmax",
    "generalization_prob",
    "generalization_argmax",
    "locality_prob",
    "locality_argmax",
)
WAYS = {"prompt": "prompt", "paraphrase": "paraphrases", "chat": "chat"}
"""How facts are asked for, by their names here and in `summarise_said`."""


def described(base: State, edited: State, in_context: State, kinds: Sequence[str]) -> dict[str, Any]:
    """Everything that is said of a base, the edited model, and the base with the corrections in its prompts."""
    return {
        "metrics": {"before": reported(base.metrics), "after": reported(edited.metrics)},
        "said": compared_said(base.said, edited.said),
        "probes": _compared(base.probes, edited.probes),
        "portability": _compared(base.portability, edited.portability, in_context.portability),
        "locality": _compared(base.locality, edited.locality, in_context.locality),
        "in_context": {
            "edits": len(in_context.edits),
            "metrics": reported(in_context.metrics),
            "said": said_shares(in_context.said),
        },
        "answers": _by_kind(base, edited, kinds),
        "counterfact": {"before": _counterfact(base), "after": _counterfact(edited)},
    }


def reported(scores: Sequence[EditScores]) -> dict[str, float | None]:
    means = summarise(scores)
    compared = ("locality_kept", "locality_kept_tokens")
    return {name: means.get(name) for name in REPORTED} | {name: means[name] for name in compared if name in means}


def said_shares(found: Sequence[Said]) -> dict[str, dict[str, float]]:
    """By way of asking the shares of answers that are the new one, and in which the old one is."""
    shares = summarise_said(found)
    return {
        way: {"said": shares[f"said_{name}"], "old": shares[f"old_{name}"]}
        for way, name in WAYS.items()
        if f"said_{name}" in shares
    }


def compared_said(before: Sequence[Said], after: Sequence[Said]) -> dict[str, dict[str, float]]:
    then, now = said_shares(before), said_shares(after)
    return {
        way: {
            "before": then[way]["said"],
            "after": one["said"],
            "old_before": then[way]["old"],
            "old_after": one["old"],
        }
        for way, one in now.items()
    }


def _compared(
    before: Sequence[Found], after: Sequence[Found], in_context: Sequence[Found] = ()
) -> dict[str, dict[str, Any]]:
    """Each measure or group, with how many edits it was asked of, and of how many probes in all."""
    rows: dict[str, dict[str, Any]] = {}
    states = {"before": summary(before), "after": summary(after), "in_context": summary(in_context)}
    for name, numbers in states["after"].items():
        rows[name] = {"edits": int(numbers["edits"])}
        if "probes" in numbers:
            rows[name]["probes"] = int(sum(one[name]["probes"] for one in after if name in one))
        for state, found in states.items():
            if name in found:
                counts = ("edits", "probes")
                rows[name][state] = {what: value for what, value in found[name].items() if what not in counts}
    return rows


def _by_kind(base: State, edited: State, kinds: Sequence[str]) -> dict[str, Any]:
    """Facts whose new answer is one token, several, or a word that the model does not know, apart."""
    found = {}
    for kind in KINDS:
        chosen = [number for number, one in enumerate(kinds) if one == kind]
        if chosen:
            found[kind] = {
                "edits": len(chosen),
                "metrics": {
                    "before": reported([base.metrics[number] for number in chosen]),
                    "after": reported([edited.metrics[number] for number in chosen]),
                },
                "said": compared_said(
                    [base.said[number] for number in chosen], [edited.said[number] for number in chosen]
                ),
            }
    return found


def _counterfact(state: State) -> dict[str, Any]:
    sizes = summary({"all": one} for one in state.magnitudes if one).get("all", {})
    found = {
        "score": score(summarise(state.metrics)),
        "magnitudes": {name: value for name, value in sizes.items() if name != "edits"},
    }
    if state.consistency:
        found["consistency"] = sum(state.consistency) / len(state.consistency)
    return found
