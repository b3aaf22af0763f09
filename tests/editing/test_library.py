"""What holds of the library's code as a whole: causes are kept, nothing is caught unseen, imports stand at the top."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *sorted((ROOT / "editing").rglob("*.py")),
    ROOT / "tasks" / "update" / "session.py",
    ROOT / "tasks" / "update" / "prepared.py",
]


def nodes() -> Iterator[tuple[str, str, ast.AST]]:
    """Every piece of code with its place and the line that it begins in."""
    for path in FILES:
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if number := getattr(node, "lineno", None):
                yield f"{path.relative_to(ROOT)}:{number}", lines[number - 1], node


def test_an_error_that_explains_another_keeps_it_as_its_cause():
    forgotten = [
        place
        for place, _, node in nodes()
        if isinstance(node, ast.Raise) and isinstance(node.cause, ast.Constant) and node.cause.value is None
    ]
    assert not forgotten


def test_whatever_is_caught_has_a_name_or_a_reason():
    for place, line, node in nodes():
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            assert not broad or "  # " in line, place


def test_an_import_inside_a_function_says_why():
    for _, _, node in nodes():
        if isinstance(node, ast.FunctionDef):
            for inner in ast.walk(node):
                assert not isinstance(inner, ast.Import | ast.ImportFrom) or reason(inner), (node.name, inner.lineno)


def reason(node: ast.Import | ast.ImportFrom) -> bool:
    names = [alias.name for alias in node.names]
    return any(f"import {names[0]}  # " in path.read_text() for path in FILES)


def test_a_file_fits_in_one_look():
    assert [str(path) for path in FILES if len(path.read_text().splitlines()) > 300] == []
