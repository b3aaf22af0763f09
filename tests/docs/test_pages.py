"""Links lead somewhere, blocks are whole, and every block that could be run says whether it is."""

import ast
import importlib
import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import MARKED, MARKS, PAGES, ROOT, Block, all_blocks, anchors, inline_code, links, rows

HERE = [path.relative_to(ROOT).as_posix() for path in PAGES]
BLOCKS = all_blocks()
PACKAGES = ("editing", "tasks", "flows")
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
def test_python_compiles_and_what_it_takes_of_ours_is_there(block):
    compile(block.text, block.place, "exec")
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGES):
            module = importlib.import_module(node.module)
            missing = [one.name for one in node.names if not hasattr(module, one.name)]
            assert not missing, f"{block.place}: {node.module} has no {missing}"


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


@pytest.mark.parametrize(
    ("english", "chinese"), [("README.md", "README.zh-CN.md"), ("docs/index.md", "docs/index.zh.md")]
)
def test_both_languages_show_the_same(english, chinese):
    there, here = ROOT / english, ROOT / chinese
    assert _shown(there) == _shown(here), f"{chinese} shows other blocks than {english}"
    assert _linked(there) == _linked(here), f"{chinese} links to other places than {english}"
    assert sorted(inline_code(there)) == sorted(inline_code(here)), f"{chinese} names other things than {english}"
    assert rows(there) == rows(here), f"{chinese} has other rows than {english}"


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
def test_every_page_can_be_reached_from_where_one_starts(start):
    there = {(ROOT / start).parent / target.partition("#")[0] for target in links(ROOT / start)}
    starts = {ROOT / "docs/index.md", ROOT / "docs/index.zh.md"}
    assert {path for path in PAGES if path.is_relative_to(ROOT / "docs")} - starts <= there


def _shown(page: Path) -> list[tuple[str, str]]:
    return [(block.language, block.text) for block in BLOCKS if block.page == page]


def _linked(page: Path) -> list[str]:
    """Where links lead, in any order, a page of the other language as that of this one."""
    return sorted(target.replace("index.zh.md", "index.md") for target in links(page))
