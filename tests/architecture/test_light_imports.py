"""What the import linter cannot see: which modules are really loaded by a process that only plans or helps."""

import subprocess
import sys

import pytest

HEAVY_FOR_HELP = ("torch", "numpy", "scipy", "pydantic", "rich", "SimpleITK", "nibabel", "joblib")
COMMANDS = ("plan", "train", "predict", "run", "evaluate", "select", "postprocess", "export", "report", "doctor")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('LOADED', *sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.rsplit("LOADED", 1)[1].split())


@pytest.mark.parametrize("arguments", [[], *[[command] for command in COMMANDS]])
def test_help_loads_nothing_heavy(arguments):
    words = [*arguments, "--help"]
    loaded = loaded_after(
        f"from autoseg.cli.main import main\ntry:\n    main({words!r})\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0"
    )
    assert "argparse" in loaded
    assert not loaded.intersection(HEAVY_FOR_HELP)


def test_importing_autoseg_loads_nothing_heavy():
    loaded = loaded_after("import autoseg")
    assert "autoseg" in loaded
    assert not loaded.intersection(HEAVY_FOR_HELP)


def test_the_planning_half_loads_neither_torch_nor_planners():
    stages = ("describe", "fingerprint", "plan", "preprocess")
    loaded = loaded_after("\n".join(f"import autoseg.stages.{stage}" for stage in stages) + "\nimport autoseg.pipeline")
    assert "autoseg.pipeline" in loaded
    assert "torch" not in loaded
    assert "planners" not in loaded


def test_planning_a_dataset_never_loads_torch(phantom_dataset, tmp_path):
    words = ["plan", str(phantom_dataset), "-w", str(tmp_path / "workspace"), "--device", "cuda", "-q", "-j", "1"]
    loaded = loaded_after(f"from autoseg.cli.main import main\nassert main({words!r}) == 0")
    assert "planners.unet" in loaded
    assert "torch" not in loaded
    assert (tmp_path / "workspace" / "preprocessed" / "3d_fullres").is_dir()


def test_prediction_loads_what_most_predictions_need():
    loaded = loaded_after("import autoseg.cli.predict, autoseg.stages.predict, autoseg.inference.files.case_pipeline")
    assert "torch" in loaded
    assert not loaded.intersection({"blosc2", "highdicom", "skimage.morphology", "skimage.segmentation"})
