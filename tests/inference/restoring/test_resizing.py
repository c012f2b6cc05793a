"""Rows of a resized stream: any grouping gives the same numbers, and few slices are held."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

from autoseg.inference.restoring import resizing
from autoseg.inference.restoring.resizing import LogitResampler, Resize, make_resize
from autoseg.records.network import ResamplingSpec

sizes = st.integers(1, 9)


def make_logits(heads, shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(heads, *shape)).astype(np.float32))


def all_rows(logits, resize, groups):
    slices, resampler, rows = iter(logits.unbind(1)), LogitResampler(resize), []
    for start, stop in groups:
        for _ in range(resampler.prepare(start, stop)):
            resampler.push(next(slices))
        rows.append(torch.stack(list(resampler.heads())))
    return torch.cat(rows, dim=1)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(sizes, sizes, sizes), st.tuples(st.integers(1, 14), sizes, sizes),
    st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1]), st.sampled_from([0, 1, 3])), st.integers(1, 500),
)  # fmt: skip
def test_any_slab_gives_the_same_rows(shape, new_shape, orders, voxels):
    logits = make_logits(2, shape)
    resize = Resize(shape, new_shape, orders)
    groups = list(resize.row_groups(2, voxels))
    assert [start for start, _ in groups[1:]] == [stop for _, stop in groups[:-1]]
    assert groups[0][0] == 0
    assert groups[-1][1] == new_shape[0]
    largest = max(stop - start for start, stop in groups)
    assert largest == 1 or largest * math.prod(new_shape[1:]) <= voxels
    whole = all_rows(logits, resize, [(0, new_shape[0])])
    assert whole.shape == (2, *new_shape)
    torch.testing.assert_close(all_rows(logits, resize, groups), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("order", "largest"), [(0, 2), (1, 3), (3, 30)])
def test_held_slices(order, largest):
    """One row at a time: linear rows take two slices; those of a cubic spline take all, as its filter never ends."""
    resize = Resize((30, 4, 5), (45, 4, 5), (order, 1, 1))
    slices, resampler = iter(make_logits(3, (30, 4, 5)).unbind(1)), LogitResampler(resize)
    held = []
    for row in range(45):
        for _ in range(resampler.prepare(row, row + 1)):
            resampler.push(next(slices))
        held.append(len(resampler._held))
    assert max(held) <= largest


def test_slabs_are_thin_where_slices_are_large(monkeypatch):
    monkeypatch.setattr(resizing, "HELD_VOXELS", 10 * 105 * 24 * 24)
    resize = Resize((40, 24, 24), (60, 51, 51), (1, 1, 1))
    # eight of ten slices of all heads are twelve rows of the sixty
    assert list(resize.row_groups(105, 2**22))[:2] == [(0, 12), (12, 24)]
    assert list(resize.row_groups(1050, 2**22))[:2] == [(0, 1), (1, 2)]


def test_cubic_rows_equal_scipy():
    logits = make_logits(2, (6, 7, 5))
    spec = ResamplingSpec(logits_order=3)
    resize = make_resize((6, 7, 5), (9, 11, 8), (1.0, 1.0, 1.0), (0.7, 0.6, 0.6), spec)
    found = all_rows(logits, resize, resize.row_groups(2, 100))
    for head, values in zip(found, logits.numpy(), strict=True):
        expected = zoom(values.astype(np.float64), (9 / 6, 11 / 7, 8 / 5), order=3, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(head, expected, atol=1e-5)


def test_through_plane_order_is_for_the_thick_axis_alone():
    spec = ResamplingSpec()
    thick = make_resize((5, 6, 7), (9, 6, 7), (5.0, 1.0, 1.0), (2.5, 1.0, 1.0), spec)
    assert thick.orders == (spec.through_plane_order, spec.logits_order, spec.logits_order)
    even = make_resize((5, 6, 7), (9, 6, 7), (1.0, 1.0, 1.0), (0.5, 1.0, 1.0), spec)
    assert even.orders == (spec.logits_order,) * 3
