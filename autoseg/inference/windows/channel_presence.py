"""Planes that tell a network which channels an image has, for models whose images may lack some.

They are constant over a whole window, also where it reaches beyond the image, as in training; so they are made from a
few numbers when a window is predicted, and no volume of them exists.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.records.plan import Configuration, count_presence_planes


def list_presence(configuration: Configuration, absent_channels: Sequence[int]) -> tuple[bool, ...]:
    """Whether an image has each channel, as the network is told; empty for one whose images have all channels.

    Args:
        configuration: Configuration of the network.
        absent_channels: Numbers of the channels that the image lacks.
    """
    return tuple(channel not in absent_channels for channel in range(count_presence_planes(configuration)))


def append_planes(windows: Tensor, presence: Sequence[bool]) -> Tensor:
    """Windows with a constant plane for each channel that may be missing, 1 where the image has it.

    Args:
        windows: (B, C, *spatial).
        presence: Whether the image has each of P channels; empty: windows stay as they are.

    Returns:
        (B, C + P, *spatial).
    """
    if not presence:
        return windows
    values = torch.tensor(presence, dtype=windows.dtype, device=windows.device)
    spatial = windows.shape[2:]
    planes = values.reshape(1, -1, *[1] * len(spatial)).expand(len(windows), -1, *spatial)
    return torch.cat([windows, planes], dim=1)
