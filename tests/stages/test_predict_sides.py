"""A mirrored image gives the mirrored label map with swapped sides, whatever is predicted."""

import numpy as np
import pytest

from autoseg.imaging.arrays.border_core import divide_encoding
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.dataset import LabelValues
from autoseg.records.sides import Sides
from autoseg.stages.predict import PredictionOptions
from tests.builders import CASCADE, load_exactly, make_cascade_plan, make_image, make_plan, write_model

LABELS: dict[str, LabelValues] = {"background": 0, "lung_left": 3, "heart": 7, "lung_right": 5}
REGIONS: dict[str, LabelValues] = {"background": 0, "lungs": (3, 5, 9), "lung_left": 3, "lung_right": 5}
PAIRS = (("lung_left", "lung_right"),)
SPACING, SHAPE = (2.0, 1.2, 1.1), (19, 21, 12)
"""Several windows along z and y, one along x: their places and Gaussian weights are not symmetric."""


def plan_of(kind):
    if kind == "2d":
        return make_plan({"2d": SPACING[1:]}, labels=LABELS), 1
    if kind == "cascade":
        return make_cascade_plan((2.0, 2.4, 1.1), SPACING, labels=LABELS), 2
    if kind == "regions":
        return make_plan({"3d_fullres": SPACING}, labels=REGIONS, encoding=make_encoding(REGIONS, (9, 3, 5))), 2
    if kind == "border_core":
        return make_plan(
            {"3d_fullres": SPACING}, labels=LABELS, target="border_core", border_width_mm=2.0,
            encoding=divide_encoding(make_encoding(LABELS)),
        ), 2  # fmt: skip
    if kind == "transposed":
        return make_plan({"3d_fullres": (1.1, 2.0, 1.2)}, labels=LABELS, transpose=(2, 0, 1)), 0
    return make_plan({"3d_fullres": SPACING}, labels=LABELS), 2


@pytest.mark.parametrize("axes", ["x", "all"])
@pytest.mark.parametrize("kind", ["2d", "3d", "cascade", "regions", "border_core", "transposed"])
def test_prediction_is_equivariant(tmp_path, kind, axes):
    plan, axis = plan_of(kind)
    names = ("3d_lowres", CASCADE) if kind == "cascade" else tuple(plan.configurations)
    sides = Sides(axis=axis, pairs=PAIRS)
    letters = "zyx"[-(2 if kind == "2d" else 3) :]
    mirrored = tuple(range(len(letters))) if axes == "all" else (axis,)
    model = write_model(tmp_path, plan, dict.fromkeys(names, ("0", "1")), mirror_axes=mirrored, sides=sides).root
    options = {"configuration": CASCADE} if kind == "cascade" else {}
    image = make_image(3, SHAPE)
    predictor = load_exactly(model, **options)
    there = predictor.predict(np.ascontiguousarray(image[..., ::-1]), spacing=SPACING, probabilities=True)
    here = predictor.predict(image, spacing=SPACING, probabilities=True)
    assert {3, 5} <= set(np.unique(here.labels).tolist())
    if kind == "regions":  # a voxel that both lungs claim gets the later one; so their probabilities are compared
        found, before = np.asarray(there.probabilities), np.asarray(here.probabilities)
        np.testing.assert_allclose(found, before[[0, 2, 1]][..., ::-1], atol=2e-3)
        assert np.abs(found - before[..., ::-1]).max() > 0.02
        return
    swapped = np.where(np.isin(here.labels, (3, 5)), 8 - here.labels, here.labels)[..., ::-1]
    assert np.count_nonzero(there.labels != swapped) <= 2  # where two heads are equal, sums of another order decide
    assert np.count_nonzero(there.labels != here.labels[..., ::-1]) > 100


def test_speeds_without_mirroring_swap_nothing(tmp_path):
    plan, axis = plan_of("3d")
    one = write_model(tmp_path / "one", plan, {"3d_fullres": ("0",)}, sides=Sides(axis=axis, pairs=PAIRS)).root
    other = write_model(tmp_path / "other", plan, {"3d_fullres": ("0",)}).root
    image = make_image(3, SHAPE)
    plain, swapping = (
        load_exactly(root, mirroring=False).predict(image, spacing=SPACING).labels for root in (other, one)
    )
    np.testing.assert_array_equal(plain, swapping)
    assert PredictionOptions().mirroring
    full = load_exactly(one).predict(image, spacing=SPACING).labels
    assert np.count_nonzero(full != load_exactly(other).predict(image, spacing=SPACING).labels) > 100
