"""What `--help` says reads well in a terminal of any width, and its examples can be copied from there."""

import itertools

import pytest

from flows.cli.help_text import MARGIN, flowing
from flows.cli.main import app
from tests.docs.commands import check, commands_of

DOCSTRINGS = {one.name or one.callback.__name__: one.callback.__doc__ for one in app.registered_commands}


@pytest.mark.parametrize("width", [70, 80, 130])
@pytest.mark.parametrize("command", DOCSTRINGS)
def test_examples_fit_the_terminal_and_are_commands(command, width):
    paragraphs = flowing(DOCSTRINGS[command], width).split("\n\n")
    assert paragraphs[-2] in ("Example:", "Examples:")
    assert all(len(line) <= width - MARGIN for line in paragraphs[-1].splitlines())
    whole = flowing(DOCSTRINGS[command], 10_000).split("\n\n")[-1]
    examples = list(commands_of(paragraphs[-1]))
    assert examples == list(commands_of(whole))
    for example in examples:
        check(example)


@pytest.mark.parametrize("command", DOCSTRINGS)
def test_prose_is_broken_by_the_terminal_alone(errata, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    said = flowing(DOCSTRINGS[command], 80).partition("\n\nExample")[0]
    _, *prose = said.split("\n\n")
    assert not any("\n" in paragraph for paragraph in prose)
    shown = [line.strip() for line in errata(command, "--help").out.splitlines()]
    for paragraph in prose:
        assert " ".join(shown).count(paragraph) == 1
    for line, following in itertools.pairwise(shown):
        if following and any(line + " " + following in paragraph for paragraph in prose):
            assert len(line) + 1 + len(following.split()[0]) > 80 - MARGIN
