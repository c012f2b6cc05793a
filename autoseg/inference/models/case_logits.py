"""Logits of one case from the networks of a configuration, slice by slice.

Tested in tests/inference/models/test_stream.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.arrays.storage import StoredCase
from autoseg.imaging.formats.volume import AnyArray
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.restoring.restore import LogitStream
from autoseg.inference.windows.channel_presence import list_presence
from autoseg.inference.windows.click_channels import no_clicks
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.neighbor_slices import append_neighbors
from autoseg.inference.windows.network_pass import NetworkPass, mean_forward
from autoseg.inference.windows.sliding_window import WindowSettings, stream_logits

MAX_FLOAT16 = torch.finfo(torch.float16).max


def stream_case_logits(
    loaded: LoadedConfiguration,
    image: NDArray[np.float32],
    previous: AnyArray | None = None,
    settings: WindowSettings | None = None,
    absent_channels: Sequence[int] = (),
    clicks: Sequence[AnyArray] = (),
) -> Iterator[Tensor]:
    """Mean logits of one configuration's networks, slice by slice.

    Args:
        loaded: Networks, and the device and precision in which they compute.
        image: (C, Z, Y, X), preprocessed; neighbouring slices are appended where the configuration has some.
        previous: Label indices of a cascade's previous step on the same grid, (Z, Y, X); None without a cascade.
        settings: How windows cover the image; None: the defaults, with sums beside the networks.
        absent_channels: Numbers of the channels that the image lacks.
        clicks: Channels of clicks, (Z, Y, X), one for each label; where the configuration has them and none are given
            there is no click.

    Returns:
        Z times (K, Y, X), where the sums are kept, first to last, in the configuration's `logits_precision`. The
        networks run while these are asked for.

    References:
        nnU-Net v2 (Isensee et al. 2021) keeps logits in float16. Differs, where a plan asks for it: windows are summed
        in float32, and only the finished logits are rounded; those beyond float16's range become its largest.
    """
    settings = settings or WindowSettings(storage=SlabStorage("device"))
    storage = replace(settings.storage, device=loaded.passes.device)
    settings = replace(settings, storage=storage, swap=loaded.swap, has_label_map=previous is not None)
    configuration = loaded.configuration
    mirror_axes = loaded.mirror_axes if settings.mirroring else ()
    channels: list[AnyArray] = [*append_neighbors(list(image), configuration.neighbor_slices)]
    if previous is not None:
        channels += list(clicks) or no_clicks(configuration, len(channels), image.shape[1:])
        channels.append(previous)
    presence = list_presence(configuration, absent_channels)
    num_inputs = configuration.network.input_channels - len(presence)
    num_labels = 0 if previous is None else num_inputs - len(channels) + 1
    forward = NetworkPass(
        mean_forward(loaded.networks), loaded.passes,
        num_labels=num_labels, mirror_axes=mirror_axes, swap=loaded.swap, presence=presence,
    )  # fmt: skip
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


def stream_stored_case(
    loaded: LoadedConfiguration, stored: StoredCase, previous: AnyArray | None = None
) -> LogitStream:
    """Mean logits of a stored case, as one stream with what is needed to bring them to the image's own grid.

    Args:
        loaded: Networks, and the device and precision in which they compute.
        stored: Preprocessed case of the same configuration.
        previous: Label indices of a cascade's previous step on the same grid, (Z, Y, X); None without a cascade.
    """
    absent = stored.record.absent_channels
    slices = stream_case_logits(loaded, stored.read_image(), previous, absent_channels=absent)
    return LogitStream(slices, stored.record, loaded.configuration.resampling, loaded.weight)
