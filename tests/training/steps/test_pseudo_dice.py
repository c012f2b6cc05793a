import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.partial_labels import code_labels, with_annotated_sets
from autoseg.training.steps.pseudo_dice import PseudoDice, mean_dice, moving_average

LABELS = make_encoding({"background": 0, "liver": 4, "spleen": 5, "never": 6, "ignore": 9})
REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}, (1, 2))


def logits_of(classes: torch.Tensor, num_heads: int) -> torch.Tensor:
    return torch.stack([(classes == head).float() * 3 - 1 for head in range(num_heads)], dim=1)


def test_labels_counted_by_hand_over_two_batches():
    first = torch.tensor([[[0, 1, 1, 2, 0, 4, 0]]], dtype=torch.int16)
    predicted = torch.tensor([[[0, 1, 2, 2, 1, 1, 1]]])
    pseudo = PseudoDice(LABELS)
    pseudo.add(logits_of(predicted, 4), first)
    pseudo.add(logits_of(torch.tensor([[[1, 0]]]), 4), torch.tensor([[[1, 2]]]))
    # liver: TP 2, FP 2, FN 1; spleen: TP 1, FP 1, FN 1; the ignored voxel counts nowhere
    assert pseudo.counts.tolist() == [[2, 1, 0], [2, 1, 0], [1, 1, 0]]
    assert pseudo.dice() == {"liver": pytest.approx(4 / 7), "spleen": pytest.approx(2 / 4), "never": None}


def test_regions_counted_by_hand_with_ignored_voxels():
    target = torch.tensor([[[0, 1, 2, 2, 3]]], dtype=torch.int16)
    logits = torch.tensor([[[[1.0, -1, 1, 1, 1]], [[-1.0, 1, 1, -1, 1]]]])
    pseudo = PseudoDice(REGIONS)
    pseudo.add(logits, target)
    # whole: reference voxels 1, 2, 3, predicted 0, 2, 3; core: reference 2, 3, predicted 1, 2
    assert pseudo.counts.tolist() == [[2, 1], [1, 1], [1, 1]]
    assert pseudo.dice() == {"whole": pytest.approx(4 / 6), "core": pytest.approx(2 / 4)}


def test_labels_count_where_they_were_looked_for():
    encoding = with_annotated_sets(LABELS, [None, ("spleen",)])
    indices = torch.tensor([[[0, 1, 1, 2, 0, 4, 0]], [[0, 0, 0, 2, 0, 4, 0]]])
    predicted = torch.tensor([[[0, 1, 2, 2, 1, 1, 1]], [[0, 1, 2, 2, 1, 1, 1]]])
    pseudo = PseudoDice(encoding)
    second = torch.tensor(code_labels(encoding, 1))[indices[1:]]
    pseudo.add(logits_of(predicted, 4), torch.cat([indices[:1], second]))
    # liver in the first sample: TP 1, FP 2, FN 1; spleen in both: TP 2, FP 2, FN 0
    assert pseudo.counts.tolist() == [[1, 2, 0], [2, 2, 0], [1, 0, 0]]


def test_regions_count_where_they_were_looked_for():
    encoding = with_annotated_sets(REGIONS, [None, ("whole",)])
    target = torch.tensor([[[0, 1, 2, 2, 3]]]).repeat(2, 1, 1)
    target[1] = torch.tensor(code_labels(encoding, 1))[target[1]]
    logits = torch.tensor([[[[1.0, -1, 1, 1, 1]], [[-1.0, 1, 1, -1, 1]]]]).repeat(2, 1, 1, 1)
    pseudo = PseudoDice(encoding)
    pseudo.add(logits, target)
    assert pseudo.counts.tolist() == [[4, 1], [2, 1], [2, 1]]


def test_regions_without_ignore_label_count_every_voxel():
    pseudo = PseudoDice(REGIONS.model_copy(update={"ignore_value": None}))
    pseudo.add(torch.full((2, 2, 3, 5, 7), 0.1), torch.full((2, 3, 5, 7), 2))
    assert pseudo.counts.tolist() == [[210, 210], [0, 0], [0, 0]]


def test_logit_zero_is_not_above_one_half():
    pseudo = PseudoDice(REGIONS)
    pseudo.add(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.int16))
    assert pseudo.counts.tolist() == [[0, 0], [0, 0], [16, 0]]


def test_bfloat16_logits_and_larger_volumes_agree_with_masks():
    torch.manual_seed(0)
    target = torch.randint(0, 5, (2, 5, 7, 11), dtype=torch.int16)
    logits = torch.randn(2, 4, 5, 7, 11).bfloat16()
    pseudo = PseudoDice(LABELS)
    pseudo.add(logits, target)
    predicted = logits.float().argmax(dim=1)
    for position, name in enumerate(("liver", "spleen", "never"), start=1):
        p, g = (predicted == position) & (target != 4), target == position
        assert pseudo.dice()[name] == pytest.approx(2 * int((p & g).sum()) / int(p.sum() + g.sum()))


def test_mean_leaves_out_what_has_no_value():
    assert mean_dice({"a": 0.5, "b": None, "c": 1.0}) == pytest.approx(0.75)
    assert mean_dice({"a": None}) is None
    assert mean_dice({}) is None


def test_moving_average_starts_with_the_first_value_and_survives_an_epoch_without():
    assert moving_average(None, None) is None
    assert moving_average(None, 0.4) == 0.4
    assert moving_average(0.4, None) == 0.4
    assert moving_average(0.4, 0.9) == pytest.approx(0.45)
