"""Mirrored variants and their mean."""

import itertools

import pytest
import torch

from autoseg.inference.windows.mirrored_variants import mean_mirrored_logits, mirror_variants, sum_unmirrored
from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses
from autoseg.records.sides import SideSwap


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


SWAP = SideSwap(axis=1, labels=(0, 3, 2, 1, 4), heads=(0, 3, 2, 1))


def swapped(logits, axis):
    """Mirrored, with the heads 1 and 3 in each other's place."""
    return torch.flip(logits, [axis + 2])[:, [0, 3, 2, 1]]


@pytest.mark.parametrize("axes", [(1,), (0, 1), (0,)])
@pytest.mark.parametrize("shape", [(5, 8), (3, 5, 8)])
@pytest.mark.parametrize("variants_per_pass", [1, 4])
def test_a_mirrored_image_gives_mirrored_logits_with_swapped_sides(axes, shape, variants_per_pass):
    torch.manual_seed(1)
    convolve = torch.nn.functional.conv2d if len(shape) == 2 else torch.nn.functional.conv3d
    kernel = torch.randn(4, 2, *(3,) * len(shape))
    windows = torch.randn(2, 2, *shape)

    def predict(image):
        def forward(batch):
            return convolve(batch, kernel, padding=1)

        return mean_mirrored_logits(forward, image, mirror_variants(axes), variants_per_pass, SWAP)

    expected, found = swapped(predict(windows), 1), predict(torch.flip(windows, [3]))
    if axes == (1,):
        assert torch.equal(found, expected)  # a sum of two
    elif 1 in axes:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    else:
        assert not torch.allclose(found, expected, atol=1e-2)  # what is not mirrored is not swapped


def test_a_cascade_gets_the_swapped_label_map_in_mirrored_windows():
    torch.manual_seed(2)
    kernel = torch.randn(4, 4, 3, 3, 3)  # an image channel and three labels
    image, labels = torch.randn(1, 1, 4, 6, 5), torch.randint(0, 4, (1, 1, 4, 6, 5))
    windows = torch.cat([image, labels.float()], dim=1)
    forward = NetworkPass(
        lambda batch: torch.nn.functional.conv3d(batch, kernel, padding=1), NetworkPasses(), num_labels=3
    )

    def predict(batch):
        return mean_mirrored_logits(forward, batch, mirror_variants((1,)), 2, SWAP, has_label_map=True)

    there = torch.flip(windows, [3])
    there[:, -1] = torch.where(there[:, -1] % 2 == 1, 4 - there[:, -1], there[:, -1])  # 1 <-> 3
    assert torch.equal(predict(there), swapped(predict(windows), 1))


def test_the_sum_is_by_hand():
    logits = torch.arange(2 * 4 * 1 * 3, dtype=torch.float16).reshape(2, 4, 1, 3)
    expected = logits[:1].numpy() + logits[1:].numpy()[:, [0, 3, 2, 1], :, ::-1]
    found = sum_unmirrored(logits, ((), (1,)), SWAP)
    assert found.dtype == torch.float32
    assert found.tolist() == expected.tolist()
