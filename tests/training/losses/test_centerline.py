import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage.morphology import skeletonize

from autoseg.training.losses import build_loss
from autoseg.training.losses.centerline import CenterlineTerm, SkeletonRecallTerm, soft_skeleton
from autoseg.training.losses.level import build_level
from tests.training.losses.oracle import skeleton_by_hand
from tests.training.losses.small_batches import labels, regions


def tube(dimensions, radius=2):
    """A bent tube and its centre line, in a box of unequal edges."""
    shape = (28, 17, 19)[:dimensions]
    rows = np.arange(3, 25)
    columns = 8 + np.round(3 * np.sin(rows / 5)).astype(int)
    line = np.zeros(shape, bool)
    line[(rows, columns, 9)[:dimensions]] = True
    return ndimage.distance_transform_edt(~line) <= radius, line


@settings(deadline=None, max_examples=30)
@given(st.data(), array_shapes(min_dims=2, max_dims=3, max_side=5))
def test_the_soft_skeleton_is_the_one_made_voxel_by_voxel(data, shape):
    mask = data.draw(arrays(np.float64, shape, elements=st.floats(0, 1)))
    known = data.draw(arrays(np.bool_, shape))
    found = soft_skeleton(torch.from_numpy(mask * known)[None], torch.from_numpy(known.astype(float))[None])
    np.testing.assert_allclose(found[0].numpy(), skeleton_by_hand(mask, known), atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_skeleton_of_a_tube_lies_along_the_one_of_scikit_image(dimensions):
    mask, _ = tube(dimensions)
    soft = soft_skeleton(torch.from_numpy(mask.astype(np.float32))[None], None)[0].numpy()
    thin = skeletonize(mask) > 0
    assert not soft[~mask].any()
    near_thin = ndimage.distance_transform_edt(~thin)[soft > 0]
    near_soft = ndimage.distance_transform_edt(soft == 0)[thin]
    assert np.percentile(near_thin, 90) <= 2.0
    assert near_soft.max() <= 2.0
    assert 0 < soft.sum() < 0.5 * mask.sum()


@pytest.mark.parametrize("edge", [1, 2])
def test_short_axes_have_a_skeleton_too(edge):
    mask = torch.zeros(1, edge, 7, 9)
    mask[:, :, 2:5] = 1
    flat = soft_skeleton(mask[:, 0], None)
    assert flat.sum() > 0
    assert torch.equal(soft_skeleton(mask, None), flat.unsqueeze(1).expand_as(mask))


def test_what_is_ignored_is_like_the_edge_of_the_patch():
    mask, _ = tube(2)
    mask = torch.from_numpy(mask.astype(np.float32))[None]
    annotated = torch.ones_like(mask)
    annotated[:, 14:] = 0
    cut = soft_skeleton(mask * annotated, annotated)
    assert torch.equal(cut[:, :14], soft_skeleton(mask[:, :14], None))
    assert not cut[:, 14:].any()


def term_of(kind, predicted, reference, batch_dice):
    """The term alone, of a mask that is predicted with certainty."""
    logits = torch.from_numpy(np.stack([~predicted, predicted])[None] * np.float32(12))
    level = build_level(logits, torch.from_numpy(reference.astype(np.int64))[None], labels(2))
    term = kind(batch_dice)
    return term.value(term.sums(level)).item()


def dice_of(predicted, reference):
    return 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum())


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(("kind", "radius"), [(CenterlineTerm, 2), (SkeletonRecallTerm, 4)])
def test_a_broken_tube_is_worse_than_a_thinned_one(kind, radius, dimensions, batch_dice):
    mask, line = tube(dimensions, radius)
    thinned = mask & (ndimage.distance_transform_edt(~line) <= radius - 1)
    broken = mask.copy()
    broken[[5, 11, 17, 23]] = False
    assert dice_of(thinned, mask) < dice_of(broken, mask)  # Dice prefers the broken one
    assert term_of(kind, mask, mask, batch_dice) == pytest.approx(0, abs=1e-4)
    assert term_of(kind, thinned, mask, batch_dice) + 0.02 < term_of(kind, broken, mask, batch_dice)


@pytest.mark.parametrize("encoding", [labels(3), regions()], ids=["labels", "regions"])
@pytest.mark.parametrize("name", ["cldice", "skeleton_recall"])
def test_classes_are_compared_one_by_one_and_all_get_a_gradient(encoding, name):
    logits = torch.randn(2, len(encoding.heads), 6, 9, 5, requires_grad=True)
    target = torch.zeros(2, 6, 9, 5, dtype=torch.int64)
    target[:, 1:5, 3:6, 2], target[:, 2:4, 4, 2] = 1, 2
    loss = build_loss(encoding, name=name, batch_dice=True, num_outputs=1)(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()
