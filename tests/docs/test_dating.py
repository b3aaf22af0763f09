"""What `python -m tests.docs` writes into the page of measurements."""

from datetime import UTC, datetime

from tests.docs.__main__ import MARKED, PAGE, dated, first_line
from tests.docs.running import Done, pages, to_run

NOW = datetime(2031, 2, 3, tzinfo=UTC)


def test_the_page_of_measurements_says_what_was_run_and_when():
    long = [block for page in pages() for block in to_run(page, ["long"])]
    done = [Done(block, 0, "", 61.2) for block in long]
    before = PAGE.read_text()
    once = dated(before, done, 600, NOW)
    assert long and "Last run: 2031-02-03" in once and once.count("| 61 |") == len(long)
    assert dated(once, done, 600, NOW) == once and before.split("docs-commands: begin")[0] in once


def test_what_lacks_its_data_is_dated_as_not_run():
    block = next(block for page in pages() for block in to_run(page, ["hours"]))
    assert f"| {first_line(block)} | not run |" in dated(PAGE.read_text(), [Done(block, 0, "", 0, ("a",))], 600, NOW)


def test_the_page_says_of_every_long_block_whether_it_was_run():
    told = MARKED.search(PAGE.read_text())[0]
    for block in (block for page in pages() for block in to_run(page, ["long"])):
        assert f"| {first_line(block)} | " in told, f"{block.place} is not in the table of what was run"
