"""Regularisers on voxels without a reference, compared with loops over voxels and pairs."""

import itertools
import math

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.training.losses.regularizers import (
    DISTANCE_SCALE,
    INTENSITY_SCALE,
    WEIGHTS,
    list_offsets,
    regularize,
)

LABELS = make_encoding({"background": 0, "a": 1, "b": 2, "ignore": 3}, regions_class_order=None)
REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}, regions_class_order=(1, 2))
SHAPES = [(7, 9), (3, 6, 7)]


def make_batch(encoding, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, len(encoding.heads), *shape), generator=generator)
    image = torch.randn((2, 2, *shape), generator=generator)
    target = torch.randint(0, 4, (2, *shape), generator=generator)
    return logits, image, target


def probabilities_of(logits, encoding):
    is_softmax = encoding.activation == "softmax"
    return (torch.softmax(logits, 1) if is_softmax else torch.sigmoid(logits)).double().numpy()


@pytest.mark.parametrize("encoding", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_of_unknown_voxels(encoding, shape):
    logits, image, target = make_batch(encoding, shape)
    found = regularize("entropy", logits, image, target, encoding)
    p, total, count = probabilities_of(logits, encoding), 0.0, 0
    for sample, *voxel in itertools.product(range(2), *map(range, shape)):
        if target[sample, *voxel] == 3:
            values = p[sample, :, *voxel]
            if encoding.activation == "softmax":
                total += sum(-v * math.log(v) for v in values) / math.log(len(values))
            else:
                total += np.mean([-(v * math.log(v) + (1 - v) * math.log(1 - v)) for v in values]) / math.log(2)
            count += 1
    assert found.item() == pytest.approx(WEIGHTS["entropy"] * total / count, rel=1e-4)


@pytest.mark.parametrize("encoding", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("shape", SHAPES)
def test_disagreement_of_pairs_that_look_alike(encoding, shape):
    logits, image, target = make_batch(encoding, shape)
    found = regularize("crf", logits, image, target, encoding)
    p, total, count = probabilities_of(logits, encoding), 0.0, 0
    for offset in list_offsets(len(shape)):
        for sample, *voxel in itertools.product(range(2), *map(range, shape)):
            other = [v + step for v, step in zip(voxel, offset, strict=True)]
            if any(not 0 <= v < edge for v, edge in zip(other, shape, strict=True)):
                continue
            if target[sample, *voxel] != 3 and target[sample, *other] != 3:
                continue
            difference = (image[sample, :, *voxel] - image[sample, :, *other]).double().square().mean().item()
            distance = sum(step**2 for step in offset)
            likeness = math.exp(-difference / (2 * INTENSITY_SCALE**2) - distance / (2 * DISTANCE_SCALE**2))
            one, second = p[sample, :, *voxel], p[sample, :, *other]
            if encoding.activation == "softmax":
                different = 1 - (one * second).sum()
            else:
                different = np.mean(one * (1 - second) + second * (1 - one))
            total, count = total + likeness * different, count + 1
    assert found.item() == pytest.approx(WEIGHTS["crf"] * total / count, rel=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_pair_is_counted_once(dimensions):
    offsets = list(list_offsets(dimensions))
    both = {*offsets, *(tuple(-step for step in offset) for offset in offsets)}
    assert len(both) == 2 * len(offsets)
    assert all(len(offset) == dimensions for offset in offsets)


@pytest.mark.parametrize("name", ["entropy", "crf"])
@pytest.mark.parametrize("shape", SHAPES)
def test_known_voxels_add_nothing(name, shape):
    logits, image, target = make_batch(LABELS, shape)
    logits.requires_grad_()
    loss = regularize(name, logits, image, target.clamp(max=2), LABELS)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


@pytest.mark.parametrize("name", ["entropy", "crf"])
def test_clear_and_equal_decisions_cost_nothing(name):
    logits, image, target = make_batch(LABELS, (7, 9))
    clear = torch.zeros_like(logits)
    clear[:, 1] = 40.0
    assert regularize(name, clear, image, target, LABELS).item() == pytest.approx(0.0, abs=1e-5)


def test_coarse_logits_see_means_of_the_image():
    logits, image, target = make_batch(LABELS, (8, 12))
    coarse = logits[..., ::2, ::2].contiguous()
    means = image.reshape(2, 2, 4, 2, 6, 2).mean(dim=(3, 5))
    known = target.new_full((2, 4, 6), 3)
    found = regularize("crf", coarse, image, target.new_full((2, 8, 12), 3), LABELS)
    torch.testing.assert_close(found, regularize("crf", coarse, means, known, LABELS))
