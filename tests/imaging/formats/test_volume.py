import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from autoseg.imaging.formats.reading import read_image
from autoseg.imaging.formats.volume import (
    canonical_affine,
    canonical_orientation,
    grid_difference,
    is_sheared,
    make_grid,
    measurable_spacing,
    orient_array,
    orient_grid,
    restore_array,
    voxel_mm3,
)
from autoseg.records.case import Grid, Orientation

SHAPE = (5, 7, 11)
SPACING = (4.0, 0.5, 1.25)

orientations = st.builds(
    lambda axes, flips: Orientation(axes=tuple(axes), flips=flips),
    st.permutations(range(3)),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
angles = st.tuples(*[st.floats(-180, 180)] * 3)


def rotated_grid(angles_degrees: tuple[float, ...]) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles_degrees, degrees=True).as_matrix() * SPACING
    affine[:3, 3] = (-40.0, 12.5, 300.0)
    return make_grid(SHAPE, SPACING, affine)


def axis_codes(grid: Grid) -> tuple[str, ...]:
    return tuple(nibabel.aff2axcodes(np.array(grid.affine)))


@given(orientation=orientations)
def test_restore_undoes_orient_without_copying(orientation: Orientation):
    stored = np.arange(2 * 5 * 7 * 11).reshape(2, *SHAPE)
    working = orient_array(stored, orientation)
    assert np.shares_memory(working, stored)
    restored = restore_array(working, orientation)
    assert np.shares_memory(restored, stored)
    np.testing.assert_array_equal(restored, stored)
    np.testing.assert_array_equal(restore_array(orient_array(stored[1], orientation), orientation), stored[1])


@given(orientation=orientations, angles=angles)
def test_a_voxel_keeps_its_place_in_the_world(orientation: Orientation, angles: tuple[float, ...]):
    grid = rotated_grid(angles)
    oriented = orient_grid(grid, orientation)
    indices = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    world = np.einsum("ij,jzyx->izyx", np.array(grid.affine)[:3, :3], indices)
    world += np.array(grid.affine)[:3, 3, None, None, None]
    working_world = orient_array(world, orientation)
    assert oriented.shape == working_world.shape[1:]
    for index in [(0, 0, 0), tuple(np.array(oriented.shape) - 1), (1, 2, 3)]:
        expected = working_world[(slice(None), *index)]
        np.testing.assert_allclose(np.array(oriented.affine)[:3] @ (*index, 1), expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(np.array(oriented.affine)[:3, :3], axis=0), oriented.spacing)


@settings(max_examples=200)
@given(angles=angles)
def test_canonical_axes_are_superior_posterior_left_by_nibabel(angles: tuple[float, ...]):
    grid = rotated_grid(angles)
    cosines = np.sort(np.abs(np.array(grid.affine)[:3, :3] / SPACING), axis=0)
    oriented = orient_grid(grid, canonical_orientation(grid))
    if (cosines[2] > 0.75).all():  # every axis has one clear nearest world axis
        assert axis_codes(oriented) == ("S", "P", "L")
    assert canonical_orientation(oriented) == Orientation()


def test_stored_ras_file_is_flipped_in_y_and_x():
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 4.0, 0.5, 1.25, 1.0
    orientation = canonical_orientation(make_grid(SHAPE, SPACING, affine))
    assert orientation == Orientation(axes=(0, 1, 2), flips=(False, True, True))
    stored = np.arange(5 * 7 * 11).reshape(SHAPE)
    np.testing.assert_array_equal(orient_array(stored, orientation), stored[:, ::-1, ::-1])


@pytest.mark.parametrize("kind", ["image", "label"])
def test_one_volume_in_four_axis_orders_is_the_same_canonical_array(shared, kind: str):
    made = shared / "data" / "odd_files" / "made"
    names = ["ok", "flip_LPS", "permuted_SRA", "permuted_flipped_PIR"]
    volumes = [read_image([made / f"{kind}_{name}.nii.gz"]) for name in names]
    assert len({volume.grid.affine for volume in volumes}) == 4
    oriented = [canonical_orientation(volume.grid) for volume in volumes]
    first = orient_array(volumes[0].array, oriented[0])
    assert first.std() > 0
    for volume, orientation in zip(volumes[1:], oriented[1:], strict=True):
        np.testing.assert_array_equal(orient_array(volume.array, orientation), first)
        grids = orient_grid(volume.grid, orientation), orient_grid(volumes[0].grid, oriented[0])
        assert grid_difference(*grids) is None


def test_grid_difference_names_what_differs():
    grid = rotated_grid((10, 20, 30))
    assert grid_difference(grid, grid) is None
    affine = np.array(grid.affine)

    other_shape = make_grid((5, 7, 10), SPACING, affine)
    assert "shapes differ: 5 x 7 x 11 and 5 x 7 x 10" in str(grid_difference(grid, other_shape))

    other_spacing = make_grid(SHAPE, (4.0, 0.5, 1.2525), affine)
    assert "spacings differ" in str(grid_difference(grid, other_spacing))

    moved = affine.copy()
    moved[0, 3] += 5.0
    assert "5 mm apart" in str(grid_difference(grid, make_grid(SHAPE, SPACING, moved)))

    rounded = affine.copy()
    rounded[0, 3] += 0.049  # the tolerance is a tenth of 0.5 mm
    assert grid_difference(grid, make_grid(SHAPE, SPACING, rounded)) is None
    rounded[0, 3] += 0.002
    assert grid_difference(grid, make_grid(SHAPE, SPACING, rounded)) is not None


def test_a_small_rotation_shows_at_the_far_corner():
    turned = rotated_grid((0, 0, 2.0))
    assert "apart in space" in str(grid_difference(rotated_grid((0, 0, 0)), turned))


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((1, 8, 9), (999.0, 1.0, 1.0), (1.0, 1.0, 1.0)),  # a picture: pixels
        ((8, 1, 9), (0.5, 499.5, 0.25), (0.5, 1.0, 0.25)),  # a file of two axes, turned: mm²
        ((1, 8, 9), (5.0, 0.5, 0.5), (5.0, 0.5, 0.5)),  # a single slice has its thickness
        ((2, 8, 9), (999.0, 1.0, 1.0), (999.0, 1.0, 1.0)),  # two slices have their distance
        ((1, 1, 9), (999.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_a_slice_spacing_that_was_made_up_does_not_count(shape, spacing, expected):
    assert measurable_spacing(make_grid(shape, spacing, canonical_affine(spacing))) == expected


def test_files_of_two_axes_have_pixels_of_their_area(tmp_path):
    for name, spacing in (("a.png", None), ("b.nii", (0.5, 0.25)), ("c.nrrd", (0.5, 0.25))):
        image = SimpleITK.GetImageFromArray(np.eye(5, 7, dtype=np.uint8))
        if spacing is not None:
            image.SetSpacing(spacing)
        SimpleITK.WriteImage(image, str(tmp_path / name))
        area = np.prod(measurable_spacing(read_image([tmp_path / name]).grid))
        assert area == pytest.approx(1.0 if spacing is None else 0.125)


def tilted_gantry(degrees: float, spacing=(3.0, 1.25, 0.5)) -> np.ndarray:
    """Affine (x, y, z) of slices that are shifted along y, each by the same step; spacing (z, y, x)."""
    affine = np.diag([*spacing[::-1], 1.0])
    affine[1, 2] = spacing[0] * np.tan(np.deg2rad(degrees))
    return affine


@pytest.mark.parametrize("degrees", [0.0, 10.0, -25.0, 60.0])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_voxel_of_a_tilted_gantry_has_the_volume_of_its_determinant(tmp_path, degrees, ending):
    affine = tilted_gantry(degrees)
    voxels = np.ones((5, 4, 3), dtype=np.uint8)  # (x, y, z)
    if ending == ".nrrd":
        image = SimpleITK.GetImageFromArray(voxels.T)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(lengths.tolist())
        image.SetDirection((np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3] / lengths).ravel().tolist())
        SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    else:
        nibabel.Nifti1Image(voxels, affine).to_filename(tmp_path / "x.nii.gz")
    volume = read_image([tmp_path / f"x{ending}"])
    for grid in (volume.grid, orient_grid(volume.grid, canonical_orientation(volume.grid))):
        assert voxel_mm3(grid) == pytest.approx(3.0 * 1.25 * 0.5, rel=1e-6)
        assert np.prod(measurable_spacing(grid)) == pytest.approx(3.0 * 1.25 * 0.5, rel=1e-6)
        assert is_sheared(grid) == (degrees != 0)
    assert any("not at right angles" in note for note in volume.notes) == (degrees != 0)


def test_a_turned_grid_is_not_sheared():
    grid = rotated_grid((20, 40, 60))
    assert not is_sheared(grid)
    assert voxel_mm3(grid) == grid.spacing[0] * grid.spacing[1] * grid.spacing[2]
    assert measurable_spacing(grid) == grid.spacing
