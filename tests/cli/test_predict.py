"""The command, as a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.imaging.reading import read_label_map
from tests.inference.models import make_plan, write_model

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_prediction_and_leaves_whole_files_alone(tmp_path, number):
    write_model(tmp_path / "model", make_plan({"3d_fullres": (1.0, 1.0, 1.0)}), {"3d_fullres": ("0",)})
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).standard_normal((60, 50, 40)).astype(np.float32)
    for case in range(30):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "in" / f"case{case:02d}.nii.gz")
    out = tmp_path / "out"
    command = ["predict", "-m", tmp_path / "model", "-i", tmp_path / "in", "-o", out, "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "autoseg", *map(str, command)], cwd=ROOT, stderr=subprocess.PIPE)
    with process:
        while not list(out.glob("case*.nii.gz")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, messages = process.communicate()
    assert process.returncode == 130, messages
    written = sorted(path.name for path in out.iterdir())
    assert written == [f"case{case:02d}.nii.gz" for case in range(len(written))]
    assert 1 <= len(written) < 30
    for name in written:
        assert read_label_map(out / name).array.shape == (1, 40, 50, 60)
