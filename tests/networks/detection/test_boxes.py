"""Boxes against brute force: overlap by counting voxels, suppression one box after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.networks.detection import boxes as module
from autoseg.networks.detection.boxes import (
    box_overlaps,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    is_not_empty,
    make_anchors,
    match_boxes,
    mean_edges,
    suppress_overlapping,
)

SHAPES = {2: (9, 14), 3: (5, 9, 14)}


def draw_boxes(seed, number, dimensions):
    """Boxes with whole corners within a small volume."""
    generator = np.random.default_rng(seed)
    corners = [np.sort(generator.integers(0, edge + 1, (number, 2)), axis=1) for edge in SHAPES[dimensions]]
    starts, stops = (np.stack([corner[:, side] for corner in corners], axis=1) for side in (0, 1))
    return torch.from_numpy(np.concatenate((starts, np.maximum(stops, starts + 1)), axis=1)).float()


def overlap_by_voxels(first, second, shape):
    masks = []
    for box in (first, second):
        mask = np.zeros([edge + 1 for edge in shape], dtype=bool)
        mask[tuple(slice(int(start), int(stop)) for start, stop in zip(*box.view(2, -1).tolist(), strict=True))] = True
        masks.append(mask)
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def suppress_one_by_one(boxes, scores, groups, largest_overlap):
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: (-float(scores[index]), index)):
        rivals = [other for other in kept if groups[other] == groups[index]]
        overlaps = [float(box_overlaps(boxes[index : index + 1], boxes[other : other + 1])) for other in rivals]
        if all(overlap <= largest_overlap for overlap in overlaps):
            kept.append(index)
    return kept


@pytest.mark.parametrize("dimensions", [2, 3])
def test_overlaps_are_those_of_counted_voxels(dimensions):
    first, second = draw_boxes(1, 6, dimensions), draw_boxes(2, 7, dimensions)
    found = box_overlaps(first, second)
    for row, one in enumerate(first):
        for column, other in enumerate(second):
            assert float(found[row, column]) == pytest.approx(overlap_by_voxels(one, other, SHAPES[dimensions]))


def test_an_empty_box_overlaps_nothing():
    boxes = torch.tensor([[3.0, 3.0, 3.0, 5.0], [1.0, 1.0, 4.0, 4.0]])
    assert box_overlaps(boxes, boxes).tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert is_not_empty(boxes).tolist() == [False, True]


@given(seed=st.integers(0, 1000), number=st.integers(1, 30), dimensions=st.sampled_from([2, 3]))
@settings(max_examples=20, deadline=None)
def test_what_is_kept_is_what_one_after_the_other_keeps(seed, number, dimensions):
    generator = torch.Generator().manual_seed(seed)
    boxes = draw_boxes(seed, number, dimensions)
    scores = torch.randint(0, 8, (number,), generator=generator).float()  # some are equal
    groups = torch.randint(0, 2, (number,), generator=generator)
    kept = suppress_overlapping(boxes, scores, groups, 0.31)
    assert kept.tolist() == suppress_one_by_one(boxes, scores, groups, 0.31)


def test_of_no_boxes_none_is_kept():
    assert suppress_overlapping(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("pairs", [9, 10**6])
def test_matches_are_the_largest_overlaps(monkeypatch, dimensions, pairs):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", pairs)  # few: the boxes are compared in several parts
    boxes, objects = draw_boxes(3, 11, dimensions), draw_boxes(4, 4, dimensions)
    table = np.array([[overlap_by_voxels(box, other, SHAPES[dimensions]) for other in objects] for box in boxes])
    overlaps, owners, best = match_boxes(boxes, objects)
    assert overlaps.numpy() == pytest.approx(table.max(axis=1), abs=1e-6)
    assert owners.tolist() == table.argmax(axis=1).tolist()
    assert best.tolist() == table.argmax(axis=0).tolist()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_box_is_found_again_from_its_moves(dimensions):
    boxes, anchors = draw_boxes(5, 20, dimensions), draw_boxes(6, 20, dimensions)
    assert torch.allclose(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-5)


def test_moves_by_hand():
    anchor, box = torch.tensor([[0.0, 0.0, 4.0, 8.0]]), torch.tensor([[1.0, 2.0, 5.0, 6.0]])
    assert encode_boxes(box, anchor)[0].tolist() == pytest.approx([0.25, 0.0, 0.0, -np.log(2)])


def test_a_box_that_would_grow_without_end_stays_finite():
    assert decode_boxes(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0.0, 4.0, 4.0]])).isfinite().all()


def test_anchors_lie_around_the_centres_of_the_levels_voxels():
    anchors = make_anchors((2, 3), (2, 4), ((2.0, 6.0), (4.0, 4.0)), torch.device("cpu"))
    assert anchors.shape == (12, 4)
    assert anchors[:2].tolist() == [[0.0, -1.0, 2.0, 5.0], [-1.0, 0.0, 3.0, 4.0]]  # around (1, 2)
    assert anchors[-1].tolist() == [1.0, 8.0, 5.0, 12.0]  # around (3, 10)


def test_boxes_are_cut_at_the_patch():
    boxes = torch.tensor([[-1.0, 2.0, 5.0, 20.0]])
    assert clip_boxes(boxes, (4, 9)).tolist() == [[0.0, 2.0, 4.0, 9.0]]
    assert mean_edges(torch.tensor([[0.0, 0.0, 4.0, 9.0]])).tolist() == pytest.approx([6.0])
