"""Validation and selection on the pretended GPU: the recipe, its scores and its label maps are those of the CPU."""

import json
import math

import nibabel
import numpy as np
import pytest

from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.records.files import write_record, write_text
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from autoseg.stages.describe import describe_dataset
from autoseg.stages.fingerprint import extract_fingerprint
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.stages.select import SelectionOptions, select_model
from autoseg.stages.validate import validate_fold
from autoseg.testing import write_phantom_dataset
from autoseg.training import refinement
from autoseg.training.folds.fold import Fold
from autoseg.training.options import TrainingOptions
from autoseg.training.refinement import RefinementOptions
from tests.builders import REGIONS, make_plan, write_model
from tests.gpu.pretended_gpu import PretendedGpu

FOLDS = {"0": ("phantom_000",), "1": ("phantom_001",)}
NAMES = ("2d", "3d_fullres")
REFINEMENT = RefinementOptions(seconds=math.inf, max_steps=2)


@pytest.fixture
def dataset(tmp_path):
    """Two phantoms whose labels are regions."""
    folder = tmp_path / "phantoms"
    write_phantom_dataset(folder, training=2, held_out=0)
    content = json.loads((folder / "dataset.json").read_text())
    write_text(json.dumps({**content, "labels": REGIONS, "regions_class_order": (1, 2, 3)}), folder / "dataset.json")
    return folder


def select(dataset, root, device):
    """Validate untrained networks on a device, and select; returns the selection and its workspace."""
    description = describe_dataset(dataset)
    plan = make_plan({"2d": (2.1, 2.7), "3d_fullres": (3.0, 2.6, 2.9)}, labels=REGIONS, transpose=(1, 2, 0))
    workspace = write_model(root, plan, dict.fromkeys(NAMES, tuple(FOLDS)), mirror_axes=())
    write_record(description, workspace.dataset)
    write_record(extract_fingerprint(description, dataset), workspace.fingerprint)
    preprocess_dataset(description, plan, workspace, NAMES, 1)
    splits = [Split(training=(), validation=cases) for cases in FOLDS.values()]
    write_record(Splits(folds=tuple(splits), reason="by hand"), workspace.splits)
    chosen = choose_device(device)
    for name in NAMES:
        for (fold, _), split in zip(FOLDS.items(), splits, strict=True):
            validated = Fold(
                workspace=workspace, dataset=description, plan=plan, configuration_name=name,
                configuration=plan.configurations[name], fold_name=fold, split=split, device=chosen,
                training_precision=choose_dtype("fp32", chosen), options=TrainingOptions(precision="fp32"),
            )  # fmt: skip
            validate_fold(validated)
    options = SelectionOptions(device=device, precision="fp32", refinement=REFINEMENT)
    return select_model(workspace, dataset, options), workspace


@pytest.fixture
def _same_batches(monkeypatch):
    """Refiners learn from the batches of a CPU: those that a GPU draws are larger, and have other noise."""

    def open_batches(patches, generator, mirror_axes, device):
        for batch in refinement._batches(patches, generator, mirror_axes):
            yield tuple(tensor.to(device) for tensor in batch)

    monkeypatch.setattr(refinement, "_open_batches", open_batches)


@pytest.mark.usefixtures("_same_batches")
@pytest.mark.slow
def test_a_selection_with_pairs_thresholds_and_refinement_is_that_of_the_cpu(dataset, tmp_path):
    expected, cpu = select(dataset, tmp_path / "cpu", "cpu")
    with PretendedGpu() as gpu:
        found, workspace = select(dataset, tmp_path / "gpu", "auto")
    assert gpu.bytes_to_device, "the networks never were on the device"
    assert {candidate.configurations for candidate in expected.candidates} == {("2d",), ("3d_fullres",), NAMES}
    assert expected.region_thresholds
    assert found.configurations == expected.configurations
    assert found.region_thresholds == expected.region_thresholds
    assert found.postprocessing == expected.postprocessing
    assert found.mean_foreground_dice == pytest.approx(expected.mean_foreground_dice, abs=1e-3)
    assert any("Boundary refinement" in reason for reason in found.reasons)
    assert len(found.reasons) == len(expected.reasons)
    compare_label_maps(cpu, workspace)


def compare_label_maps(expected: Workspace, found: Workspace):
    """Those of validation, pairs, thresholds and refinement."""
    paths = sorted(path.relative_to(expected.root) for path in expected.root.rglob("*.nii.gz"))
    assert paths == sorted(path.relative_to(found.root) for path in found.root.rglob("*.nii.gz"))
    assert {"ensembles", "refinement"} <= {part for path in paths for part in path.parts}
    for path in paths:
        first, second = (np.asarray(nibabel.load(root / path).dataobj) for root in (expected.root, found.root))
        assert np.mean(first != second) < 1e-3, path
