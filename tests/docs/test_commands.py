"""Every command of the pages could be typed as it stands: its options, targets, modules and arguments exist."""

import re
import shlex

import pytest

from editing.methods import METHODS
from tests.docs import commands
from tests.docs.commands import Wrong, check, check_alone, commands_of, options_of_errata
from tests.docs.pages import PAGES, ROOT, all_blocks, inline_code, rows
from tests.docs.values import FLAGS

SHELL = [block for block in all_blocks() if block.language == "bash"]
TYPED = ("errata ", "make ", "python -m ")


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_a_block_of_shell_could_be_typed(block):
    found = list(commands_of(block.text))
    assert found
    for words in found:
        check(words)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_command_within_a_text_could_be_typed(page):
    for code in inline_code(page):
        if code.startswith(TYPED):
            for words in commands_of(code.replace("...", "x")):
                check(words)
        elif re.match(r"[A-Z]+_ARGS=", code):
            check(["make", *shlex.split(code)])
        elif code.startswith(FLAGS) and "=" in code:
            check_alone(shlex.split(code))
        elif code.startswith(tuple(f"{method} -o " for method in METHODS)):
            method, *words = shlex.split(code)
            check_alone(words, method)
        elif code.startswith("--") and page.name != "CHANGELOG.md":
            assert code.split()[0].partition("=")[0] in options_of_errata(), f"{page.name}: no command has {code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_an_option_in_the_row_of_a_method_is_one_of_this_method(page):
    for method, *others in (codes for codes, _ in rows(page) if codes and codes[0] in METHODS):
        for code in others:
            if code.startswith(FLAGS):
                check_alone(shlex.split(code), method)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("errata fly", "there is no errata"),
        ("errata run --colour red", "No such option"),
        ("errata benchmark data.parquet", "Missing option"),
        ("make lunch", "no lunch"),
        ("make test SPEED=9", "no SPEED"),
        ("python -m tests.benchmarks lunch", "knows no lunch"),
        ("python -m tests.benchmarks --fast", "is refused"),
        ("python -m tests.lunch", "no module"),
        ("fly", "nobody knows"),
        ("errata run main --set nonsense=1", "nonsense"),
        ("errata run main --set levels.kl.most=1", "levels.kl.most"),
        ("errata run main --option nonsense=1", "nonsense"),
        ("errata run main --method rome -o ridge=5", "ridge"),
        ("errata calibrate --set nonsense=1", "nonsense"),
        ("errata watch --set nonsense=1", "nonsense"),
        ("errata rules main --set auto_approve.nonsense=1", "nonsense"),
        ("errata train-mend data.parquet -o nonsense=1", "nonsense"),
        ("python -m tests.benchmarks.live curve --data a.parquet -o nonsense=1", "nonsense"),
        ('make demo DEMO_ARGS="--nonsense"', "is refused"),
        ("make up UP_ARGS=--nonsense", "is refused"),
    ],
)
def test_what_cannot_be_typed_is_found(typed, says):
    [words] = commands_of(typed)
    with pytest.raises(Wrong, match=says):
        check(words)


@pytest.mark.parametrize(
    ("code", "method"),
    [("-o nonsense=1", ""), ("-o ridge=50 -o nonsense=1", ""), ("--set nonsense=1", ""), ("-o ridge=50", "rome")],
)
def test_an_option_that_nothing_takes_is_found(code, method):
    with pytest.raises(Wrong, match=r"nonsense|ridge"):
        check_alone(shlex.split(code), method)


def test_a_piece_of_shell_is_taken_apart():
    shell = 'A=1 errata run \\\n  --limit 2  # why\necho "a && b" && make test; errata status | cat'
    assert list(commands_of(shell)) == [
        ["errata", "run", "--limit", "2"],
        ["echo", "a && b"],
        ["make", "test"],
        ["errata", "status"],
        ["cat"],
    ]


def test_every_command_is_told_of_in_both_readmes():
    group = commands.get_command(commands.app)
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text()
        assert all(f"`errata {command}`" in text for command in group.commands)
