"""What a command says last where it came to nothing: what to look at, and what to try."""

import pytest

from flows.cli.calibrating import _show
from flows.cli.jobs import show_summary
from tasks.lines.calibrations import Calibration, Trial
from tasks.update.journal import JobSummary
from tests.tasks.test_report import make_report


@pytest.mark.parametrize(("kept", "tells"), [(0, True), (1, False)])
def test_a_job_that_kept_nothing_names_a_request_and_how_to_find_what_suits_the_model(kept, tells, capsys):
    report = make_report(base="/models/our model")
    show_summary("facts", JobSummary(line="facts", kept=kept, quarantined=1, report=report), json=False)
    wanted = (
        "next: errata history e-0 --line facts; where none takes in this model: errata calibrate '/models/our model'"
    )
    assert (wanted in capsys.readouterr().out) is tells


@pytest.mark.parametrize(("said", "warned"), [(0.0, True), (0.4, True), (0.5, False), (1.0, False)])
def test_a_calibration_that_found_no_setting_that_works_says_so(said, warned, capsys):
    names = ("efficacy_prob", "efficacy_argmax", "generalization_prob", "generalization_argmax", "locality_kept")
    metrics = dict.fromkeys((*names, "perplexity_ratio"), 1.0) | {"efficacy_argmax": said}
    one = Trial(stage="rule", options={"layers": [1]}, metrics=metrics, score=said)
    texts = {"base_digest": "d" * 64, "model": "m", "release": "1"}
    _show(Calibration(**texts, plan={}, facts=(), trials=(one,), rule=one, chosen=one))
    heard = capsys.readouterr()
    assert "nothing that was tried is better" in heard.out
    assert (f"{said:.1%}".replace("%", " %") + " of these facts are said" in heard.err) is warned
