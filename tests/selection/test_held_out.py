"""What a refiner learns from is cut out of held-out cases as it should be."""

import numpy as np
import pytest

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.datasets.cases import CaseVolume
from autoseg.imaging.formats.volume import Template, make_grid
from autoseg.inference.refinement.refine import CoarseCase
from autoseg.records.case import Orientation
from autoseg.records.selection import PatchSettings
from autoseg.selection.held_out import HeldOutCase, cut_patches
from autoseg.training.refinement import UNKNOWN

SHAPE = (6, 15, 13)
IGNORED = 3
"""Index of the ignore label: two labels and the background come before it."""
ENCODING = make_encoding({"background": 0, "one": 10, "two": 20, "ignore": 99})
SETTINGS = PatchSettings(size=(4, 8, 8), training_distance=(2, 4, 4), prediction_distance=(1, 3, 3))


@pytest.fixture
def held_out():
    """Two boxes side by side, predicted up to the image's border; the truth is shifted and partly unknown."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[1:5, 4:11, :5] = 1
    labels[1:5, 4:11, 5:9] = 2
    truth = np.roll(labels, 1, axis=1).astype(np.int16)
    truth[:, :, 7] = IGNORED
    generator = np.random.default_rng(0)
    probabilities = generator.random((3, *SHAPE)).astype(np.float16)
    image = generator.normal(size=(2, *SHAPE)).astype(np.float32)
    image[0] = np.arange(image[0].size, dtype=np.float32).reshape(SHAPE)  # says where a voxel is from; exact in float16
    grid = make_grid(SHAPE, (1, 1, 1), np.eye(4))
    volume = CaseVolume(image, truth, grid, Orientation(), Template(ending=".nii.gz", grid=grid))
    return HeldOutCase("a", CoarseCase(labels, labels, probabilities, image), truth, volume, (0, 1, 2))


def test_every_patch_has_its_own_place_head_and_truth(held_out):
    patches = cut_patches(held_out, ENCODING, SETTINGS, max_count=99)
    assert patches.images.shape[1:] == (2, 4, 8, 8)
    heads = set()
    for image, coarse, truth in zip(patches.images, patches.coarse, patches.targets, strict=True):
        places = image[0].astype(int)
        z, y, x = np.unravel_index(places, SHAPE)
        np.testing.assert_array_equal(image[1], held_out.coarse.image[1, z, y, x].astype(np.float16))
        (head,) = (number for number in (1, 2) if (held_out.coarse.probabilities[number, z, y, x] == coarse).all())
        heads.add(head)
        repeated = np.zeros(places.shape, dtype=bool)  # beyond the border the same voxel comes again
        for axis in range(3):
            step = np.diff(np.unravel_index(places, SHAPE)[axis], axis=axis) == 0
            first = np.concatenate([step, np.zeros_like(step.take([0], axis))], axis)
            last = np.concatenate([np.zeros_like(step.take([0], axis)), step], axis)
            border = np.unravel_index(places, SHAPE)[axis]
            repeated |= (first & (border == 0)) | (last & (border == SHAPE[axis] - 1))
        true = held_out.reference[z, y, x]
        expected = np.where(repeated | (true == IGNORED), UNKNOWN, true == head)
        np.testing.assert_array_equal(truth, expected)
    assert heads == {1, 2}
    assert (patches.targets == UNKNOWN).any()


def test_patches_are_thinned_out_in_every_structure(held_out):
    everything = cut_patches(held_out, ENCODING, SETTINGS, max_count=99)
    few = cut_patches(held_out, ENCODING, SETTINGS, max_count=6)
    assert 2 <= len(few) <= 8 < len(everything)
    z, y, x = np.unravel_index(few.images[:, 0].astype(int), SHAPE)
    heads = {
        number
        for number in (1, 2)
        for patch in range(len(few))
        if (held_out.coarse.probabilities[number, z[patch], y[patch], x[patch]] == few.coarse[patch]).all()
    }
    assert heads == {1, 2}


def test_nothing_predicted_gives_no_patches(held_out):
    held_out.coarse.labels[:] = 0
    patches = cut_patches(held_out, ENCODING, SETTINGS, max_count=9)
    assert len(patches) == 0
    assert patches.images.shape == (0, 2, 4, 8, 8)
