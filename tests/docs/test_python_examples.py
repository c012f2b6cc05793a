"""Python examples of README and usage run on a tiny model; those of docs/extending.md have a test of their own."""

from typing import Any

import nibabel
import numpy as np
import pytest

from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from tests.builders import write_model
from tests.docs.documents import ROOT, code_blocks, read

EXAMPLES = {
    f"{name}, example {index}": block.text
    for name in ("README.md", "docs/usage.md")
    for index, block in enumerate(block for block in code_blocks(read(ROOT / name)) if block.language == "python")
}


def test_the_examples_are_found():
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_runs(example, planned_phantoms, tmp_path, monkeypatch):
    plan = read_record(Plan, planned_phantoms.plan)
    write_model(tmp_path / "DATASET.autoseg", plan, {"3d_fullres": ("0",)})
    image = np.random.default_rng(0).normal(size=(12, 20, 18)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1.0, 1.0, 2.5, 1.0])), tmp_path / "image.nii.gz")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(compile(example, "example", "exec"), found)
    assert found["prediction"].labels.shape == (18, 20, 12)
