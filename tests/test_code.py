"""What holds of the code as a whole: causes are kept, nothing is caught unseen, imports stand at the top."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for top in ("editing", "tasks", "flows", "deployments") for path in sorted((ROOT / top).rglob("*.py"))]
# Commands import what they need when they run: `errata --help` must not wait for torch (flows/cli/app.py).
LATE = ROOT / "flows" / "cli"


def nodes() -> Iterator[tuple[str, str, ast.AST]]:
    """Every piece of code with its place and the line that it begins in."""
    for path in FILES:
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if number := getattr(node, "lineno", None):
                yield f"{path.relative_to(ROOT)}:{number}", lines[number - 1], node


@pytest.mark.slow
def test_an_error_that_explains_another_keeps_it_as_its_cause():
    forgotten = [
        place
        for place, _, node in nodes()
        if isinstance(node, ast.Raise) and isinstance(node.cause, ast.Constant) and node.cause.value is None
    ]
    assert not forgotten


@pytest.mark.slow
def test_whatever_is_caught_has_a_name_or_a_reason():
    for place, line, node in nodes():
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            assert not broad or "  # " in line, place


@pytest.mark.slow
def test_an_import_inside_a_function_says_why():
    """On its line or above it, once for several that follow each other."""
    silent = []
    for path in FILES:
        if LATE in path.parents:
            continue
        text = path.read_text()
        lines = text.splitlines()
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom) and not has_reason(lines, node.lineno - 1):
                        silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []


def has_reason(lines: list[str], number: int) -> bool:
    while "import " in lines[number] and "  # " not in lines[number]:
        number -= 1
    return "# " in lines[number]


def test_a_file_fits_in_one_look():
    assert [str(path) for path in FILES if len(path.read_text().splitlines()) > 300] == []
