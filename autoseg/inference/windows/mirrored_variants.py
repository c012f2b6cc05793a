"""Mirrored variants of windows: what the network is given, and how its logits come back.

    window -> mirrored -> network -> mirrored back -> sum

Where a variant is mirrored from left to right and labels have sides, the heads of each pair change places on the way
back, and in a cascade the labels of the previous step on the way there. The mean is then equivariant: the logits of a
mirrored image, sides swapped, are those of the image, mirrored and with sides swapped.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from autoseg.records.sides import SideSwap

Forward = Callable[[Tensor], Tensor]
"""A network at prediction: (B, C, *spatial) -> logits (B, K, *spatial)."""

Variant = tuple[int, ...]
"""Spatial axes that are mirrored, 0 being the first spatial axis."""


def mirror_variants(mirror_axes: Sequence[int]) -> tuple[Variant, ...]:
    """All subsets of the axes, the empty one first: 8 for three axes, 4 for two, 1 for none."""
    axes = tuple(sorted(set(mirror_axes)))
    return tuple(subset for size in range(len(axes) + 1) for subset in combinations(axes, size))


def mean_mirrored_logits(
    forward: Forward,
    windows: Tensor,
    variants: Sequence[Variant],
    variants_per_pass: int,
    swap: SideSwap | None = None,
    *,
    has_label_map: bool = False,
) -> Tensor:
    """Mean of the logits over mirrored variants, each mirrored back.

    Args:
        forward: The network.
        windows: (B, C, *spatial).
        variants: Spatial axes to flip; see `mirror_variants`.
        variants_per_pass: Variants that go through the network as one batch of B * variants_per_pass windows.
        swap: What changes places where its axis is mirrored; None: nothing does.
        has_label_map: Whether the last channel holds a cascade's label indices, which `swap` concerns too.

    Returns:
        (B, K, *spatial), float32.

    References:
        nnU-Net v2 (Isensee et al. 2021): mirroring along all axes mirrored in training, logits averaged. Differs:
        labels with a side change places.
    """
    total: Tensor | None = None
    for first in range(0, len(variants), variants_per_pass):
        group = variants[first : first + variants_per_pass]
        batch = windows
        if tuple(group) != ((),):
            batch = torch.cat([_mirror_window(windows, variant, swap if has_label_map else None) for variant in group])
        logits = sum_unmirrored(forward(batch), group, swap)
        total = logits if total is None else total.add_(logits)
    if total is None:
        raise ValueError("there must be at least one variant; the empty one means no mirroring")
    return total.div_(len(variants))


def sum_unmirrored(logits: Tensor, variants: Sequence[Variant], swap: SideSwap | None = None) -> Tensor:
    """Sum over mirrored variants, each mirrored back: (variants * B, K, *spatial) -> (B, K, *spatial), float32.

    Args:
        logits: All of the first variant, then all of the second, and so on.
        variants: See `mean_mirrored_logits`.
        swap: Heads that change places where its axis is mirrored; None: none do.
    """
    first, *others = logits.chunk(len(variants))
    total = _unmirror(first, variants[0], swap).to(torch.float32, copy=not variants[0])
    for variant, part in zip(variants[1:], others, strict=True):
        total += _unmirror(part, variant, swap)
    return total


def _unmirror(logits: Tensor, variant: Variant, swap: SideSwap | None) -> Tensor:
    """Logits of a mirrored window, mirrored back, with the heads of each side in the place of the other's."""
    if swap is not None and swap.axis in variant:
        logits = logits[:, list(swap.heads)]
    return _mirror(logits, variant)


def _mirror_window(windows: Tensor, variant: Variant, swap: SideSwap | None) -> Tensor:
    """Mirrored windows, with swapped label indices in their last channel where there is a swap."""
    mirrored = _mirror(windows, variant)
    if swap is None or swap.axis not in variant:
        return mirrored
    labels = torch.tensor(swap.labels, dtype=mirrored.dtype, device=mirrored.device)
    mirrored[:, -1] = labels[mirrored[:, -1].long()]
    return mirrored


def _mirror(tensor: Tensor, variant: Variant) -> Tensor:
    """A copy with the spatial axes flipped; the tensor itself where there is none."""
    return torch.flip(tensor, [axis + 2 for axis in variant]) if variant else tensor
