import pytest
import torch

from autoseg.training.losses import build_loss
from autoseg.training.losses.entropy import balancing_weights, foreground_weights, rarity_weights
from tests.training.losses.small_batches import labels

TOPK = build_loss(labels(2), name="topk_ce", batch_dice=False, num_outputs=1)
COUNTS = torch.tensor([[90.0, 10.0, 0.0], [0.0, 0.0, 0.0]])


def test_background_weighs_1_and_every_foreground_class_2():
    assert foreground_weights(COUNTS).tolist() == [[1, 2, 2], [1, 2, 2]]


def test_balancing_weights_are_the_shares_of_all_other_classes():
    assert balancing_weights(COUNTS)[0].tolist() == pytest.approx([0.1, 0.9, 1.0])
    assert balancing_weights(COUNTS)[1].isfinite().all()


def test_rarity_weights_are_roots_of_inverse_shares_and_0_for_absent_classes():
    assert rarity_weights(COUNTS)[0].tolist() == pytest.approx([(10 / 9) ** 0.5, 10**0.5, 0.0])
    assert rarity_weights(COUNTS)[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("voxels", "taken"), [(1, 1), (10, 1), (11, 2), (30, 3)])
def test_hardest_voxels_are_a_tenth_rounded_up(voxels, taken):
    logits = torch.zeros(1, 2, 1, voxels)
    logits[0, 1, 0] = torch.arange(voxels) / 7  # all background: the later, the harder
    loss = TOPK(logits, torch.zeros(1, 1, voxels, dtype=torch.int16))
    entropies = torch.log1p(torch.exp(torch.arange(voxels, dtype=torch.float64) / 7))
    assert loss.item() == pytest.approx(entropies[-taken:].mean().item(), abs=1e-6)


def test_hardest_voxels_are_chosen_in_each_sample():
    logits = torch.zeros(2, 2, 1, 10)
    logits[0, 1], logits[1, 1] = 5.0, 1.0  # every voxel of the first sample is harder than any of the second
    loss = TOPK(logits, torch.zeros(2, 1, 10, dtype=torch.int16))
    assert loss.item() == pytest.approx(torch.log1p(torch.tensor([5.0, 1.0]).exp()).mean().item(), abs=1e-6)
