"""A reader finds the tests of a module: in the mirrored file, or where the module's docstring says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def find_tests(module: Path, root: Path) -> list[Path]:
    """The mirrored test file, or else those that the docstring names; none where it names none."""
    package, *folders = module.relative_to(root).parent.parts
    mirrored = root.joinpath("tests", *([] if package == "autoseg" else [package]), *folders, f"test_{module.name}")
    if mirrored.is_file():
        return [mirrored]
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    _, _, named = docstring.partition("Tested in ")
    return [root / name for name in re.findall(r"tests/[\w/]+\.py", named)]


def test_every_module_has_a_test_file_or_names_one():
    modules = [path for package in ("autoseg", "planners") for path in (ROOT / package).rglob("*.py")]
    found = {path: find_tests(path, ROOT) for path in modules if not path.name.startswith("__")}
    without = [str(path.relative_to(ROOT)) for path, tests in found.items() if not tests]
    assert not without, 'add a mirrored test file, or "Tested in tests/..." to the docstring of these modules'
    gone = [
        f"{path.relative_to(ROOT)}: {test.relative_to(ROOT)}"
        for path, tests in found.items()
        for test in tests
        if not test.is_file()
    ]
    assert not gone, "the docstrings of these modules name test files that do not exist"


@pytest.mark.parametrize(
    ("docstring", "names"),
    [("Voxels.", []), ("Voxels.\n\nTested in tests/test_a.py and tests/b/test_c.py.", ["test_a.py", "b/test_c.py"])],
)
def test_a_module_without_a_mirrored_file_names_its_tests(tmp_path, docstring, names):
    module = tmp_path / "autoseg" / "imaging" / "voxels.py"
    module.parent.mkdir(parents=True)
    module.write_text(f'"""{docstring}"""\n')
    assert find_tests(module, tmp_path) == [tmp_path / "tests" / name for name in names]
    mirrored = tmp_path / "tests" / "imaging" / "test_voxels.py"
    mirrored.parent.mkdir(parents=True)
    mirrored.touch()
    assert find_tests(module, tmp_path) == [mirrored]
