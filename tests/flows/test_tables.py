"""Laws of tables on a console: headings are read whole where there is room, and nothing is cut off at the edge."""

import io

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from flows.cli import console
from flows.cli.lines import runs_of

HEADINGS = st.lists(st.text("abcdefgh ", min_size=1, max_size=14).filter(str.strip), min_size=1, max_size=9)
REVIEW = ["version", "edits", "takes", "says it", "rephrased", "neighbors", "same", "fluency", "perplexity"]


@settings(max_examples=50)
@given(HEADINGS, st.lists(st.integers(0, 60), max_size=4), st.integers(30, 120))
@example(REVIEW, [4], 80)
@example(["version", "request", "prompt", "change", "efficacy"], [1, 30], 60)
def test_no_word_of_a_heading_is_broken_and_no_line_is_cut(headings, lengths, width):
    words = [max(map(cell_len, heading.split())) for heading in headings]
    assume(sum(words) + len(headings) + 1 <= width)
    shown = io.StringIO()
    rows = [["x" * ((length * (i + 1)) % 61) for i in range(len(headings))] for length in lengths]
    before = console.console
    try:
        console.console = Console(file=shown, width=width, highlight=False, markup=False)
        console.table("title", headings, rows, headings[::2])
    finally:
        console.console = before
    lines = shown.getvalue().splitlines()
    assert all(cell_len(line) <= width for line in lines) and lines[1].rstrip().endswith("┓")
    head = [line.strip("┃").split("┃") for line in lines if line.startswith("┃")]
    for i, heading in enumerate(headings):
        assert " ".join(" ".join(line[i] for line in head).split()) == " ".join(heading.split())
    body = [line for line in lines if line.startswith("│")]
    assert sum(line.count("x") for line in body) == sum(len(cell) for row in rows for cell in row)


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ([], ""),
        ([4], "v4"),
        ([1, 2], "v1, v2"),
        ([1, 2, 3], "v1 to v3"),
        ([1, 2, 4, 7, 8, 9, 10, 12], "v1, v2, v4, v7 to v10, v12"),
    ],
)
def test_versions_that_follow_one_another_are_named_by_the_first_and_the_last(versions, said):
    assert runs_of(versions) == said
