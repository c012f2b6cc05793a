"""Where a cheap pass looks, and what the careful pass makes of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import block_reduce

from autoseg.inference.predictor.region_of_interest import (
    CERTAIN,
    enlarge,
    find_in_labels,
    foreground_box,
    halve,
    surround,
)


def box(*sides):
    return tuple(slice(*side) for side in sides)


def test_halved_voxels_are_means():
    image = np.random.default_rng(0).normal(size=(2, 6, 8, 10)).astype(np.float32)
    np.testing.assert_allclose(halve(image, flat=False), block_reduce(image, (1, 2, 2, 2), np.mean), rtol=1e-5)
    np.testing.assert_allclose(halve(image, flat=True), block_reduce(image, (1, 1, 2, 2), np.mean), rtol=1e-5)
    odd = halve(image[:, :5, :7], flat=False)
    assert odd.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(odd[:, -1, -1, 0], image[:, 4, 6, :2].mean(axis=-1), rtol=1e-5)


@pytest.mark.parametrize("is_softmax", [True, False])
def test_the_box_of_what_is_decided_as_foreground(is_softmax):
    logits = torch.full((3, 7, 9, 11), -5.0)
    if is_softmax:
        logits[0] = 0.0
    logits[2, 2, 3, 4] = logits[1, 5, 7, 6] = 1.0
    assert foreground_box(logits.unbind(1), is_softmax=is_softmax) == box((2, 6), (3, 8), (4, 7))
    assert foreground_box(torch.full((3, 2, 4, 5), -1.0).index_fill_(0, torch.tensor(0), 0.0).unbind(1),
                          is_softmax=True) is None  # fmt: skip


def test_the_box_of_an_earlier_stage():
    labels = np.zeros((4, 6, 8), dtype=np.uint8)
    assert find_in_labels(labels) is None
    labels[1, 2:5, 3] = 2
    assert find_in_labels(labels) == box((1, 2), (2, 5), (3, 4))


def test_a_box_grows_by_a_quarter_of_the_patch_and_to_a_patch():
    found = box((10, 20), (50, 51), (0, 4))
    assert enlarge(found, (40, 60, 30), (80, 120, 60), (8, 16, 20)) == box((18, 42), (93, 109), (0, 20))
    # an axis of slices has no margin: a 2D network looks at each slice alone
    assert enlarge(found, (40, 60, 30), (40, 120, 60), (1, 16, 20)) == box((10, 20), (93, 109), (0, 20))


def test_a_box_that_saves_nothing_is_no_box():
    assert enlarge(box((0, 40), (1, 59), (1, 29)), (40, 60, 30), (80, 120, 60), (8, 16, 20)) is None


@given(st.data())
def test_a_box_holds_what_was_found_and_a_patch(data):
    sides, shape, target, patch = [], [], [], []
    for _ in range(3):
        size = data.draw(st.integers(1, 60))
        start = data.draw(st.integers(0, size - 1))
        sides.append((start, data.draw(st.integers(start + 1, size))))
        shape.append(size)
        target.append(data.draw(st.integers(size, 2 * size)))
        patch.append(data.draw(st.integers(1, 40)))
    grown = enlarge(box(*sides), shape, tuple(target), patch)
    if grown is None:
        return
    for side, (start, stop), size, new, edge in zip(grown, sides, shape, target, patch, strict=True):
        assert 0 <= side.start <= start * new / size
        assert stop * new / size <= side.stop <= new
        assert side.stop - side.start >= min(edge, new)


@pytest.mark.parametrize("is_softmax", [True, False])
def test_background_surrounds_the_box(is_softmax):
    inner = torch.randn(3, 2, 4, 5)
    where = box((1, 3), (2, 6), (0, 5))
    whole = torch.stack(list(surround(inner.unbind(1), where, (4, 7, 9), 3, is_softmax=is_softmax)), dim=1)
    assert whole.shape == (3, 4, 7, 9)
    torch.testing.assert_close(whole[:, *where], inner)
    outside = torch.ones(4, 7, 9, dtype=torch.bool)
    outside[where] = False
    expected = [CERTAIN if is_softmax else -CERTAIN, -CERTAIN, -CERTAIN]
    for head, value in zip(whole, expected, strict=True):
        assert (head[outside] == value).all()
