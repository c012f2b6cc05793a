"""Neighbouring slices as channels, compared with slices that are taken one by one."""

import numpy as np
import pytest

from autoseg.inference.windows.neighbor_slices import append_neighbors


@pytest.mark.parametrize(("depth", "neighbors"), [(5, 1), (5, 2), (1, 1), (2, 3)])
def test_every_slice_comes_with_its_neighbors(depth, neighbors):
    image = np.random.default_rng(0).standard_normal((2, depth, 3, 4)).astype(np.float32)
    channels = append_neighbors(list(image), neighbors)
    assert len(channels) == 2 * (2 * neighbors + 1)
    for z in range(depth):
        wanted = [
            image[channel, min(max(z + offset, 0), depth - 1)]
            for offset in range(-neighbors, neighbors + 1)
            for channel in range(2)
        ]
        np.testing.assert_array_equal([channel[z] for channel in channels], wanted)


def test_an_image_without_neighbors_is_not_copied():
    image = [np.zeros((3, 4, 5), np.float32)]
    assert append_neighbors(image, 0)[0] is image[0]
