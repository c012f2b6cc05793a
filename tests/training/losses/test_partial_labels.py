"""Losses of samples in which only some labels were looked for, against losses of problems that have only those."""

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.partial_labels import code_labels, with_annotated_sets
from autoseg.training.losses import build_loss
from autoseg.training.losses.maps import MAPS, make_maps
from autoseg.training.losses.partial_labels import split_target
from tests.training.losses.oracle import loss_oracle
from tests.training.losses.small_batches import NAMES, draw, labels, regions

FOUR = make_encoding({"background": 0, "1": 1, "2": 2, "3": 3, "ignore": 200})
THREE = make_encoding({"background": 0, "1": 1, "2": 2})
LABELS = with_annotated_sets(FOUR, [None, ("1",), ("2", "3")])
REGIONS = with_annotated_sets(regions(ignore=True), [None, ("core",)])


def code(indices, encoding, sets):
    tables = torch.tensor([code_labels(encoding, number)[:-1] for number in range(len(encoding.annotated_sets))])
    return torch.stack([tables[number][sample.long()] for sample, number in zip(indices, sets, strict=True)])


def test_a_target_tells_labels_and_sets():
    indices = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    target = code(indices, LABELS, [0, 1, 2])
    target[2, 0] = 0  # outside the image
    found, looked_for = split_target(target, LABELS)
    assert found.tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 0, 4], [0, 0, 2, 3, 4]]
    assert looked_for is not None
    assert looked_for.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]]
    same, nothing = split_target(indices, FOUR)
    assert same is indices
    assert nothing is None


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_labels_that_were_not_looked_for_are_background_together(name, batch_dice):
    logits, indices = draw(3, LABELS, shape=(2, 4, 3))
    loss = build_loss(LABELS, name=name, batch_dice=batch_dice, num_outputs=1)
    found = loss(logits, code(indices, LABELS, [1, 1]))
    merged = torch.stack([logits[:, [0, 2, 3]].logsumexp(dim=1), logits[:, 1]], dim=1)
    known = torch.tensor([0, 1, 0, 0, 2])[indices.long()]
    wanted = loss_oracle(name, merged, known, labels(2, ignore=True), batch_dice=batch_dice)
    assert found.item() == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_regions_that_were_not_looked_for_count_nowhere(name, batch_dice):
    logits, indices = draw(4, REGIONS, shape=(2, 4, 3))
    logits.requires_grad_()
    loss = build_loss(REGIONS, name=name, batch_dice=batch_dice, num_outputs=1)
    found = loss(logits, code(indices, REGIONS, [1, 1]))
    core = regions(ignore=True).model_copy(update={"heads": REGIONS.heads[1:]})
    wanted = loss_oracle(name, logits[:, 1:].detach(), indices, core, batch_dice=batch_dice)
    assert found.item() == pytest.approx(wanted, abs=2e-5)
    found.backward()
    assert torch.count_nonzero(logits.grad[:, 0]) == 0
    assert torch.count_nonzero(logits.grad[:, 1]) > 0


@pytest.mark.parametrize("batch_dice", [False, True])
def test_dice_means_over_the_samples_in_which_a_label_was_looked_for(batch_dice):
    encoding = with_annotated_sets(THREE, [None, ("1",)])
    logits, indices = draw(5, encoding)
    probabilities = logits.softmax(dim=1).flatten(2)
    loss = build_loss(encoding, name="dice", batch_dice=batch_dice, num_outputs=1)
    found = loss(logits, code(indices, encoding, [0, 1]))

    def dice(label, samples):
        rows = [(probabilities[b, label], indices[b].flatten() == label) for b in samples]
        overlap = sum((p * g).sum() for p, g in rows)
        return 1 - (2 * overlap + 1e-5) / (sum(p.sum() + g.sum() for p, g in rows) + 1e-5)

    by_hand = [dice(1, [0, 1]), dice(2, [0])] if batch_dice else [dice(1, [0]), dice(1, [1]), dice(2, [0])]
    assert found.item() == pytest.approx(float(sum(by_hand) / len(by_hand)), abs=1e-5)


def test_all_levels_ignore_what_was_not_looked_for():
    logits, indices = draw(7, LABELS, shape=(4, 4, 4))
    coarse = logits[:, :, ::2, ::2, ::2]
    target = code(indices, LABELS, [1, 2])
    deep = build_loss(LABELS, name="ce", batch_dice=False, num_outputs=3)
    alone = build_loss(LABELS, name="ce", batch_dice=False, num_outputs=1)
    nearest = target[:, 1::2, 1::2, 1::2]
    expected = (2 * alone(logits, target) + alone(coarse, nearest)) / 3
    assert deep([logits, coarse, coarse], target).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("encoding", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("name", sorted(MAPS))
def test_maps_of_the_loader_are_those_that_the_loss_makes(name, encoding):
    logits, indices = draw(8, encoding)
    target = code(indices, encoding, [1, 0])
    loss = build_loss(encoding, name=name, batch_dice=True, num_outputs=1)
    maps = make_maps(target.numpy(), encoding, tuple(target.shape[1:]), MAPS[name])
    with_maps = loss(logits, target, 0.5, [torch.from_numpy(maps)])
    assert with_maps.item() == pytest.approx(loss(logits, target, 0.5).item(), rel=1e-5)


def test_the_mean_of_boundaries_counts_what_was_looked_for():
    encoding = with_annotated_sets(THREE, [None, ("1",)])
    logits, indices = draw(9, encoding, batch=1)
    loss = build_loss(encoding, name="boundary", batch_dice=False, num_outputs=1)
    merged = torch.stack([logits[:, [0, 2]].logsumexp(dim=1), logits[:, 1]], dim=1)
    wanted = loss_oracle("boundary", merged, np.where(indices == 1, 1, 0), labels(2), batch_dice=False)
    assert loss(logits, code(indices, encoding, [1])).item() == pytest.approx(wanted, abs=2e-5)
