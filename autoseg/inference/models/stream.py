"""One preprocessed case and one configuration: logits on the network's grid. Used at prediction and by training."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.formats.volume import AnyArray
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.windows.forwards import mean_forward
from autoseg.inference.windows.network_pass import NetworkPass
from autoseg.inference.windows.sliding_window import WindowSettings, stream_logits

MAX_FLOAT16 = torch.finfo(torch.float16).max


def stream_case_logits(
    loaded: LoadedConfiguration,
    image: NDArray[np.float32],
    previous: AnyArray | None = None,
    settings: WindowSettings | None = None,
) -> Iterator[Tensor]:
    """Mean logits of one configuration's networks, slice by slice.

    Args:
        loaded: Networks, and the device and precision in which they compute.
        image: (C, Z, Y, X), preprocessed.
        previous: Label indices of a cascade's previous step on the same grid, (Z, Y, X); None without a cascade.
        settings: How windows cover the image; None: the defaults.

    Returns:
        Z times (K, Y, X), on the CPU, first to last, in the configuration's `logits_precision`. The networks run while
        these are asked for.

    References:
        nnU-Net v2 (Isensee et al. 2021) keeps logits in float16. Differs, where a plan asks for it: windows are summed
        in float32, and only the finished logits are rounded; those beyond float16's range become its largest.
    """
    settings = settings or WindowSettings()
    configuration = loaded.configuration
    mirror_axes = loaded.mirror_axes if settings.mirroring else ()
    channels = list(image) if previous is None else [*image, previous]
    num_labels = 0 if previous is None else configuration.network.input_channels - len(image)
    forward = NetworkPass(mean_forward(loaded.networks), loaded.passes, num_labels=num_labels, mirror_axes=mirror_axes)
    slices = stream_logits(
        forward,
        channels,
        configuration.patch_size,
        configuration.network.output_channels,
        mirror_axes,
        settings,
    )
    if configuration.logits_precision == "float32":
        return slices
    return (logits.clamp_(-MAX_FLOAT16, MAX_FLOAT16).to(torch.float16) for logits in slices)
