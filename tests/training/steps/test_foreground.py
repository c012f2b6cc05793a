import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.training.distributed import Ranks
from autoseg.training.steps.foreground import ForegroundWatch, join_findings

LABELS = make_encoding({"background": 0, "a": 1, "b": 2, "ignore": 9})
REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2}, (1, 2))


def logits_of(labels, heads, *, sigmoid=False):
    """Large where the head is that of the label."""
    first = 1 if sigmoid else 0
    return torch.stack([torch.where(labels == head, 3.0, -3.0) for head in range(first, heads + first)], dim=1)


@pytest.mark.parametrize(
    ("reference", "predicted", "found"),
    [(0, 0, None), (0, 1, None), (1, 0, "none"), (1, 1, "some"), (2, 1, "some"), (3, 0, None), (3, 2, None)],
)
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_one_voxel_counts(reference, predicted, found, shape):
    target, labels = torch.zeros(2, *shape, dtype=torch.int8), torch.zeros(2, *shape, dtype=torch.int8)
    target.view(-1)[7], labels.view(-1)[11] = reference, predicted
    watch = ForegroundWatch(LABELS)
    watch.add(logits_of(labels, 3), target)
    assert watch.take(Ranks()) == found
    assert watch.take(Ranks()) is None


@pytest.mark.parametrize(("predicted", "found"), [(0, "none"), (1, "some"), (2, "some")])
def test_regions(predicted, found):
    target, labels = torch.ones(1, 4, 5, dtype=torch.int8), torch.zeros(1, 4, 5, dtype=torch.int8)
    labels[0, 2, 3] = predicted
    watch = ForegroundWatch(REGIONS)
    watch.add(logits_of(labels, 2, sigmoid=True), target)
    assert watch.take(Ranks()) == found


def test_all_batches_count_together():
    empty, full = torch.zeros(1, 4, 5, dtype=torch.int8), torch.ones(1, 4, 5, dtype=torch.int8)
    watch = ForegroundWatch(LABELS)
    watch.add(logits_of(empty, 3), full)
    watch.add(logits_of(full, 3), empty)
    assert watch.take(Ranks()) == "some"


def test_what_training_and_validation_found():
    assert join_findings(None, None) is None
    assert join_findings("none", None) == join_findings(None, "none") == join_findings("none", "none") == "none"
    assert join_findings("none", "some") == join_findings("some", None) == "some"
