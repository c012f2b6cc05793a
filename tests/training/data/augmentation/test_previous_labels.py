"""A cascade's label maps: morphology against brute force, components, one-hot channels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import ball, disk

from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.augmentation.previous_labels import (
    OPERATIONS,
    AppendPreviousLabels,
    DistortPreviousLabels,
    change_shapes,
    close_gaps,
    dilate,
    erode,
    open_bridges,
    remove_components,
)

ALWAYS = AugmentationRules(
    morphology_probability=1, morphology_label_probability=1, removal_probability=1, removal_label_probability=1
)


def with_footprint(name, mask, radius):
    """The operation with a footprint; beyond the border the mask neither grows in nor is eaten away."""
    footprint = ball(radius) if mask.ndim == 3 else disk(radius)

    def grow(mask):
        return ndimage.binary_dilation(mask, footprint)

    def shrink(mask):
        return ndimage.binary_erosion(mask, footprint, border_value=1)

    if name == "dilate":
        return grow(mask)
    if name == "erode":
        return shrink(mask)
    return shrink(grow(mask)) if name == "close_gaps" else grow(shrink(mask))


def make_labels(shape, seed, *, num_labels=3, width=2):
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.standard_normal((num_labels + 1, *shape)), (0, *(width,) * len(shape)))
    return smooth.argmax(axis=0).astype(np.int16)


@settings(max_examples=60, deadline=None)
@given(
    operate=st.sampled_from([dilate, erode, close_gaps, open_bridges]),
    radius=st.integers(1, 8),
    shape=st.one_of(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.integers(1, 30)] * 2)),
    seed=st.integers(0, 99),
)
def test_operations_equal_those_with_a_ball(operate, radius, shape, seed):
    mask = make_labels(shape, seed, num_labels=1, width=1.5) == 1

    np.testing.assert_array_equal(operate(mask, radius), with_footprint(operate.__name__, mask, radius))


@pytest.mark.parametrize("operate", OPERATIONS)
@pytest.mark.parametrize("value", [True, False])
def test_full_and_empty_masks_stay(operate, value):
    mask = np.full((4, 5, 6), value)

    np.testing.assert_array_equal(operate(mask, 3), mask)


@pytest.mark.parametrize("shape", [(14, 17, 12), (30, 26)])
@pytest.mark.parametrize("seed", range(6))
def test_what_a_label_gains_the_others_lose(shape, seed):
    labels = make_labels(shape, seed)
    channels = {label: labels == label for label in (1, 2, 3)}

    change_shapes(labels, 3, ALWAYS, np.random.default_rng(seed))

    replay = np.random.default_rng(seed)
    for label in replay.permutation([1, 2, 3]):
        replay.random()
        name = OPERATIONS[replay.integers(4)].__name__
        changed = with_footprint(name, channels[label], replay.integers(1, 8, endpoint=True))
        gained = changed & ~channels[label]
        channels = {other: mask & ~gained for other, mask in channels.items()} | {label: changed}
    for label, mask in channels.items():
        np.testing.assert_array_equal(labels == label, mask)


def test_labels_operations_and_radii_are_all_drawn_evenly():
    seen = []
    rules = AugmentationRules(morphology_radius_range_voxels=(1, 2))
    for seed in range(600):
        labels = np.zeros((1, 11), dtype=np.int16)
        labels[0, 4:7] = 2  # 3 voxels: 1 or none after erosion, 5 or 7 after dilation
        change_shapes(labels, 3, rules, np.random.default_rng(seed))
        seen.append(int(np.count_nonzero(labels)))

    counts = {size: seen.count(size) for size in (0, 1, 3, 5, 7)}
    # half of the time the label is left alone; closing keeps it, opening by 2 removes it and by 1 keeps it
    expected = {0: 2 / 16, 1: 1 / 16, 3: 1 / 2 + 3 / 16, 5: 1 / 16, 7: 1 / 16}
    for size, share in expected.items():
        assert counts[size] / 600 == pytest.approx(share, abs=0.045), size


def test_one_small_component_is_removed_and_not_refilled():
    labels = np.zeros((10, 10, 10), dtype=np.int16)
    labels[0:2, 0:2, 0:2] = 1
    labels[2, 2, 2] = 1  # touches the cube at a corner
    labels[6, 6, 6] = 1
    labels[:, :, 8:] = 2  # 20 % of the patch
    remaining = set()

    for seed in range(40):
        changed = labels.copy()
        remove_components(changed, 3, ALWAYS, np.random.default_rng(seed))
        assert (changed[labels == 2] == 2).all()
        assert set(np.unique(changed[labels != changed]).tolist()) == {0}
        remaining.add(int(np.count_nonzero(changed == 1)))

    assert remaining == {1, 9}


def test_share_of_the_patch_decides_what_is_large():
    labels = np.zeros((20, 5, 2), dtype=np.int16)
    labels[:6] = 1  # 30 % of the patch

    kept, removed = labels.copy(), labels.copy()
    remove_components(kept, 1, ALWAYS, np.random.default_rng(0))
    removing = AugmentationRules(removal_label_probability=1, removed_share_of_patch=0.31)
    remove_components(removed, 1, removing, np.random.default_rng(0))

    np.testing.assert_array_equal(kept, labels)
    assert not removed.any()


def test_one_channel_per_foreground_label_behind_the_image():
    image = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
    previous = np.random.default_rng(1).integers(0, 3, size=(2, 4, 5, 6)).astype(np.int16)

    result = AppendPreviousLabels(4)(
        image=image, target=np.zeros_like(previous), previous=previous, cases=[], generators=[]
    )["image"]

    np.testing.assert_array_equal(result[:, :3], image)
    expected = np.stack([previous == label for label in (1, 2, 3, 4)], axis=1)
    np.testing.assert_array_equal(result[:, 3:], expected.astype(np.float32))
    assert result.dtype == np.float32


def distort(previous, rules, seeds):
    target = np.ones_like(previous)
    generators = [np.random.default_rng(seed) for seed in seeds]
    DistortPreviousLabels(3, rules)(
        image=np.zeros((len(seeds), 1), np.float32), target=target, previous=previous, cases=[], generators=generators
    )
    assert (target == 1).all()
    return previous


def test_share_of_samples_that_are_distorted():
    labels = np.zeros((1500, 3, 9, 9), dtype=np.int16)
    labels[:, 1, 4, 4] = 3
    shapes_only = AugmentationRules(removal_probability=0, morphology_label_probability=1)
    removal_only = AugmentationRules(morphology_probability=0, removal_label_probability=1)

    reshaped = (distort(labels.copy(), shapes_only, range(1500)) != labels).any(axis=(1, 2, 3))
    removed = (distort(labels.copy(), removal_only, range(1500)) != labels).any(axis=(1, 2, 3))

    assert reshaped.mean() == pytest.approx(0.4 * 3 / 4, abs=0.04)  # closing a voxel changes nothing
    assert removed.mean() == pytest.approx(0.2, abs=0.04)


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 16)] * 3), seed=st.integers(0, 999))
def test_a_sample_depends_on_its_generator_alone_and_gets_no_new_label(shape, seed):
    labels = np.stack([make_labels(shape, seed + sample) for sample in range(3)])

    together = distort(labels.copy(), ALWAYS, [seed, seed + 1, seed + 2])
    alone = distort(labels[1:2].copy(), ALWAYS, [seed + 1])

    np.testing.assert_array_equal(together[1], alone[0])
    assert np.isin(together, [0, *np.unique(labels)]).all()
