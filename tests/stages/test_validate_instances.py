"""Instances of validation cases: written maps and rows, and scores against references."""

import json
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from autoseg.imaging.datasets.cases import read_case
from autoseg.inference.instances.pasting import PaintedInstance
from autoseg.inference.predictor.instance_maps import InstanceMap
from autoseg.records.dataset import CaseFiles
from autoseg.stages.validate_instances import evaluate_fold_instances, write_case_instances
from tests.builders import make_plan

AFFINE = np.diag([-1.5, 1.0, 2.0, 1.0])  # runs against the working orientation


def test_references_have_the_numbers_that_the_dataset_names(tmp_path):
    """Two objects that touch, found as two; components would be one."""
    reference = np.zeros((9, 8, 6), np.uint8)
    reference[1:7, 1:5, 1:4] = 3
    numbers = np.where(reference, 70, 0).astype(np.uint16)
    numbers[4:7, 1:5, 1:4] = 7
    files = CaseFiles(case="a", images=("a_image.nii.gz",), label="a.nii.gz", instances="ids/a.nii.gz")
    (tmp_path / "validation").mkdir()
    (tmp_path / "ids").mkdir()
    for name, voxels in (
        (files.label, reference),
        (files.instances, numbers),
        ("validation/a.nii.gz", reference),
        ("validation/a_instances.nii.gz", (numbers + 1) // 8),
    ):
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), tmp_path / name)
    fold: Any = SimpleNamespace(
        plan=make_plan({"3d_fullres": (1.0, 1.0, 1.0)}, labels={"background": 0, "cell": 3}),
        fold_name="0",
        validation_folder=tmp_path / "validation",
        split=SimpleNamespace(validation=("a",)),
        dataset=SimpleNamespace(file_ending=".nii.gz", folder="", cases=(files,)),
        workspace=SimpleNamespace(dataset_folder=lambda _: tmp_path),
    )
    cells = evaluate_fold_instances(fold).labels["cell"]
    assert (cells.true_positives, cells.false_positives, cells.false_negatives) == (2, 0, 0)
    assert cells.panoptic_quality == 1.0


def test_instances_are_written_and_scored(tmp_path, caplog):
    reference = np.zeros((9, 8, 6), np.uint8)
    reference[1:4, 1:4, 1:4], reference[6:8, 5:8, 1:4] = 3, 3
    files = CaseFiles(case="a", images=("a_image.nii.gz",), label="a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(reference, AFFINE), tmp_path / files.label)
    nibabel.save(nibabel.Nifti1Image(reference.astype(np.float32) + 1, AFFINE), tmp_path / files.images[0])
    plan = make_plan({"3d_fullres": (1.0, 1.0, 1.0)}, labels={"background": 0, "cell": 3, "nerve": 4})
    validation = tmp_path / "validation"
    validation.mkdir()
    fold: Any = SimpleNamespace(
        plan=plan,
        fold_name="0",
        validation_folder=validation,
        split=SimpleNamespace(validation=("a",)),
        dataset=SimpleNamespace(file_ending=".nii.gz", folder="", cases=(files,)),
        workspace=SimpleNamespace(dataset_folder=lambda _: tmp_path),
    )
    original: Any = read_case(tmp_path, files, plan.encoding, "canonical")
    ids = np.zeros(original.labels.shape, np.uint8)
    first, second = (np.flatnonzero(original.image[0].ravel() > 2)[index] for index in (0, -1))
    ids[original.labels == 1] = 2
    ids.ravel()[first], ids.ravel()[second] = 1, 3
    found = InstanceMap(ids, tuple(PaintedInstance(1, score, 0.8) for score in (0.4, 0.9, 0.5)))
    labels = write_case_instances(fold, found, original, "a")
    original.write_labels(labels, plan.encoding, validation / "a.nii.gz")
    written = np.asarray(nibabel.load(validation / "a_instances.nii.gz").dataobj)
    assert np.array_equal(written > 0, reference > 0)
    assert np.array_equal(np.asarray(nibabel.load(validation / "a.nii.gz").dataobj), reference)
    rows = (validation / "instances.csv").read_text().splitlines()
    assert rows[0].endswith(",score")
    assert [row.rsplit(",", 1)[1] for row in rows[1:]] == ["0.4000", "0.9000", "0.5000"]
    with caplog.at_level("INFO", logger="autoseg"):
        evaluation: Any = evaluate_fold_instances(fold)
    cells = evaluation.labels["cell"]
    # the objects are 27 and 18 voxels, less one each; both are one predicted instance, of 43
    assert (cells.true_positives, cells.false_positives, cells.false_negatives) == (1, 2, 1)
    assert cells.sum_iou == pytest.approx(26 / 44)
    assert evaluation.score_source == "score"
    assert evaluation.average_precision["cell"].by_iou["0.55"] == pytest.approx(51 / 101)
    assert json.loads((validation / "instance_evaluation.json").read_text())["labels"]["nerve"]["true_positives"] == 0
    assert "average precision" in caplog.text
    assert "panoptic quality" in caplog.text
