import pytest
import torch

from autoseg.training.losses.overlap import generalized_dice_index, tversky_index


def test_generalized_dice_weighs_classes_by_the_inverse_square_of_their_voxels():
    # two voxels and ten voxels: weights 1/4 and 1/100
    index = generalized_dice_index(torch.tensor([1.0, 6.0]), torch.tensor([3.0, 18.0]), torch.tensor([2.0, 10.0]))
    assert index.item() == pytest.approx(2 * (1 / 4 + 6 / 100) / (3 / 4 + 18 / 100), abs=1e-5)


def test_generalized_dice_weighs_an_absent_class_like_the_rarest_present_one():
    overlap, total = torch.tensor([1.0, 6.0, 0.0]), torch.tensor([3.0, 18.0, 1.5])
    index = generalized_dice_index(overlap, total, torch.tensor([2, 10, 0]))
    assert index.item() == pytest.approx(2 * (1 / 4 + 6 / 100) / (3 / 4 + 18 / 100 + 1.5 / 4), abs=1e-5)


def test_generalized_dice_without_any_reference_is_1_for_an_empty_prediction_alone():
    nothing = torch.zeros(2)
    assert generalized_dice_index(nothing, nothing, nothing).item() == 1
    assert generalized_dice_index(nothing, torch.tensor([0.0, 4.0]), nothing).item() == pytest.approx(0, abs=1e-5)


def test_generalized_dice_keeps_its_smoothing_small_beside_large_classes():
    # unscaled weights of 1e-12 would drown in a smoothing of 1e-5 and call this perfect
    index = generalized_dice_index(torch.tensor([1e5]), torch.tensor([2e6]), torch.tensor([1e6]))
    assert index.item() == pytest.approx(0.1, abs=1e-6)


def test_tversky_punishes_missed_voxels_more_than_added_ones():
    missed = tversky_index(torch.tensor(6.0), torch.tensor(6.0 + 10.0), torch.tensor(10.0))
    added = tversky_index(torch.tensor(6.0), torch.tensor(10.0 + 6.0), torch.tensor(6.0))
    assert missed.item() == pytest.approx(6 / (6 + 0.7 * 4), abs=1e-5)
    assert added.item() == pytest.approx(6 / (6 + 0.3 * 4), abs=1e-5)
