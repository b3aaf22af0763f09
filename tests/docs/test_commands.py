"""Every command of the pages could be typed as it stands: its options, targets, modules and arguments exist."""

import pytest

from tests.docs import commands
from tests.docs.commands import Wrong, check, commands_of, options_of_errata
from tests.docs.pages import PAGES, ROOT, all_blocks, inline_code

SHELL = [block for block in all_blocks() if block.language == "bash"]
TYPED = ("errata ", "make ", "python -m ")


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_a_block_of_shell_could_be_typed(block):
    found = list(commands_of(block.text))
    assert found
    for words in found:
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_command_within_a_text_could_be_typed(page):
    for code in inline_code(page):
        if code.startswith(TYPED):
            for words in commands_of(code.replace("...", "x")):
                check(words)
        elif code.startswith("--") and page.name != "CHANGELOG.md":
            assert code.split()[0].partition("=")[0] in options_of_errata(), f"{page.name}: no command has {code}"


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
    ],
)
def test_what_cannot_be_typed_is_found(typed, says):
    [words] = commands_of(typed)
    with pytest.raises(Wrong, match=says):
        check(words)


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
