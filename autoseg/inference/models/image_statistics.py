"""Networks that take half of their statistics of normalisation from the image that they predict.

Batch normalisation divides by what training images had; in an image of another scanner features lie elsewhere. The
windows of the image go through copies of the networks once, one at a time, before they are predicted.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoseg.inference.models.case_logits import stream_case_logits
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.windows.pass_trials import BatchTrial
from autoseg.inference.windows.sliding_window import WindowSettings

IMAGE_FRACTION = 0.5
"""Part of the statistics that is the image's; the rest stays that of training."""


def has_statistics(members: Iterable[LoadedConfiguration]) -> bool:
    """Whether a network, or one of an earlier step of a cascade, keeps statistics of its training images."""
    return any(
        any(True for network in member.networks for _ in _find_layers(network))
        or (member.previous is not None and has_statistics([member.previous]))
        for member in members
    )


def with_image_statistics(
    loaded: LoadedConfiguration,
    image: NDArray[np.float32],
    previous: NDArray[np.integer] | None,
    settings: WindowSettings,
    absent_channels: Sequence[int] = (),
) -> LoadedConfiguration:
    """The same configuration with networks for this image alone; itself where they keep no statistics.

    Args:
        loaded: Networks, which are not changed.
        image: (C, Z, Y, X), preprocessed.
        previous: Label indices of a cascade's previous step on the same grid, (Z, Y, X); None without a cascade.
        settings: How windows cover the image.
        absent_channels: Numbers of the channels that the image lacks.

    References:
        Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift adaptation": a
        weighted mean of statistics of training and of new images. Differs: of a single image, whose windows are the
        batch; both weigh the same.
    """
    networks = tuple(copy.deepcopy(network) for network in loaded.networks)
    layers = [layer for network in networks for layer in _find_layers(network)]
    if not layers:
        return loaded
    trained = [(_known(layer.running_mean).clone(), _known(layer.running_var).clone()) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all windows
        layer.train()
    alone = replace(loaded.passes, dtype=torch.float32, trial=None, batch=BatchTrial(limit=1), seen=Counter())
    reading = replace(loaded, networks=networks, passes=alone)
    for _ in stream_case_logits(reading, image, previous, replace(settings, mirroring=False), absent_channels):
        pass  # only the statistics are wanted
    for layer, (mean, variance) in zip(layers, trained, strict=True):
        layer.eval()
        _known(layer.running_mean).lerp_(mean, 1 - IMAGE_FRACTION)
        _known(layer.running_var).lerp_(variance, 1 - IMAGE_FRACTION)
    return replace(loaded, networks=networks)


def _find_layers(network: nn.Module) -> Iterator[_BatchNorm]:
    for layer in network.modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            yield layer


def _known(statistic: torch.Tensor | None) -> torch.Tensor:
    if statistic is None:
        raise ValueError("a layer of normalisation keeps a mean and no variance")
    return statistic
