"""A coarse pass finds where to look, and changes no label map."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from typing_extensions import override

from tests.builders import (
    load_exactly,
    make_plan,
    write_model,
)


def bright_ball(shape=(40, 44, 48)):
    """Noise, and a bright ball of 5 voxels' radius away from the middle."""
    axes = np.ogrid[tuple(map(slice, shape))]
    distance = sum((axis - centre) ** 2 for axis, centre in zip(axes, (12, 30, 14), strict=True))
    noise = np.random.default_rng(1).normal(size=shape)
    return (noise + 40 * (distance < 25)).astype(np.float32)


class Threshold(torch.nn.Module):
    """Bright voxels are the first label, whatever the resolution."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    @override
    def forward(self, image):
        self.seen.append(len(image) * image[0].numel())
        return torch.cat([2.0 - image, image - 2.0, torch.full_like(image, -9.0)], dim=1)


@pytest.mark.parametrize("low_resolution", [False, True])
def test_a_coarse_pass_finds_where_to_look(tmp_path, low_resolution):
    spacings: dict[str, tuple[float, ...]] = {"3d_fullres": (1.0, 1.0, 1.0)}
    if low_resolution:
        spacings["3d_lowres"] = (2.0, 2.0, 2.0)
    folds: dict[str, tuple[str, ...]] = dict.fromkeys(spacings, ("0",))
    write_model(tmp_path, make_plan(spacings), folds)
    answers, voxels = [], []
    for regional in (False, True):
        seen: list[int] = []
        predictor = load_exactly(tmp_path, configuration="3d_fullres", region_of_interest=regional)
        parts = predictor.case_predictor
        members = tuple(replace(member, networks=(Threshold(seen),)) for member in parts.members)
        coarse_pass = parts.coarse_pass
        if coarse_pass is not None and coarse_pass.coarser is not None:
            coarser = replace(coarse_pass.coarser, networks=(Threshold(seen),))
            coarse_pass = replace(coarse_pass, coarser=coarser)
        predictor.case_predictor = replace(parts, members=members, coarse_pass=coarse_pass)
        has_coarser = coarse_pass is not None and coarse_pass.coarser is not None
        assert has_coarser == (regional and low_resolution)
        answers.append(predictor.predict(bright_ball(), spacing=(1.0, 1.0, 1.0)).labels)
        voxels.append(sum(seen))
    assert 300 < (answers[0] > 0).sum() < 800
    np.testing.assert_array_equal(answers[0], answers[1])
    assert voxels[1] < voxels[0] / 2


def test_nothing_found_is_looked_for_everywhere(tmp_path):
    write_model(tmp_path, make_plan({"3d_fullres": (1.0, 1.0, 1.0)}), {"3d_fullres": ("0",)})
    image = np.random.default_rng(1).normal(size=(30, 34, 38)).astype(np.float32)
    answers = []
    for regional in (False, True):
        predictor = load_exactly(tmp_path, region_of_interest=regional)
        parts = predictor.case_predictor
        members = tuple(replace(member, networks=(Threshold([]),)) for member in parts.members)
        predictor.case_predictor = replace(parts, members=members)
        answers.append(predictor.predict(image, spacing=(1.0, 1.0, 1.0)).labels)
    assert answers[0].any()  # single bright voxels, which the halved image does not show
    np.testing.assert_array_equal(answers[0], answers[1])
