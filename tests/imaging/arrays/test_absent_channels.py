"""Channels of zeros in place of those that an image lacks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoseg.imaging.arrays.absent_channels import fill_absent_channels, find_absent_channels


@given(st.lists(st.booleans(), min_size=1, max_size=5).filter(any))
def test_filled_channels_are_found_again(present):
    image = np.arange(1, 1 + 24 * sum(present), dtype=np.float32).reshape(-1, 2, 3, 4)
    absent = tuple(number for number, is_there in enumerate(present) if not is_there)
    filled = fill_absent_channels(image, absent)
    assert filled.shape == (len(present), 2, 3, 4)
    np.testing.assert_array_equal(filled[[number for number, is_there in enumerate(present) if is_there]], image)
    assert not filled[list(absent)].any()
    assert find_absent_channels(filled) == absent


def test_a_complete_image_is_not_copied():
    image = np.ones((2, 3, 4, 5), dtype=np.float32)
    assert fill_absent_channels(image, ()) is image
