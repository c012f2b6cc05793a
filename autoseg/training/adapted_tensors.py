"""Tensors of one network for another one: rows of heads, kernels of inputs, larger kernels.

Called by the transfer of weights, for the tensors whose meaning or shape differs.
Tested in tests/training/test_transfer.py.
"""

from collections.abc import Sequence
from math import prod
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Names: TypeAlias = Sequence[str]


def adapt_heads(source: Tensor, start: Tensor, old: Names, new: Names) -> Tensor | None:
    """Rows by the names of the heads, (K_old * R, ...) -> (K_new * R, ...); None: no row fits."""
    rows, rest = divmod(len(source), len(old))
    if rest or len(start) != rows * len(new) or source.shape[1:] != start.shape[1:] or not set(old) & set(new):
        return None
    found, fresh = (each.reshape(-1, rows, *each.shape[1:]) for each in (source, start))
    kept = [found[old.index(name)] if name in old else fresh[position] for position, name in enumerate(new)]
    return torch.cat(kept)


def enlarge_kernels(kernels: Tensor, shape: Sequence[int]) -> Tensor:
    """Depthwise kernels (F, 1, *K) interpolated linearly to a larger shape, with the same response on even images.

    Kernels stay as they are, so that they do not fit, if an axis becomes smaller, or had one voxel, which says nothing
    of its neighbours.

    References:
        Roy et al., "MedNeXt", MICCAI 2023, section 2.3 (UpKern). Differs: kernels are divided by how many times as many
        voxels they have; where a norm follows, as in MedNeXt, that changes nothing.
    """
    old = kernels.shape[2:]
    if any(after < before or after > before == 1 for after, before in zip(shape, old, strict=True)):
        return kernels
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    larger = F.interpolate(kernels, size=tuple(shape), mode=mode, align_corners=False)
    return larger * (prod(old) / prod(shape))


def adapt_inputs(source: Tensor, old: tuple[Names, Names], new: tuple[Names, Names]) -> Tensor:
    """Kernels by the names of the inputs, (F, C_old, *K) -> (F, C_new, *K).

    Args:
        source: Kernels of the first convolution, for the channels of the image and then for what follows them.
        old: Names of the channels and of the further inputs that the kernels are for.
        new: The same of the network that gets them. A new channel begins with the mean over all old ones, a new
            further input with zeros.
    """
    (old_channels, old_others), (channels, further) = old, new
    images, others = source[:, : len(old_channels)], source[:, len(old_channels) :]
    mean = images.mean(dim=1)
    kernels = [images[:, old_channels.index(name)] if name in old_channels else mean for name in channels]
    if not set(channels) <= set(old_channels):
        kernels = [kernel * (len(old_channels) / len(kernels)) for kernel in kernels]
    kernels += [others[:, old_others.index(name)] if name in old_others else torch.zeros_like(mean) for name in further]
    return torch.stack(kernels, dim=1)
