"""What `errata benchmark` prints of its result: a table for each thing that was measured, none for what was not."""

from typing import Any

from flows.cli.benchmark_tables import show

METRICS = {"efficacy_prob": 0.25, "generalization_prob": None, "locality_prob": 0.75}
RESULT: dict[str, Any] = {
    "method": "memit",
    "edits": 4,
    "mode": "sequential",
    "seconds_per_edit": 1.5,
    "metrics": {"before": METRICS, "after": METRICS | {"efficacy_prob": 0.5}},
    "fluency": {"before": 4.125, "after": 4.0},
    "perplexity": {
        "before": 20.0, "after": 21.0, "ratio": 1.05, "stderr": {"before": 0.5, "after": None, "ratio": 0.0125},
    },
    "kl": {"mean": 0.015625, "stderr": 0.00125, "same_top": 0.75, "positions": 4095},
    "said": {"prompt": {"before": 0.0, "after": 0.875, "old_before": 0.5, "old_after": 0.125}},
    "in_context": {"edits": 4, "metrics": METRICS, "said": {"prompt": {"said": 0.625, "old": 0.0}}},
    "probes": {"drift": {"edits": 3, "before": {"logprob": -2.5}, "after": {"logprob": -2.75, "kept": 0.9375}}},
    "portability": {
        "Reasoning": {
            "edits": 2, "probes": 5, "before": {"said": 0.0}, "after": {"said": 0.125}, "in_context": {"said": 0.4375},
        }
    },
    "locality": {},
    "answers": {"coined": {"edits": 1, "said": {"prompt": {"before": 0.0, "after": 0.25, "old_after": 0.0}}}},
    "counterfact": {"before": {"score": None}, "after": {"score": 0.8125}},
    "curve": [{"edits": 2, "metrics": METRICS, "said": {"prompt": {"said": 0.375, "old": 0.0}}, "perplexity": 20.5,
               "kl": {"mean": 0.03125}}],
}  # fmt: skip


def lines(text: str) -> list[list[str]]:
    """The cells of each line of all tables."""
    return [[cell.strip() for cell in line.strip().replace("┃", "│")[1:-1].split("│")] for line in text.splitlines()]


def test_every_measure_has_its_line_and_its_kind_of_number(capsys, monkeypatch):
    monkeypatch.setattr("flows.cli.console.console.width", 160)
    show(RESULT)
    shown = capsys.readouterr().out
    rows = lines(shown)
    assert ["efficacy_prob", "25.0 %", "50.0 %"] in rows and ["perplexity", "20.00 ± 0.50", "21.00"] in rows
    assert ["its ratio", "", "1.0500 ± 0.0125"] in rows
    assert "at 4,095 places of the text: KL from the base 0.01562 ± 0.00125, the same one first at 75.0 %" in shown
    assert ["asked by prompt", "0.0 %", "87.5 %", "12.5 %", "62.5 %"] in rows
    assert ["coined", "1", "25.0 %"] in rows and ["CounterFact's score", "", "81.2 %"] in rows
    assert ["drift", "3", "logprob", "-2.500", "-2.750"] in rows and ["", "", "kept", "", "93.8 %"] in rows
    assert ["Reasoning", "2", "said", "0.0 %", "12.5 %", "43.8 %"] in rows
    assert ["2", "25.0 %", "", "75.0 %", "37.5 %", "20.500", "0.0312"] in rows
    assert not any("locality" in row for row in rows)
