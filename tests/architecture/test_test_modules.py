"""Tests stand on their own: what two test modules share lives in a module that is not a test."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def imported_modules(source: str) -> set[str]:
    """Names that follow `import` and `from ... import`, with their packages."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_test_module(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "tests" and any(
        (TESTS / Path(*parts[1:end])).with_suffix(".py").is_file() and parts[end - 1].startswith("test_")
        for end in range(2, len(parts) + 1)
    )


def test_no_test_module_is_imported():
    found = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in TESTS.rglob("*.py")
        for name in imported_modules(path.read_text(encoding="utf-8"))
        if is_test_module(name)
    }
    assert found == set()


def test_an_import_of_a_test_module_is_seen():
    lines = ("from tests.cli.test_main import x", "import tests.cli.test_main", "from tests.cli import test_main")
    assert all(is_test_module(name) for line in lines for name in imported_modules(line))
    assert not is_test_module("tests.builders.make_plan")
