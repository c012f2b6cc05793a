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
    total: Tensor | None = None
    for first in range(0, len(variants), variants_per_pass):
        group = variants[first : first + variants_per_pass]
        batch = torch.cat([_mirror(windows, variant) for variant in group]) if tuple(group) != ((),) else windows
        answer = sum_unmirrored(forward(batch), group)
        total = answer if total is None else total.add_(answer)
    if total is None:
        raise ValueError("there must be at least one variant; the empty one means no mirroring")
    return total.div_(len(variants))


def sum_unmirrored(logits: Tensor, variants: Sequence[tuple[int, ...]]) -> Tensor:
    """Sum over mirrored variants, each mirrored back: (variants * B, K, *spatial) -> (B, K, *spatial), float32.

    Args:
        logits: All of the first variant, then all of the second, and so on.
        variants: See `mean_mirrored_logits`.
    """
    first, *others = logits.chunk(len(variants))
    total = _mirror(first, variants[0]).to(torch.float32, copy=not variants[0])
    for variant, part in zip(variants[1:], others, strict=True):
        total += _mirror(part, variant)
    return total


def _mirror(tensor: Tensor, variant: tuple[int, ...]) -> Tensor:
    """A copy with the spatial axes flipped; the tensor itself where there is none."""
    return torch.flip(tensor, [axis + 2 for axis in variant]) if variant else tensor
