"""Links lead somewhere, blocks are whole, and every block that could be run says whether it is."""

import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import MARKED, MARKS, PAGES, ROOT, Block, all_blocks, anchors, inline_code, links

HERE = [path.relative_to(ROOT).as_posix() for path in PAGES]
BLOCKS = all_blocks()
TOPS = ("editing/", "tasks/", "flows/", "deployments/", "tests/", "docs/")


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_the_pages_that_a_newcomer_looks_for_are_there():
    assert {"README.md", "README.zh-CN.md", "CHANGELOG.md", "docs/index.md", "docs/index.zh.md"} <= set(HERE)
    assert len(BLOCKS) > 20


@pytest.mark.parametrize("name", HERE)
def test_every_link_leads_somewhere(name):
    page = ROOT / name
    for target in links(page):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = unquote(target).partition("#")
        other = (page.parent / place).resolve() if place else page
        assert other.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(other), f"{name} links to {target}; there are {sorted(anchors(other))}"
        if page.is_relative_to(ROOT / "docs"):
            assert other.is_relative_to(ROOT / "docs"), f"{target} of {name} is no page of the built documentation"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_says_its_language_and_whether_it_is_run(block):
    assert block.language, f"{block.place} names no language"
    if block.language in MARKED:
        assert block.mark in MARKS, f"{block.place} does not say whether it is run; marks are {MARKS}"
        assert bool(block.why) == (block.mark in ("hours", "shown")), f"{block.place}: give a reason where none runs it"


@pytest.mark.parametrize("block", of("json"), ids=lambda block: block.place)
def test_json_can_be_read(block):
    json.loads(block.text)


@pytest.mark.parametrize("block", of("python"), ids=lambda block: block.place)
def test_python_compiles(block):
    compile(block.text, block.place, "exec")


@pytest.mark.parametrize("name", HERE)
def test_every_file_that_is_named_is_there(name):
    for code in inline_code(ROOT / name):
        if code.startswith(TOPS) and " " not in code:
            assert (ROOT / code).exists(), f"{name} names {code}"


def test_no_page_is_left_out_of_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        assert f" {path.relative_to(ROOT / 'docs')}\n" in navigation


def test_readmes_stay_short():
    for path in (path for path in PAGES if path.name.startswith("README")):
        assert len(path.read_text().splitlines()) <= 160, f"{path.name}: move something to docs/"


def test_pictures_are_small():
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in {".svg", ".png"}]
    assert pictures and all(path.stat().st_size < 200_000 for path in pictures)


def test_both_languages_give_the_same_commands():
    for english, chinese in (("README.md", "README.zh-CN.md"), ("docs/index.md", "docs/index.zh.md")):
        there, here = (_blocks_of(name) for name in (english, chinese))
        assert there == here, f"{chinese} shows other blocks than {english}"


def _blocks_of(name: str) -> list[tuple[str, str]]:
    page = Path(ROOT / name)
    return [(block.language, block.text) for block in BLOCKS if block.page == page]
