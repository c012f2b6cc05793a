"""Planes beside windows, and that prediction shows networks what training shows them."""

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from autoseg.inference.models.case_logits import stream_case_logits
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.windows.channel_presence import append_planes, list_presence
from autoseg.inference.windows.network_pass import choose_passes
from tests.training.small_cases import make_configuration


def test_planes_are_constant_over_the_window():
    windows = torch.randn((3, 2, 4, 5, 6))
    joined = append_planes(windows, (True, False))
    assert joined.shape == (3, 4, 4, 5, 6)
    torch.testing.assert_close(joined[:, :2], windows)
    assert joined[:, 2].min() == 1
    assert joined[:, 3].abs().max() == 0
    assert append_planes(windows, ()) is windows


def test_a_network_sees_the_planes_where_the_image_does_not_reach():
    configuration = make_configuration((8, 8, 8))
    network = configuration.network.model_copy(update={"input_channels": 4, "output_channels": 4})
    configuration = configuration.model_copy(update={"network": network, "channel_presence": True})
    assert list_presence(configuration, (1,)) == (True, False)
    assert list_presence(configuration.model_copy(update={"channel_presence": False}), (1,)) == ()
    passes = choose_passes("fp32", torch.device("cpu"), "instance", is_softmax=True)
    seen = []

    class AsItIs(nn.Module):
        @override
        def forward(self, windows):
            seen.append(windows)
            return windows

    loaded = LoadedConfiguration("3d_fullres", configuration, ("0",), (AsItIs(),), mirror_axes=(), passes=passes)
    image = np.ones((2, 5, 6, 7), dtype=np.float32)
    image[1] = 0
    logits = torch.stack(list(stream_case_logits(loaded, image, absent_channels=(1,))), dim=1)
    assert [float(head.mean()) for head in logits] == [1, 0, 1, 0]
    assert all(float(windows[:, 2].min()) == 1 and float(windows[:, 0].min()) == 0 for windows in seen)
