"""Every section of docs/extending.md is followed to the letter in a copy of the tree: files, changes, examples."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, read

PAGE = read(ROOT / "docs" / "extending.md")

FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One block of a section."""

    language: str
    path: str
    """File that a block with a path holds; empty: the block is run."""
    text: str


def steps_by_section() -> dict[str, list[Step]]:
    """Blocks of every section that has some, by its heading."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    return {section.splitlines()[0]: [Step(*found) for found in FENCE.findall(section)] for section in sections}


SECTIONS = {name: steps for name, steps in steps_by_section().items() if steps}


def change(file: Path, hunks: str) -> None:
    """Change a file as a block says; what it shows of the file must be there exactly once."""
    text = file.read_text(encoding="utf-8")
    for hunk in hunks.split("\n@@\n"):
        lines = hunk.strip("\n").split("\n")
        before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " -")
        after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " +")
        assert text.count(before) == 1, f"{file}: {text.count(before)} times\n{before}"
        text = text.replace(before, after)
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the page changes, in a folder of its own: the page also writes beside it."""
    clone, ignore = tmp_path / "clone", shutil.ignore_patterns("__pycache__")
    for name in ("autoseg", "planners"):
        shutil.copytree(ROOT / name, clone / name, ignore=ignore)
    (clone / "docs").mkdir()
    for name in ("pyproject.toml", "docs/usage.md"):
        shutil.copy(ROOT / name, clone / name)
    return clone


def apply_files(copy: Path, steps: list[Step]) -> None:
    """Write the new files of a section, and change the others."""
    for step in steps:
        if step.path:
            file = copy / step.path
            assert not file.exists()
            file.parent.mkdir(exist_ok=True)
            file.write_text(step.text, encoding="utf-8")
        elif step.language == "diff":
            header, _, hunks = step.text.partition("\n")
            change(copy / header.removeprefix("--- "), hunks)


def run(copy: Path, *command: str) -> str:
    """Run Python in the copy, with packages that were installed there, and give its output."""
    path = os.pathsep.join([str(copy), str(copy / "installed")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install(copy: Path, package: str) -> None:
    """Do what `pip install` does, into a folder of the copy."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(copy / "installed")]
    run(copy, "-m", "pip", "--disable-pip-version-check", "install", *options, package)


def test_the_sections_are_found():
    assert len(SECTIONS) == 7
    assert all(any(step.language == "python" and not step.path for step in steps) for steps in SECTIONS.values())


@pytest.mark.parametrize("steps", SECTIONS.values(), ids=SECTIONS)
def test_a_section_works(steps, copy):
    apply_files(copy, steps)
    for step in steps:
        if step.language == "sh" and step.text.startswith("pip install "):
            install(copy, step.text.split()[-1])
        elif step.language == "python" and not step.path:
            run(copy, "-c", step.text)
    run(copy, "-m", "ruff", "check", "--quiet", "autoseg", "planners")


@pytest.mark.slow
def test_all_examples_together_pass_the_type_check(copy):
    for steps in SECTIONS.values():
        apply_files(copy, steps)
    run(copy, "-m", "mypy", "autoseg", "planners")


@pytest.mark.slow
@pytest.mark.parametrize("steps", SECTIONS.values(), ids=SECTIONS)
def test_commands_of_a_section_run(steps, copy, phantom_dataset, planned_phantoms):
    apply_files(copy, steps)
    shutil.copytree(phantom_dataset, copy.parent / "phantoms")
    shutil.copytree(planned_phantoms.root, copy.parent / "phantoms.autoseg")
    for step in steps:
        for line in step.text.splitlines() if step.language == "sh" else []:
            program, *words = line.split()
            if program == "pip":
                install(copy, words[-1])
            else:
                run(copy, "-m", "autoseg", *filter(None, [program.removeprefix("autoseg").removeprefix("-")]), *words)
