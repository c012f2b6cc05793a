"""What goes through the networks for one batch of windows: mirrored variants, several folds, label maps as channels."""

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
        logits = sum_unmirrored(forward(batch), group)
        total = logits if total is None else total.add_(logits)
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


def mean_forward(forwards: Sequence[Forward]) -> Forward:
    """A network pass whose logits are the mean over several networks.

    Blending windows is linear, so averaging each batch gives the same as averaging whole volumes, and only one
    volume of logits exists whatever the number of folds.

    Args:
        forwards: Networks with the same heads; at least one.

    Raises:
        ValueError: If there is none.

    References:
        nnU-Net v2 (Isensee et al. 2021): logits, not probabilities, are averaged over folds.
    """
    if not forwards:
        raise ValueError("an ensemble needs at least one network")
    first, *others = forwards
    if not others:
        return first

    def forward(windows: Tensor) -> Tensor:
        total = first(windows).to(torch.float32, copy=True)
        for other in others:
            total += other(windows)
        return total.div_(len(forwards))

    return forward


def expand_label_map(windows: Tensor, num_labels: int) -> Tensor:
    """Windows with one 0/1 channel for each label index from 1, in place of their last channel, label indices.

    Index 0, background, gets no channel; neither does the padding of windows, which is 0.

    Args:
        windows: (B, C + 1, *spatial).
        num_labels: Foreground labels; labels, even where the heads are regions.

    Returns:
        (B, C + num_labels, *spatial).

    References:
        nnU-Net v2 (Isensee et al. 2021), cascade.
    """
    indices = torch.arange(1, num_labels + 1, device=windows.device).reshape(-1, *[1] * (windows.ndim - 2))
    channels = windows[:, -1:] == indices
    return torch.cat([windows[:, :-1], channels.to(windows.dtype)], dim=1)
