"""The benchmark of silence reads what was recorded of a terminal and of a pipe, and finds what is wrong in it."""

import sys

from tests.benchmarks.silence import Chunk, Figure, Stage, figures, record, silences, stages

LINES = [
    Chunk(1.0, "updating line main\n"),
    Chunk(8.0, "opening MLflow's records, 6 s so far\nkept batch 1 (1 edits) as version 1: efficacy_prob 1.000\n"),
    Chunk(16.0, "values: 7 of 28 (25 %), 8 s so fa"),
    Chunk(16.1, "r, about 20 s left; edits: 0 of 28 (0 %), 8 s so far\n"),
    Chunk(24.0, "values: 14 of 28 (50 %), 16 s so far, about 14 s left; edits: 0 of 28 (0 %), 16 s so far\n"),
    Chunk(36.0, "values: 28 of 28 in 28 s\n"),
    Chunk(44.0, "sampled text: 1,024 of 67,584 (2 %), 1 min 40 s so far, about 1 h 20 min left\n"),
]
ROWS = [
    Chunk(
        1.0,
        "\x1b[?25l⠙ edits          \x1b[90m━\x1b[0m 10 of 28 (36 %), 8 s so far, about 4 s left\r\n"
        "⠙ apply batch 1       4 s so far\r\n",
    ),
    Chunk(1.2, "\r\x1b[2K\x1b[1A\x1b[2K"),
    Chunk(
        1.3,
        "⠸ values  \x1b[91m━━━━━━\x1b[0m\x1b[90m╺\x1b[0m\x1b[90m━━━\x1b[0m 7 of 10 (70 %), 5 s so far, about 2 s left",
    ),
    Chunk(1.4, "\r\x1b[2K\x1b[1A\x1b[2Kvalues: 10 of 10 in 7 s\r\n"),
]


def test_lines_of_a_pipe_are_read():
    assert figures(LINES) == [
        Figure(8.0, "opening MLflow's records", 6.0),
        Figure(16.1, "values", 8.0, 7, 28, 25, 20.0),
        Figure(16.1, "edits", 8.0, 0, 28, 0),
        Figure(24.0, "values", 16.0, 14, 28, 50, 14.0),
        Figure(24.0, "edits", 16.0, 0, 28, 0),
        Figure(36.0, "values", 28.0, 28, 28, 100, over=True),
        Figure(44.0, "sampled text", 100.0, 1024, 67584, 2, 4800.0),
    ]


def test_rows_of_a_terminal_are_read():
    assert figures(ROWS) == [
        Figure(1.0, "edits", 8.0, 10, 28, 36, 4.0),
        Figure(1.0, "apply batch 1", 4.0),
        Figure(1.3, "values", 5.0, 7, 10, 70, 2.0),
        Figure(1.4, "values", 7.0, 10, 10, 100, over=True),
    ]


def test_silence_is_where_nothing_can_be_seen():
    assert silences(ROWS, 5.0) == [(0.0, 1.0), (1.0, 1.3 - 1.0), (1.3, 1.4 - 1.3), (1.4, 3.6)]


def test_a_stage_that_foretells_well_holds():
    values = next(stage for stage in stages(figures(LINES)) if stage.what == "values")
    assert (round(values.seconds), round(values.real)) == (28, 20) and list(values.faults(figures(LINES))) == []


def found(*said: Figure) -> list[str]:
    [stage] = stages(said)
    return list(stage.faults(said))


def test_a_figure_that_falls_is_found():
    falls = found(Figure(1.0, "v", 1.0, 5, 10, 50), Figure(2.0, "v", 2.0, 4, 10, 40))
    assert falls == ["fell from 5 (50 %) to 4 (40 %)"]


def test_a_wrong_time_left_and_none_at_all_are_found():
    end = Figure(100.0, "v", 100.0, 10, 10, 100, over=True)
    assert found(Figure(25.0, "v", 25.0, 3, 10, 30, 160.0), end) == ["foretold wrongly"]
    assert found(Figure(25.0, "v", 25.0, 3, 10, 30, 30.0), end) == ["foretold wrongly"]
    assert found(Figure(25.0, "v", 25.0, 3, 10, 30, 40.0), end) == []
    assert found(Figure(25.0, "v", 25.0, 3, 10, 30), end) == ["named no time left"]


def test_a_stage_of_which_nobody_knows_how_far_it_is_is_found_but_where_others_in_it_say_so():
    starting = [Figure(7.0, "starting", 7.0), Figure(14.0, "starting", 14.0)]
    assert found(*starting) == ["did not say how far it is"]
    assert list(Stage("starting", starting).faults([Figure(8.0, "values", 1.0, 5, 10, 50)])) == []


def test_a_stage_that_begins_anew_is_another_one():
    said = [Figure(5.0, "v", 5.0, 9, 10, 90), Figure(6.0, "v", 0.0, 0, 10, 0), Figure(9.0, "v", 3.0, 1, 10, 10)]
    assert stages(said) == [Stage("v", said[:1]), Stage("v", said[1:])]


def test_what_a_command_writes_is_recorded_in_both_ways():
    command = [sys.executable, "-c", "import sys, time; print(sys.stdout.isatty()); time.sleep(0.2); sys.exit(3)"]
    for way, says in (("terminal", "True"), ("pipe", "False")):
        chunks, seconds, code = record(command, way)
        assert "".join(chunk.text for chunk in chunks).strip() == says and code == 3
        assert 0 < chunks[0].at < seconds
