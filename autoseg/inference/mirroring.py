"""Test-time mirroring: the mean of a network's answers to all mirrored versions of its input."""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]
"""A network at prediction: (B, C, *spatial) -> logits (B, K, *spatial)."""


def mirror_variants(mirror_axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """All subsets of the axes, the empty one first: 8 for three axes, 4 for two, 1 for none."""
    axes = tuple(sorted(set(mirror_axes)))
    return tuple(subset for size in range(len(axes) + 1) for subset in combinations(axes, size))


def mean_mirrored_logits(
    forward: Forward, windows: Tensor, variants: Sequence[tuple[int, ...]], variants_per_pass: int
) -> Tensor:
    """Mean of the logits over mirrored variants, each mirrored back.

    Args:
        forward: The network.
        windows: (B, C, *spatial).
        variants: Spatial axes to flip, 0 being the first spatial axis; see `mirror_variants`.
        variants_per_pass: Variants that go through the network as one batch of B * variants_per_pass windows.

    Returns:
        (B, K, *spatial), float32.

    References:
        nnU-Net v2 (Isensee et al. 2021): mirroring along all axes mirrored in training, logits averaged.
    """
    flips = [tuple(axis + 2 for axis in variant) for variant in variants]
    total: Tensor | None = None
    for first in range(0, len(flips), variants_per_pass):
        group = flips[first : first + variants_per_pass]
        logits = forward(torch.cat([torch.flip(windows, axes) for axes in group]) if group != [()] else windows)
        for axes, part in zip(group, logits.float().chunk(len(group)), strict=True):
            unmirrored = torch.flip(part, axes) if axes else part
            total = unmirrored if total is None else total.add_(unmirrored)
    if total is None:
        raise ValueError("there must be at least one variant; the empty one means no mirroring")
    return total.div_(len(flips))
