"""A cascade's label map becomes channels, window by window."""

import numpy as np
import pytest
import torch

from autoseg.imaging.formats.volume import AnyArray
from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses, expand_label_map
from autoseg.inference.windows.sliding_window import stream_logits
from tests.builders import predict_logits


def identity(windows):
    return windows


@pytest.mark.parametrize("spatial", [(5, 6, 7), (6, 7)])
def test_indices_become_one_channel_each(spatial):
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2, 3, *spatial)).astype(np.float32)
    indices = generator.integers(0, 5, size=(2, 1, *spatial))
    windows = torch.from_numpy(np.concatenate([image, indices], axis=1).astype(np.float32))
    found = expand_label_map(windows, 4).numpy()
    np.testing.assert_array_equal(found[:, :3], image)
    np.testing.assert_array_equal(found[:, 3:], np.concatenate([indices == index for index in (1, 2, 3, 4)], axis=1))


def test_large_indices_are_not_rounded():
    labels = np.array([[[32767, 32766, 0]]], dtype=np.int16)
    channels: list[AnyArray] = [np.zeros((1, 1, 3), dtype=np.float32), labels]
    (found,) = stream_logits(identity, channels, (1, 1, 3), 2)
    np.testing.assert_array_equal(found[1], labels[0])


def test_a_whole_image_sees_the_same_as_with_channels_of_its_own():
    """Padding, windows and mirroring, against the label channels appended to the whole volume beforehand."""
    generator = torch.Generator().manual_seed(1)
    network = torch.nn.Conv3d(4, 2, 3, padding=1)
    image = torch.randn(1, 9, 5, 13, generator=generator)
    labels = torch.randint(0, 4, (9, 5, 13), generator=generator)
    channels = torch.stack([labels == index for index in (1, 2, 3)]).float()
    expected = predict_logits(network, torch.cat([image, channels]), (6, 8, 6), 2, (0, 2))
    joined = [image[0].numpy(), labels.numpy().astype(np.uint8)]
    found = stream_logits(NetworkPass(network, NetworkPasses(), num_labels=3), joined, (6, 8, 6), 2, (0, 2))
    torch.testing.assert_close(torch.stack(list(found), dim=1), expected)
