"""Windows and shapes counted by hand, and against the windows that prediction takes."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.costs.windows import count_windows, resampled_shape
from autoseg.inference.windows.sliding_window import window_starts


def test_a_shape_at_another_spacing():
    assert resampled_shape((10, 256, 216), (10.0, 1.5, 1.5), (5.0, 1.5, 3.0)) == (20, 256, 108)
    assert resampled_shape((10, 256, 216), (10.0, 1.5625, 1.5625), (5.0, 1.2, 1.2)) == (20, 333, 281)
    assert resampled_shape((5, 7, 11), (1.0, 1.0, 1.0), (100.0, 2.0, 0.5)) == (1, 4, 22)  # 3.5 rounds to even
    assert resampled_shape((5, 3, 1), (1.0, 1.0, 1.0), (2.0, 2.0, 9.0)) == (2, 2, 1)  # 2.5 and 1.5 go to even


@pytest.mark.parametrize(
    ("shape", "patch_size", "windows"),
    [
        ((128, 128, 128), (128, 128, 128), 1),
        ((100, 128, 90), (128, 128, 128), 1),
        ((129, 128, 128), (128, 128, 128), 2),
        ((192, 193, 128), (128, 128, 128), 2 * 3),  # steps of 64: 192 is reached by one, 193 by two
        ((128.5, 128.0, 128.0), (128, 128, 128), 2),
        ((10, 256, 256), (256, 256), 10),
        ((9.2, 110, 64), (64, 64), 10 * 3),
        ((1, 529, 622), (512, 512), 2 * 2),
    ],
)
def test_windows_by_hand(shape, patch_size, windows):
    assert count_windows(shape, patch_size) == windows


edges = st.integers(1, 300)


@settings(deadline=None)
@given(st.tuples(edges, edges, edges), st.lists(st.integers(20, 160), min_size=2, max_size=3), st.floats(0.0, 0.9))
def test_as_many_windows_as_prediction_takes(shape, patch_size, overlap):
    in_patch_axes = zip(shape[-len(patch_size) :], patch_size, strict=True)
    per_slice = math.prod(len(window_starts(size, edge, overlap)) for size, edge in in_patch_axes)
    slices = shape[0] if len(patch_size) == 2 else 1
    assert count_windows(shape, patch_size, overlap) == slices * per_slice
