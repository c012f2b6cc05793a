"""Statistics of normalisation from an image: half of each, computed by hand for a network of one layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoseg.inference.models.image_statistics import has_statistics, with_image_statistics
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.windows.sliding_window import WindowSettings
from tests.builders import make_configuration

PATCH = (4, 6, 8)


def make_loaded(*layers):
    configuration = make_configuration(patch_size=PATCH)
    heads = configuration.network.output_channels
    network = nn.Sequential(*layers, nn.Conv3d(configuration.network.input_channels, heads, 1)).eval()
    return LoadedConfiguration("3d_fullres", configuration, ("0",), (network,), ())


def statistics_of(loaded):
    state = loaded.networks[0].state_dict()
    return state["0.running_mean"].item(), state["0.running_var"].item()


def test_means_and_variances_over_the_windows_of_the_image():
    image = np.random.default_rng(0).normal(7, 3, (1, 4, 6, 16)).astype(np.float32)
    loaded = make_loaded(nn.BatchNorm3d(1))
    with torch.inference_mode():
        adapted = with_image_statistics(loaded, image, None, WindowSettings(overlap=0.0))
    windows = [image[..., :8], image[..., 8:]]
    mean = 0.5 * np.mean([part.mean() for part in windows])
    variance = 0.5 * (1 + np.mean([part.var(ddof=1) for part in windows]))
    assert statistics_of(adapted) == pytest.approx((mean, variance), rel=1e-4)
    assert not any(layer.training for layer in adapted.networks[0].modules())
    assert statistics_of(loaded) == (0, 1)


def test_networks_that_keep_no_statistics_stay():
    loaded = make_loaded(nn.InstanceNorm3d(1))
    assert with_image_statistics(loaded, np.ones((1, 4, 6, 8), np.float32), None, WindowSettings()) is loaded
    assert not has_statistics([loaded])


def test_earlier_steps_of_a_cascade_count():
    loaded = replace(make_loaded(nn.InstanceNorm3d(1)), previous=make_loaded(nn.BatchNorm3d(1)))
    assert has_statistics([loaded])
