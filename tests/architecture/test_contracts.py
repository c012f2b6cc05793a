"""The import contracts hold, and each of them can go red: one forbidden line per contract is planted in a copy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PLANTED = {
    "imports run from the command line down to the records": ("autoseg/records/case.py", "import autoseg.cli.main"),
    "a stage may use earlier stages, never later ones": ("autoseg/stages/describe.py", "import autoseg.stages.train"),
    "autoseg finds planners only through entry points": ("autoseg/plugins.py", "import planners.unet"),
    "prediction runs from files down to windows": (
        "autoseg/inference/restoring/restore.py",
        "import autoseg.inference.files.inputs",
    ),
    "training runs from the fold down to losses and data": (
        "autoseg/training/losses/overlap.py",
        "import autoseg.training.folds.fold",
    ),
    "imaging runs from datasets over arrays down to files": (
        "autoseg/imaging/formats/itk.py",
        "import autoseg.imaging.arrays.labels",
    ),
    "the report's page is made of charts": (
        "autoseg/report/charts/svg.py",
        "import autoseg.report.page.render",
    ),
    "planners see records, costs and errors, nothing else": ("planners/unet.py", "import autoseg.plugins"),
    "the planning half does not need torch": ("autoseg/imaging/arrays/cropping.py", "import torch"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("autoseg", "planners"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_has_a_planted_line():
    text = (ROOT / "pyproject.toml").read_text()
    assert text.count("[[tool.importlinter.contracts]]") == len(PLANTED)
    assert all(f'name = "{name}"' in text for name in PLANTED)


def test_contracts_hold(copy):
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("contract", PLANTED)
def test_a_planted_import_turns_its_contract_red(copy, contract):
    file, line = PLANTED[contract]
    path = copy / file
    path.write_text(path.read_text() + f"\n{line}\n")
    result = lint(copy)
    assert result.returncode != 0
    assert f"{contract} BROKEN" in result.stdout
