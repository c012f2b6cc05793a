"""A cascade's second network sees, beside the image, the label map of the first, one channel per foreground label.

The map travels as one channel of label indices, beside the image's, and becomes many channels window by window: a
volume of one channel per label never exists.
"""

import torch
from torch import Tensor

from autoseg.inference.mirroring import Forward


def expand_label_map(forward: Forward, num_labels: int) -> Forward:
    """A network pass that replaces the last channel, label indices, by one 0/1 channel for each index from 1.

    Index 0, background, gets no channel; neither does the padding of windows, which is 0.

    Args:
        forward: Takes (B, C + num_labels, *spatial).
        num_labels: Foreground labels; labels, even where the heads are regions.

    Returns:
        Takes (B, C + 1, *spatial).

    References:
        nnU-Net v2 (Isensee et al. 2021), cascade.
    """

    def run(windows: Tensor) -> Tensor:
        indices = torch.arange(1, num_labels + 1, device=windows.device).reshape(-1, *[1] * (windows.ndim - 2))
        channels = windows[:, -1:] == indices
        return forward(torch.cat([windows[:, :-1], channels.to(windows.dtype)], dim=1))

    return run
