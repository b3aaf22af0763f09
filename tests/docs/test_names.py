"""Names of the pages exist in the code, and tables of fields are whole: functions, messages, columns."""

import ast
import importlib
import re
from functools import cache
from typing import get_args

import pytest

from editing.methods import METHODS
from editing.request import Request
from tasks.ledger.events import TRANSITIONS
from tasks.ledger.scanning import COLUMNS
from tasks.stores import forgotten, searches
from tasks.stores.manifest import Head, Manifest
from tasks.stores.snapshots import BLOBS, CALIBRATIONS, HYPERNETWORKS, MANIFESTS
from tasks.watch.findings import Kind
from tasks.watch.policy import WatchPolicy
from tests.docs.pages import PAGES, ROOT, inline_code

DOTTED = re.compile(r"(editing|tasks|flows|deployments|tests)(\.\w+)+")
MESSAGE = re.compile(r"^- \*\*`(.+)`\*\*$", re.MULTILINE)
TYPES = {"string": "string", "timestamp": "timestamp", "integer": "int32", "long": "int64"}
"""What the page calls Delta's types."""
PLACE = "…"
"""What stands for the differing parts of a message."""


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def section(page: str, title: str) -> str:
    return re.split(r"^## ", text_of(page).split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def first_column(text: str) -> set[str]:
    """The names in the first cells of tables."""
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def resolve(name: str) -> object:
    """The module or what it holds; raises ImportError or AttributeError."""
    try:
        return importlib.import_module(name)
    except ImportError:
        parent, _, last = name.rpartition(".")
        if not parent:
            raise
        return getattr(resolve(parent), last)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_function_that_is_named_exists(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("it tells of names that there were")
    for name in (code for code in inline_code(page) if DOTTED.fullmatch(code)):
        resolve(name)


def test_a_name_that_is_gone_is_found():
    with pytest.raises(AttributeError):
        resolve("editing.methods.shared.solve.memit_loss")


def test_every_method_is_in_the_table_and_in_the_map_of_equations():
    page = text_of("methods.md")
    assert set(METHODS) <= first_column(page)
    assert page.count("`editing.methods.") >= len(METHODS)


@cache
def literals() -> tuple[str, ...]:
    """Every text that the code holds, differing parts as PLACE."""
    found = []
    for top in ("editing", "tasks", "flows", "deployments"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(one.value) if isinstance(one, ast.Constant) else PLACE for one in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"\{\w*\}", PLACE, node.value) if "{}" not in node.value else node.value)
    return tuple(found)


def is_said(message: str) -> bool:
    """Whether a text of the code has the message's fixed parts, in their order."""
    parts = [re.escape(part) for part in message.split(PLACE) if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in literals())


@pytest.mark.slow
@pytest.mark.parametrize("message", MESSAGE.findall(text_of("troubleshooting.md")))
def test_every_message_of_the_troubleshooting_is_one_of_the_code(message):
    assert is_said(message), message


def test_messages_are_found_and_a_made_up_one_is_missed():
    assert len(MESSAGE.findall(text_of("troubleshooting.md"))) > 30
    assert not is_said("line '…' is held by …: have a cup of tea")


def test_the_format_of_the_ledger_has_every_column_and_every_state():
    rows = re.findall(r"^\| `(\w+)` \| (\w+)", section("ledger.md", "Columns"), re.MULTILINE)
    assert dict(rows) == {name: TYPES[kind] for name, kind in COLUMNS.items()}
    assert f"the {len(TRANSITIONS)} [states]" in text_of("ledger.md")
    assert first_column(section("lines.md", "States of a request")) == set(TRANSITIONS)


def test_the_format_of_snapshots_has_every_field():
    assert first_column(section("snapshots.md", "Manifest")) == set(Manifest.model_fields)
    told = set(re.findall(r"`(\w+)`", section("snapshots.md", "Version, HEAD")))
    assert set(Head.model_fields) - {"etag"} <= told


def test_the_layout_of_the_store_has_every_folder():
    told = set(re.findall(r"^  (\w+)/", section("snapshots.md", "Layout"), re.MULTILINE))
    files = {BLOBS, MANIFESTS, HYPERNETWORKS, CALIBRATIONS, forgotten.FOLDER, searches.FOLDER, "lines", "trainings"}
    assert told == files


def test_every_finding_and_every_limit_of_a_watch_is_told():
    page = section("watch.md", "What a watch looks at")
    assert first_column(page) == {*get_args(Kind), *WatchPolicy.model_fields}
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    assert {name: float(value) for name, value in told.items()} == WatchPolicy().model_dump()


def test_the_fields_of_a_request_are_all_told():
    assert first_column(section("requests.md", "Fields")) == set(Request.model_fields)
