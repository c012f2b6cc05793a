"""Surface distances against closed forms on boxes and balls, and against all pairs of elements one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from autoseg.metrics import surface
from autoseg.metrics.surface import (
    average_surface_distance,
    hausdorff_distance,
    largest_distance_mm,
    measure_surfaces,
    surface_dice,
)

SPACING = (3.0, 0.7, 1.1)


def box(start, stop, shape=(9, 14, 17)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def ball(radius_mm, spacing, shape):
    centre = [(size - 1) / 2 for size in shape]
    grid = np.ogrid[tuple(slice(size) for size in shape)]
    square = sum(((x - c) * s) ** 2 for x, c, s in zip(grid, centre, spacing, strict=True))
    return square <= radius_mm**2


def all_metrics(prediction, reference, spacing=SPACING, tolerance_mm=1.0, ignored=None):
    found = measure_surfaces(prediction, reference, spacing, ignored)
    return (
        average_surface_distance(found),
        hausdorff_distance(found),
        hausdorff_distance(found, 0.95),
        surface_dice(found, tolerance_mm),
    )


def test_one_voxel_is_an_octahedron_whatever_the_spacing():
    z, y, x = SPACING
    found = measure_surfaces(box((3, 4, 5), (4, 5, 6)), box((3, 4, 5), (4, 5, 6)), SPACING)
    # eight triangles through the midpoints of the edges to the six neighbours
    corner = 0.5 * np.linalg.norm(np.cross((z / 2, -y / 2, 0), (z / 2, 0, -x / 2)))
    assert found.prediction_areas == pytest.approx([corner] * 8)


def test_faces_of_a_box_have_their_own_area():
    z, y, x = SPACING
    mask = box((2, 3, 4), (7, 10, 12))  # 5 x 7 x 8 voxels
    areas = measure_surfaces(mask, mask, SPACING).reference_areas
    flat = 2 * (4 * 6 * z * y + 4 * 7 * z * x + 6 * 7 * y * x)  # between the outermost voxels' centres
    edges = 4 * (4 * z * np.hypot(y, x) + 6 * y * np.hypot(z, x) + 7 * x * np.hypot(z, y)) / 2
    corners = 8 * 0.5 * np.linalg.norm(np.cross((z / 2, -y / 2, 0), (z / 2, 0, -x / 2)))
    assert areas.sum() == pytest.approx(flat + edges + corners)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_box_is_as_far_as_it_was_shifted(axis):
    start, stop = [2, 3, 4], [6, 9, 11]
    shifted = ([value + (number == axis) for number, value in enumerate(part)] for part in (start, stop))
    average, largest, most, dice = all_metrics(box(*shifted), box(start, stop), tolerance_mm=SPACING[axis])
    assert largest == pytest.approx(SPACING[axis])
    assert most == pytest.approx(SPACING[axis])
    assert 0 < average < SPACING[axis]
    assert dice == 1.0  # exactly the tolerance is within it


def test_two_plates_face_each_other():
    shape = (12, 5, 7)
    lower, upper = box((2, 0, 0), (3, 5, 7), shape), box((6, 0, 0), (7, 5, 7), shape)
    average, largest, most, dice = all_metrics(lower, upper, tolerance_mm=11.9)
    assert (largest, most) == pytest.approx((12.0, 12.0))  # 4 slices of 3 mm from lower face to lower face
    assert 9.0 < average < 12.0
    assert dice == pytest.approx(0.5)  # of each plate the face towards the other, 9 mm away


def test_concentric_balls_are_the_difference_of_their_radii_apart():
    spacing, shape = (1.5, 0.8, 1.0), (41, 71, 57)  # elements sit on voxel corners, up to 1 mm off the ball
    average, largest, most, dice = all_metrics(ball(24.0, spacing, shape), ball(20.0, spacing, shape), spacing, 4.9)
    assert average == pytest.approx(4.0, abs=0.6)
    assert most == pytest.approx(4.0, abs=0.9)
    assert largest == pytest.approx(4.0, abs=1.5)
    assert dice > 0.98


def test_the_area_of_a_ball():
    spacing, shape = (1.0, 0.8, 0.9), (61, 75, 67)
    mask = ball(25.0, spacing, shape)
    area = measure_surfaces(mask, mask, spacing).prediction_areas.sum()
    assert area == pytest.approx(4 * np.pi * 25**2, rel=0.1)  # facets at midpoints: 8 % more than a smooth ball


def test_a_single_slice_has_a_contour():
    mask = box((0, 2, 3), (1, 6, 10), (1, 9, 14))
    found = measure_surfaces(mask, mask, (999.0, 0.7, 1.1))
    assert found.prediction_areas.sum() == pytest.approx(2 * (3 * 0.7 + 6 * 1.1) + 4 * np.hypot(0.7, 1.1) / 2)
    moved = np.roll(mask, 2, axis=2)
    assert all_metrics(moved, mask, (999.0, 0.7, 1.1))[1] == pytest.approx(2.2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_may_lie_across_any_axis(axis):
    generator = np.random.default_rng(axis)
    prediction, reference = (np.moveaxis(generator.random((1, 6, 9)) < 0.4, 0, axis) for _ in range(2))
    spacing = (0.7, 1.1)
    lifted = (*spacing[:axis], 50.0, *spacing[axis:])
    first, second = (mask.squeeze(axis)[np.newaxis] for mask in (prediction, reference))
    assert all_metrics(prediction, reference, lifted) == all_metrics(first, second, (3.0, *spacing))
    assert largest_distance_mm(reference.shape, lifted) == pytest.approx(np.hypot(6 * 0.7, 9 * 1.1))


def test_the_image_border_closes_a_structure():
    mask = np.ones((2, 3, 4), dtype=bool)
    assert all_metrics(mask, mask) == (0.0, 0.0, 0.0, 1.0)
    assert measure_surfaces(mask, mask, SPACING).prediction_areas.size == 3 * 4 * 5 - 1 * 2 * 3


def test_no_distance_exceeds_the_diagonal_of_the_image():
    shape = (4, 6, 5)
    first, last = box((0, 0, 0), (1, 1, 1), shape), box((3, 5, 4), (4, 6, 5), shape)
    limit = largest_distance_mm(shape, SPACING)
    assert limit == pytest.approx(np.linalg.norm(np.array(shape) * SPACING))
    found = hausdorff_distance(measure_surfaces(first, last, SPACING))
    assert found is not None
    assert limit - 2 * np.linalg.norm(SPACING) < found < limit


@pytest.mark.parametrize("empty", ["prediction", "reference", "both"])
def test_empty_masks(empty):
    prediction, reference = (
        box((2, 3, 4), (6, 9, 11)) & (empty not in (name, "both")) for name in ("prediction", "reference")
    )
    assert all_metrics(prediction, reference) == (None, None, None, None if empty == "both" else 0.0)


def test_surfaces_beside_ignored_voxels_are_left_out():
    reference, prediction = box((2, 3, 4), (6, 9, 11)), box((2, 3, 4), (6, 9, 13))
    ignored = box((0, 0, 11), (9, 14, 17))
    assert all_metrics(prediction & ~ignored, reference, ignored=ignored)[1:] == (0.0, 0.0, 1.0)
    areas = measure_surfaces(reference, reference, SPACING, ignored).reference_areas
    open_box = measure_surfaces(reference, reference, SPACING).reference_areas
    assert areas.size == open_box.size - 5 * 7  # the face towards the ignored half
    everywhere = np.ones_like(ignored)
    assert all_metrics(prediction, reference, ignored=everywhere) == (None, None, None, None)


def test_percentiles_go_by_area_and_take_the_worse_direction():
    found = surface.SurfaceDistances(
        prediction_to_reference_mm=np.array([5.0, 0.0, 1.0]),
        prediction_areas=np.array([0.04, 0.9, 0.06]),
        reference_to_prediction_mm=np.array([0.5, 0.25]),
        reference_areas=np.array([2.0, 2.0]),
    )
    assert hausdorff_distance(found, 0.95) == 1.0
    assert hausdorff_distance(found, 0.5) == 0.25
    assert hausdorff_distance(found) == 5.0
    assert average_surface_distance(found) == pytest.approx((0.2 + 0.06 + 1.0 + 0.5) / 5.0)
    assert surface_dice(found, 0.25) == pytest.approx((0.9 + 2.0) / 5.0)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 5\) and \(2, 5, 3\)"):
        measure_surfaces(np.zeros((2, 3, 5), bool), np.zeros((2, 5, 3), bool), SPACING)


def elements(mask):
    """Corners (N, 3) whose eight voxels are not all alike, found one by one."""
    padded = np.pad(mask, 1)
    corners = np.ndindex(*(size - 1 for size in padded.shape))
    around = ((place, padded[tuple(slice(one, one + 2) for one in place)]) for place in corners)
    return np.array([place for place, voxels in around if voxels.any() and not voxels.all()]).reshape(-1, 3)


def test_area_depends_neither_on_the_way_the_image_lies_nor_on_what_is_inside():
    mask = np.random.default_rng(7).random((7, 11, 9)) < 0.5
    area = measure_surfaces(mask, mask, SPACING).prediction_areas.sum()
    turned = mask[::-1].transpose(1, 2, 0)
    spacing = (SPACING[1], SPACING[2], SPACING[0])
    assert measure_surfaces(turned, turned, spacing).prediction_areas.sum() == pytest.approx(area)
    hollow = np.pad(~mask, 1, constant_values=True)  # the same surface from the other side, and that of the box
    hull = np.ones_like(hollow)
    outside = measure_surfaces(hull, hull, SPACING).prediction_areas.sum()
    assert measure_surfaces(hollow, hollow, SPACING).prediction_areas.sum() == pytest.approx(area + outside)


masks = arrays(bool, (3, 5, 4), elements=st.booleans())


@given(prediction=masks, reference=masks)
@settings(deadline=None, max_examples=30)
def test_equals_all_pairs_of_elements(prediction, reference):
    found = measure_surfaces(prediction, reference, SPACING)
    own, other = (elements(mask) * SPACING for mask in (prediction, reference))
    if not len(own) or not len(other):
        assert hausdorff_distance(found) is None
        return
    pairs = cdist(own, other)
    assert found.prediction_to_reference_mm == pytest.approx(pairs.min(axis=1))
    assert found.reference_to_prediction_mm == pytest.approx(pairs.min(axis=0))
    assert hausdorff_distance(found) == pytest.approx(max(pairs.min(axis=1).max(), pairs.min(axis=0).max()))


@pytest.mark.parametrize("way", ["near", "far, one by one", "far, all at once"])
def test_every_way_of_looking_up_gives_the_same(way, monkeypatch):
    generator = np.random.default_rng(5)
    prediction, reference = box((0, 0, 0), (9, 6, 5)), box((1, 8, 12), (7, 14, 16))
    prediction[generator.random(prediction.shape) < 0.3] = False
    if way == "near":
        monkeypatch.setattr(surface, "_NEAR_SPACINGS", 1000)
    else:
        monkeypatch.setattr(surface, "_NEAR_SPACINGS", 0.5)
        monkeypatch.setattr(surface, "_VOXELS_PER_FAR_ELEMENT", 0 if way == "far, one by one" else 10**6)
    found = measure_surfaces(prediction, reference, SPACING)
    pairs = cdist(elements(prediction) * SPACING, elements(reference) * SPACING)
    assert found.prediction_to_reference_mm == pytest.approx(pairs.min(axis=1))
    assert found.reference_to_prediction_mm == pytest.approx(pairs.min(axis=0))


@given(prediction=masks, reference=masks, factor=st.sampled_from([0.1, 0.37, 2.0, 30.0]))
@settings(deadline=None, max_examples=30)
def test_properties(prediction, reference, factor):
    here = all_metrics(prediction, reference)
    assert all_metrics(reference, prediction) == pytest.approx(here)
    assert all_metrics(prediction, prediction) == ((0.0, 0.0, 0.0, 1.0) if prediction.any() else (None,) * 4)
    scaled = all_metrics(prediction, reference, tuple(one * factor for one in SPACING), factor)
    assert scaled == pytest.approx(tuple(None if one is None else one * factor for one in here[:3]) + here[3:])
    if here[0] is not None:
        assert here[0] <= here[1]
        assert here[2] <= here[1]
        assert 0 <= here[3] <= 1
