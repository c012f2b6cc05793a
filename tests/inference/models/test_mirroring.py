"""Mirroring at prediction that is not the training's."""

import logging

import numpy as np
import pytest
import torch

from autoseg.errors import UsageError
from autoseg.inference.models.loading import load_configuration
from autoseg.inference.models.mirroring import describe_mirroring, find_swapped_sides, with_mirror_axes
from autoseg.records.sides import Sides
from autoseg.stages.predict import PredictionOptions, Predictor
from tests.builders import SPACING, make_cascade_plan, make_image, make_plan, write_model

CPU = torch.device("cpu")


@pytest.fixture
def members(tmp_path):
    plan = make_plan({"3d_fullres": (2.0, 1.0, 1.0), "2d": (1.0, 1.0)})
    workspace = write_model(tmp_path, plan, {"3d_fullres": ("0",), "2d": ("0",)}, mirror_axes=())
    return [load_configuration(workspace, plan, name, (), "final", CPU) for name in ("3d_fullres", "2d")]


@pytest.mark.parametrize(
    ("letters", "axes"), [("all", [(0, 1, 2), (0, 1)]), ("zx", [(0, 2), (1,)]), ("z", [(0,), ()]), ("", [(), ()])]
)
def test_each_patch_takes_the_axes_that_it_has(members, letters, axes):
    assert [member.mirror_axes for member in with_mirror_axes(members, letters)] == axes


def test_an_axis_that_no_patch_has_is_refused(members):
    with pytest.raises(UsageError, match="patches of 2d have no axis z; leave it out"):
        with_mirror_axes(members[1:], "zy")


def test_networks_trained_without_mirroring_are_named(members):
    mirrored = with_mirror_axes(members[:1], "y")
    assert describe_mirroring(mirrored) == ""
    assert describe_mirroring([*mirrored, members[1]]).startswith("2d: not averaged over mirrored images")


@pytest.mark.parametrize(("letters", "swapped"), [("x", ("lung_left",)), ("zy", ()), ("all", ("lung_left",))])
def test_labels_with_a_side(members, letters, swapped):
    plan = make_plan({"3d_fullres": (2.0, 1.0, 1.0)}, labels={"background": 0, "lung_left": 1, "heart": 2})
    assert find_swapped_sides(with_mirror_axes(members, letters), plan) == swapped


@pytest.mark.parametrize(("letters", "swapped"), [("x", ("heart_left",)), ("zy", ())])
def test_labels_that_change_places_are_not_exchanged(tmp_path, letters, swapped):
    labels = {"background": 0, "lung_left": 1, "lung_right": 2, "heart_left": 3}
    plan = make_plan({"3d_fullres": (2.0, 1.0, 1.0)}, labels=labels)
    workspace = write_model(tmp_path, plan, {"3d_fullres": ("0",)}, mirror_axes=(), sides=LUNGS)
    member = load_configuration(workspace, plan, "3d_fullres", (), "final", CPU)
    assert find_swapped_sides(with_mirror_axes([member], letters), plan) == swapped


LUNGS = Sides(axis=2, pairs=(("lung_left", "lung_right"),))


@pytest.fixture
def unmirrored(tmp_path):
    plan = make_cascade_plan((4.0, 2.0, 2.0), (2.0, 1.2, 1.2))
    return write_model(tmp_path, plan, {"3d_lowres": ("0",), "3d_cascade_fullres": ("0",)}, mirror_axes=()).root


def test_mirroring_that_does_nothing_is_said_and_done_on_request(unmirrored, caplog):
    caplog.set_level(logging.INFO, "autoseg.predict")
    image = make_image(0)

    def probabilities(**options):
        predictor = Predictor(unmirrored, PredictionOptions(device="cpu", precision="fp32", **options))
        (member,) = predictor.members
        assert member.previous is not None
        axes = (member.mirror_axes, member.previous.mirror_axes)
        return predictor.predict(image, spacing=SPACING, probabilities=True).probabilities, axes

    plain, _ = probabilities(mirroring=False)
    assert not any("mirrored images" in message for message in caplog.messages)
    same, axes = probabilities()
    assert axes == ((), ())
    assert sum("trained without mirroring" in message for message in caplog.messages) == 1
    np.testing.assert_array_equal(plain, same)
    mirrored, axes = probabilities(mirror_axes="zx")
    assert axes == ((0, 2), (0, 2))
    assert np.abs(mirrored - plain).max() > 1e-3
