"""Touching objects through the whole of prediction: merged by components, apart by core and border."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from typing_extensions import override

from autoseg.errors import UsageError
from autoseg.imaging.arrays.border_core import divide_encoding
from autoseg.imaging.formats.reading import read_label_map
from autoseg.records.detection import DetectionSpec
from autoseg.records.plan import Plan
from autoseg.records.prediction import OutputChoices
from autoseg.records.selection import KeepLargestComponent
from autoseg.stages.predict import PredictionOptions, Predictor, predict_files
from tests.builders import make_plan, write_model, write_nifti

SPACING = (2.5, 1.0, 0.8)
SHAPE = (14, 40, 60)
LABELS = {"background": 0, "cell": 255}


class FromIntensity(torch.nn.Module):
    """Above 2: core; above 1: border, else background. With two heads: above 1 is the label."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    @override
    def forward(self, image):
        if self.heads == 2:
            return torch.cat([1 - image, image - 1], dim=1)
        return torch.cat([1 - image, image - 2, 0.5 - (image - 1.5).abs()], dim=1)


def predictor_of(folder, *, divided, **changes):
    plan = make_plan({"3d_fullres": SPACING}, labels=LABELS, normalization="none")
    if divided:
        plan = make_plan(
            {"3d_fullres": SPACING}, labels=LABELS, normalization="none", encoding=divide_encoding(plan.encoding),
            target="border_core", border_width_mm=1.5,
        )  # fmt: skip
    write_model(folder, plan, {"3d_fullres": ("0",)})
    predictor = Predictor(folder, PredictionOptions(device="cpu", precision="fp32", mirroring=False))
    parts = predictor.case_predictor
    network = FromIntensity(len(plan.encoding.heads))
    members = tuple(replace(member, networks=(network,)) for member in parts.members)
    predictor.case_predictor = replace(parts, members=members, **changes)
    return predictor


def touching_balls():
    """Distances in mm to the centres of two balls of radius 11 mm that overlap by 2 mm, and a small one apart."""
    places = [axis * spacing for axis, spacing in zip(np.ogrid[tuple(map(slice, SHAPE))], SPACING, strict=True)]
    centers = ((17.0, 16.0, 13.0), (17.0, 16.0, 33.0), (17.0, 34.0, 40.0))
    return [
        np.sqrt(sum((place - middle) ** 2 for place, middle in zip(places, center, strict=True))) for center in centers
    ]


def image_of(distances):
    """0.1 so that nothing is cropped; 1.5 in the border, 3 in the core; the small ball has no core."""
    first, second, small = distances
    image = np.full(SHAPE, 0.1, dtype=np.float32)
    image[(first < 11) | (second < 11) | (small < 3)] = 1.5
    image[(first < 8) | (second < 8)] = 3
    return image


def test_touching_balls_are_two_and_a_ball_without_a_core_is_none(tmp_path):
    distances = touching_balls()
    image = image_of(distances)
    plain = predictor_of(tmp_path / "plain", divided=False).predict(image, spacing=SPACING, instances=True)
    found = predictor_of(tmp_path / "divided", divided=True).predict(image, spacing=SPACING, instances=True)
    np.testing.assert_array_equal(found.labels, plain.labels)
    np.testing.assert_array_equal(found.labels, np.where(image > 1, 255, 0))
    assert len(plain.instances.table) == 2
    assert len(found.instances.table) == 2
    first, second, small = distances
    ids = found.instances.ids
    left, right, alone = (ids[np.unravel_index(one.argmin(), SHAPE)] for one in distances)
    assert {left, right} == {1, 2}
    assert alone == 0
    np.testing.assert_array_equal(ids > 0, (found.labels > 0) & ~(small < 3))
    clear = (np.abs(first - second) > 1.5) & ((first < 11) | (second < 11))
    np.testing.assert_array_equal(ids[clear], np.where(first < second, left, right)[clear])
    one = found.instances.table[left - 1]
    assert one.label == "cell"
    assert one.value == 255
    assert one.volume_mm3 == pytest.approx(4 / 3 * np.pi * 11**3, rel=0.05)
    assert one.center_mm == pytest.approx((-13, -16, 17), abs=0.3)  # towards left, posterior, superior


def test_postprocessing_sees_the_label_and_not_its_parts(tmp_path):
    step = KeepLargestComponent(labels=("cell",))
    image = image_of(touching_balls())
    predictor = predictor_of(tmp_path, divided=True, postprocessing=(step,))
    found = predictor.predict(image, spacing=SPACING, instances=True)
    assert [one.label for one in found.instances.table] == ["cell"] * 2
    assert found.labels.any()
    assert set(np.unique(found.labels)) == {0, 255}


def test_files_tables_and_colors_name_the_label(tmp_path):
    (tmp_path / "in").mkdir()
    write_nifti(image_of(touching_balls()), tmp_path / "in" / "a.nii.gz", SPACING)
    predictor = predictor_of(tmp_path / "model", divided=True)
    out = tmp_path / "out"
    choices = OutputChoices(instances=True, statistics=True, colors=True, uncertainty=True)
    assert predict_files(predictor, tmp_path / "in", out, choices) == []
    assert (out / "labels.ctbl").read_text().splitlines()[-1].startswith("255 cell ")
    with (out / "statistics.csv").open() as file:
        (row,) = csv.DictReader(file)
    labels, ids = (read_label_map(out / f"a{kind}.nii.gz").array[0] for kind in ("", "_instances"))
    assert (row["label"], int(row["voxels"])) == ("cell", (labels == 255).sum())
    with (out / "instances.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["voxels"]) for row in rows] == np.bincount(ids.ravel())[1:].tolist()
    assert len(rows) == 2


def detecting_plan():
    """A small network that finds objects one by one, in two labels."""
    labels = {"background": 0, "cell": 255, "nerve": 3}
    plan = make_plan({"3d_fullres": SPACING}, labels=labels, normalization="none", orientation="as_stored")
    configuration = plan.configurations["3d_fullres"]
    detection = DetectionSpec(
        num_labels=2, levels=(1,), anchors=(((6.0, 8.0, 8.0),),), pyramid_features=4, box_features=8,
        box_size=(3, 3, 3), mask_roi_size=(4, 4, 4),
    )  # fmt: skip
    network = configuration.network.model_copy(update={"detection": detection, "deep_supervision": False})
    configurations = {"3d_fullres": configuration.model_copy(update={"network": network})}
    return Plan.model_validate(plan.model_copy(update={"target": "mask_rcnn", "configurations": configurations}))


def test_a_model_that_finds_objects_always_writes_them_with_scores(tmp_path):
    write_model(tmp_path / "model", detecting_plan(), {"3d_fullres": ("0", "1")})
    options = PredictionOptions(device="cpu", mirror_axes="x")
    predictor = Predictor(tmp_path / "model", options)
    image = np.random.default_rng(4).normal(size=(12, 18, 21)).astype(np.float32)
    write_nifti(image, tmp_path / "images" / "a.nii.gz", SPACING)
    assert predict_files(predictor, tmp_path / "images", tmp_path / "out") == []
    labels, ids = (
        read_label_map(tmp_path / "out" / name).array[0] for name in ("a.nii.gz", "a_instances.nii.gz")
    )  # fmt: skip
    np.testing.assert_array_equal(labels > 0, ids > 0)
    with (tmp_path / "out" / "instances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(1, int(ids.max()) + 1))
    assert all(0.3 <= float(row["score"]) <= 1 for row in rows)
    with pytest.raises(UsageError, match="--save-uncertainty: this model finds objects one by one"):
        predictor.predict(image, spacing=SPACING, uncertainty=True)
    with pytest.raises(UsageError, match="--roi: this model"):
        Predictor(tmp_path / "model", replace(options, region_of_interest=True))
