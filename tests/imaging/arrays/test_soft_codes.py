"""Codes of soft labels against labels and probabilities made by numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.imaging.arrays.soft_codes import (
    LEVELS,
    MAX_SOFT_LABELS,
    confident_labels,
    decode_soft_labels,
    draw_labels,
    encode_soft_labels,
)


@given(st.integers(1, MAX_SOFT_LABELS), st.integers(0, 2**32 - 1))
def test_a_code_keeps_the_label_and_the_nearest_level(num_labels, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_labels, (2, 3, 4))
    probabilities = generator.random((2, 3, 4))
    codes = encode_soft_labels(labels, probabilities, num_labels)
    found, levels = decode_soft_labels(codes.astype(np.float32), num_labels)  # as arrays on disk have them
    np.testing.assert_array_equal(found, labels)
    assert np.abs(levels - probabilities).max() <= 0.5 / LEVELS + 1e-6


def test_outside_stays_outside():
    codes = np.array([-1, 0, 2 + 3 * LEVELS], dtype=np.int16)
    labels, probabilities = decode_soft_labels(codes, 3)
    assert labels.tolist() == [-1, 0, 2]
    assert probabilities.tolist() == [1.0, 0.0, 1.0]
    assert confident_labels(codes, 3, 0.5).tolist() == [-1, 3, 2]
    assert draw_labels(codes, 3, 0.5, np.random.default_rng(0)).tolist() == [-1, 3, 2]


def test_a_voxel_counts_as_often_as_its_label_is_probable():
    probabilities = np.repeat([0.25, 0.5, 0.75, 1.0], 20_000)
    codes = encode_soft_labels(np.full(probabilities.shape, 4), probabilities, 7)
    drawn = draw_labels(codes, 7, 0.5, np.random.default_rng(3)).reshape(4, -1)
    assert set(np.unique(drawn).tolist()) == {4, 7}
    assert (drawn == 4).mean(axis=1) == pytest.approx([0.0, 0.5, 0.75, 1.0], abs=0.02)
