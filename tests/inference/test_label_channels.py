"""A cascade's label map becomes channels, window by window."""

import numpy as np
import pytest
import torch

from autoseg.inference.label_channels import append_label_map, expand_label_map
from autoseg.inference.sliding_window import predict_logits


def identity(windows):
    return windows


@pytest.mark.parametrize("spatial", [(5, 6, 7), (6, 7)])
def test_indices_become_one_channel_each(spatial):
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2, 3, *spatial)).astype(np.float32)
    indices = generator.integers(0, 5, size=(2, 1, *spatial))
    windows = torch.from_numpy(np.concatenate([image, indices], axis=1).astype(np.float32))
    found = expand_label_map(identity, 4)(windows).numpy()
    np.testing.assert_array_equal(found[:, :3], image)
    np.testing.assert_array_equal(found[:, 3:], np.concatenate([indices == index for index in (1, 2, 3, 4)], axis=1))


def test_large_indices_are_not_rounded():
    labels = np.array([[[32767, 32766, 0]]], dtype=np.int16)
    joined = append_label_map(np.zeros((1, 1, 1, 3), dtype=np.float32), labels)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined[1], labels)


def test_a_whole_image_sees_the_same_as_with_channels_of_its_own():
    """Padding, windows and mirroring, against the label channels appended to the whole volume beforehand."""
    generator = torch.Generator().manual_seed(1)
    network = torch.nn.Conv3d(4, 2, 3, padding=1)
    image = torch.randn(1, 9, 5, 13, generator=generator)
    labels = torch.randint(0, 4, (9, 5, 13), generator=generator)
    channels = torch.stack([labels == index for index in (1, 2, 3)]).float()
    expected = predict_logits(network, torch.cat([image, channels]), (6, 8, 6), 2, (0, 2))
    joined = torch.from_numpy(append_label_map(image.numpy(), labels.numpy().astype(np.int16)))
    found = predict_logits(expand_label_map(network, 3), joined, (6, 8, 6), 2, (0, 2))
    torch.testing.assert_close(found, expected)
