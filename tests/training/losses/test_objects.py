"""The loss of networks that find objects: its targets by hand, its gradients, and that it can be learnt from."""

import numpy as np
import pytest
import torch

from autoseg.networks.build import build_network
from autoseg.networks.detection.mask_rcnn import MaskRCNN
from autoseg.records.detection import DetectionSpec
from autoseg.records.network import NetworkSpec
from autoseg.training.losses.object_targets import (
    choose_anchors,
    choose_regions,
    cut_masks,
    find_objects,
    make_generator,
)
from autoseg.training.losses.objects import ObjectLoss


def draw_balls(seed, shape, number=5):
    """An image of balls that may touch, and their codes; labels 1 and 2 by brightness."""
    generator, grid = np.random.default_rng(seed), np.indices(shape)
    image, codes = generator.normal(0, 0.05, shape).astype(np.float32), np.zeros(shape, dtype=np.int64)
    for number_of_ball in range(1, number + 1):
        centre, radius = generator.uniform(2, np.array(shape) - 2), generator.uniform(2.5, 4.0)
        label = int(generator.integers(1, 3))
        distance = np.sqrt(sum((axis - place) ** 2 for axis, place in zip(grid, centre, strict=True)))
        ball = (distance < radius) & (codes == 0)
        codes[ball] = label + 3 * number_of_ball
        image[ball] = label * (1.2 - 0.5 * distance[ball] / radius)
    return torch.from_numpy(image)[None], torch.from_numpy(codes)


def draw_batch(seed, shape):
    samples = [draw_balls(seed * 10 + sample, shape) for sample in range(2)]
    images, codes = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(codes)


def build_loss(dimensions):
    torch.manual_seed(1)
    edges = {2: (6.0, 6.0), 3: (3.0, 6.0, 6.0)}[dimensions]
    detection = DetectionSpec(
        num_labels=2, levels=(1, 2), anchors=((edges,), (tuple(2 * edge for edge in edges),)), pyramid_features=8,
        box_features=32, box_size=(3,) * dimensions, mask_roi_size=(4,) * dimensions, regions_per_sample=32,
        proposals=60, proposals_per_level=60,
    )  # fmt: skip
    strides = {2: ((1, 1), (2, 2), (2, 2)), 3: ((1, 1, 1), (1, 2, 2), (2, 2, 2))}[dimensions]
    spec = NetworkSpec(
        architecture="unet", dimensions=dimensions, input_channels=1, output_channels=3, features=(4, 8, 8),
        strides=strides, kernel_sizes=((3,) * dimensions,) * 3, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1),
        detection=detection,
    )  # fmt: skip
    network = build_network(spec, deep_supervision=False)
    assert isinstance(network, MaskRCNN)
    return ObjectLoss(network)


def test_objects_are_read_from_codes():
    codes = torch.zeros(4, 6, 8, dtype=torch.int64)
    codes[1:3, 0:2, 5:8] = 1 + 3 * 7  # at the border: what is inside counts
    codes[3, 5, 0] = 2 + 3 * 2
    found = find_objects(codes, 3)
    assert found.codes.tolist() == [8, 22]
    assert found.labels.tolist() == [2, 1]
    assert found.boxes.tolist() == [[3, 5, 0, 4, 6, 1], [1, 0, 5, 3, 2, 8]]


def test_a_patch_without_objects_has_none():
    found = find_objects(torch.zeros(4, 6, dtype=torch.int64), 3)
    assert found.boxes.shape == (0, 4)


def test_anchors_are_an_objects_from_the_overlap_on_or_as_its_best():
    anchors = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [10, 10, 14, 14], [0, 0, 4, 8], [20, 20, 22, 22]])
    objects = torch.tensor([[0.0, 0, 4, 4], [9, 9, 15, 16]])  # the second one overlaps its best anchor by 16/42
    chosen = choose_anchors(anchors, objects, (0.3, 0.7), (10, 0.5), make_generator(0.0))
    assert chosen.positive.tolist() == [0, 1, 2]  # the fourth, with 0.5, is neither
    assert chosen.owners.tolist() == [0, 0, 1]
    assert chosen.negative.tolist() == [4]


def test_no_more_are_drawn_than_wanted_and_the_same_at_the_same_progress():
    anchors = torch.tensor([[0.0, 0, 4, 4]]).repeat(50, 1)
    anchors[20:] += 30.0
    objects = torch.tensor([[0.0, 0, 4, 4]])
    first, again, other = (
        choose_regions(anchors, objects, 0.5, (16, 0.25), make_generator(progress)) for progress in (0.1, 0.1, 0.2)
    )
    assert (len(first.positive), len(first.negative)) == (4, 12)
    assert first.negative.tolist() == again.negative.tolist() != other.negative.tolist()
    assert (first.positive < 20).all()
    assert (first.negative >= 20).all()


def test_without_objects_all_is_background():
    chosen = choose_regions(torch.rand(5, 4), torch.zeros(0, 4), 0.5, (4, 0.25), make_generator(0.0))
    assert (len(chosen.positive), len(chosen.negative)) == (0, 4)


def test_masks_are_the_objects_own():
    codes = torch.zeros(8, 8, dtype=torch.int64)
    codes[0:4, 0:8], codes[4:8, 0:4] = 4, 7
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0]])
    masks = cut_masks(codes, boxes, torch.tensor([4, 7]), (4, 2))
    assert masks[0].tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert masks[1].tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("number", [0, 4])
def test_every_parameter_gets_a_gradient_with_objects_and_without(dimensions, number):
    loss, shape = build_loss(dimensions), {2: (16, 24), 3: (4, 16, 16)}[dimensions]
    samples = [draw_balls(seed, shape, number) for seed in (0, 1)]
    images, codes = (torch.stack(tensors) for tensors in zip(*samples, strict=True))
    value = loss(images, codes, 0.5)
    value.backward()
    assert torch.isfinite(value)
    assert all(parameter.grad is not None for parameter in loss.network.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in loss.network.parameters())


def test_the_loss_is_the_same_for_the_same_progress():
    loss, (images, codes) = build_loss(2), draw_batch(0, (24, 32))
    first, again = (float(loss(images, codes, 0.25).detach()) for _ in range(2))
    assert first == again


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_balls_that_were_learnt_are_found(dimensions):
    loss, (images, codes) = build_loss(dimensions), draw_batch(0, {2: (32, 32), 3: (8, 24, 24)}[dimensions])
    optimizer = torch.optim.AdamW(loss.network.parameters(), 5e-3)
    for step in range(130):
        optimizer.zero_grad()
        loss(images, codes, step / 130).backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), 12.0)
        optimizer.step()
    labels = loss.network.eval()(images).argmax(dim=1)
    reference = codes % 3
    dice = 2 * ((labels == reference) & (reference > 0)).sum() / ((labels > 0).sum() + (reference > 0).sum())
    assert dice > 0.6
