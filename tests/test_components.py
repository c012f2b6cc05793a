"""Components and their numbers, by either library, against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from autoseg.components import INSTALLED_LIBRARY, label_components


@pytest.fixture(params=["scikit-image", "cc3d"], scope="module")
def library(request):
    if request.param == "cc3d":
        pytest.importorskip("cc3d", reason="connected-components-3d is not installed (extra `fast`)")
    return request.param


def test_corners_connect_unless_faces_are_asked_for(library):
    diagonal = np.zeros((3, 3, 3), dtype=bool)
    diagonal[0, 0, 0] = diagonal[1, 1, 1] = diagonal[2, 2, 2] = True
    assert label_components(diagonal, library=library).max() == 1
    assert label_components(diagonal, "face", library=library).max() == 3


def test_numbers_of_a_flat_image_follow_the_first_pixels(library):
    mask = np.zeros((5, 7), dtype=bool)
    mask[0, 3] = mask[1, 0] = True
    assert label_components(mask, library=library)[0, 3] == 1
    assert label_components(mask, library=library)[1, 0] == 2


@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=3, max_side=9)), connectivity=st.sampled_from(["full", "face"])
)
@settings(deadline=None, max_examples=100)
def test_numbers_follow_the_first_voxels(library, mask, connectivity):
    structure = ndimage.generate_binary_structure(mask.ndim, mask.ndim if connectivity == "full" else 1)
    expected, _ = ndimage.label(mask, structure)
    np.testing.assert_array_equal(label_components(mask, connectivity, library=library), expected)
    flipped = mask[::-1].T  # another memory layout
    expected, _ = ndimage.label(flipped, structure)
    np.testing.assert_array_equal(label_components(flipped, connectivity, library=library), expected)


def test_numbers_of_a_large_volume(library):
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((40, 90, 80)), 1.5)
    mask = np.abs(smooth) < 0.02
    expected, number = ndimage.label(mask, np.ones((3, 3, 3)))
    assert number > 80
    np.testing.assert_array_equal(label_components(mask, library=library), expected)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5, 9), (3, 5, 7), (2, 4, 6)])
def test_as_many_components_as_fit_are_found(library, shape):
    """More than cc3d 4.1.1 makes room for where axes have odd lengths."""
    places = np.indices(shape)
    apart = (places % 2 == 0).all(axis=0)
    checkers = places.sum(axis=0) % 2 == 0
    for mask, found in (
        (apart, label_components(apart, library=library)),
        (checkers, label_components(checkers, "face", library=library)),
    ):
        assert sorted(found[mask]) == list(range(1, 1 + int(mask.sum())))
        assert found.shape == mask.shape


def test_the_fast_library_is_taken_where_it_is_installed():
    pytest.importorskip("cc3d", reason="connected-components-3d is not installed (extra `fast`)")
    assert INSTALLED_LIBRARY == "cc3d"
