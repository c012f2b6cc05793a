"""Touching objects made by code."""

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from autoseg.testing.touching import CELLS, LESIONS, ObjectRecipe, make_touching_objects, write_touching_dataset

SMALL = {
    "flat": ObjectRecipe((40, 56), (1.0, 1.0), (4, 6), (4.0, 6.0), touching_fraction=0.9),
    "solid": ObjectRecipe((9, 24, 32), (2.0, 1.0, 1.0), (3, 5), (3.0, 5.0), touching_fraction=0.9),
}


@pytest.mark.parametrize("recipe", [CELLS, LESIONS])
def test_objects_touch_and_stay_apart_by_number_and_brightness(recipe):
    image, ids = make_touching_objects(recipe, seed=3)
    assert image.shape == ids.shape == recipe.shape
    numbers = np.unique(ids[ids > 0])
    assert recipe.count[0] <= len(numbers) <= recipe.count[1]
    corners = np.ones((3,) * ids.ndim)
    assert ndimage.label(ids > 0, corners)[1] < len(numbers)
    assert all(ndimage.label(ids == number, corners)[1] == 1 for number in numbers)
    eroded = ndimage.binary_erosion(ids > 0)
    seam = np.zeros(ids.shape, dtype=bool)
    for axis in range(ids.ndim):
        seam |= (ids != np.roll(ids, 1, axis)) & (np.roll(ids, 1, axis) > 0) & (ids > 0)
    assert image[seam].mean() < image[eroded & ~seam].mean()
    assert image[ids == 0].mean() < image[seam].mean()


def test_equal_seeds_draw_equal_cases():
    first, again, other = (make_touching_objects(SMALL["solid"], seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize(("kind", "ending"), [("flat", ".png"), ("solid", ".nii.gz")])
def test_a_dataset_has_label_maps_and_numbers_on_the_grid_of_the_images(tmp_path, kind, ending):
    write_touching_dataset(tmp_path, SMALL[kind], training=2, held_out=1)
    cases = sorted(path.name.removesuffix(f"_0000{ending}") for path in tmp_path.glob(f"images*/*{ending}"))
    assert cases == ["case_000", "case_001", "case_002"]
    for folder, case in (("Tr", "case_001"), ("Ts", "case_002")):
        image, labels, ids = (
            read(tmp_path / f"{name}{folder}" / f"{case}{end}{ending}")
            for name, end in (("images", "_0000"), ("labels", ""), ("labels", "_instances"))
        )
        assert image.shape == labels.shape == ids.shape
        assert ids.max() > 1
        assert (labels == (ids > 0)).all()
    if kind == "solid":
        stored = nibabel.load(tmp_path / "imagesTr" / f"case_000_0000{ending}")
        assert stored.shape == SMALL[kind].shape[::-1]
        assert stored.header.get_zooms() == pytest.approx(SMALL[kind].spacing[::-1])


def read(path):
    if path.suffix == ".png":
        return np.array(Image.open(path))
    return np.asarray(nibabel.load(path).dataobj)
