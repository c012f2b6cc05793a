"""Mirrored variants and their mean."""

import itertools

import pytest
import torch

from autoseg.inference.windows.mirrored_variants import mean_mirrored_logits, mirror_variants


def test_numbers_of_variants():
    assert mirror_variants(()) == ((),)
    assert mirror_variants((1, 0)) == ((), (0,), (1,), (0, 1))
    assert len(mirror_variants((0, 1, 2))) == 8
    assert mirror_variants((2,)) == ((), (2,))


@pytest.mark.parametrize("variants_per_pass", [1, 3, 8])
def test_mean_is_over_all_flips_mirrored_back(variants_per_pass):
    torch.manual_seed(0)
    kernel = torch.randn(2, 3, 3, 3, 3)  # not symmetric, so mirroring changes the answer
    windows = torch.randn(2, 3, 5, 7, 11)
    batches = []

    def forward(batch):
        batches.append(len(batch))
        return torch.nn.functional.conv3d(batch, kernel, padding=1)

    expected = torch.zeros(2, 2, 5, 7, 11)
    for use in itertools.product((False, True), repeat=3):
        axes = [axis + 2 for axis in range(3) if use[axis]]
        expected += torch.flip(forward(torch.flip(windows, axes)), axes) / 8
    batches.clear()
    found = mean_mirrored_logits(forward, windows, mirror_variants((0, 1, 2)), variants_per_pass)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert sum(batches) == 16
    assert max(batches) == 2 * variants_per_pass


def test_without_variants_is_refused():
    with pytest.raises(ValueError, match="at least one variant"):
        mean_mirrored_logits(lambda batch: batch, torch.zeros(1, 1, 2, 2), (), 1)
