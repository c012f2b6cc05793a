"""How long the prediction of a median case may take, and which network keeps to it.

Called for every size that a planner considers, when the budget names a latency.

Example: median shape 138 x 169 x 138, patch 128 x 128 x 128, windows that overlap by half: 2 x 2 x 2 = 8 windows. At
0.4 s per window the network needs 3.2 s; of a latency of 5 s it may take 70 %, 3.5 s, so it is fast enough.

References:
    Own rule; windows as in nnU-Net v2 (Isensee et al., Nature Methods 2021): overlap of one half.
"""

import math
from collections.abc import Sequence

from autoseg.records.budget import Budget
from autoseg.records.network import NetworkSpec
from planners.rules.speed import forward_seconds

OVERLAP = 0.5
"""Of neighbouring windows: prediction's default."""

RESERVED_FRACTION = 0.3
"""Of the latency, kept for reading, resampling and writing."""


def prediction_seconds(
    budget: Budget, network: NetworkSpec, patch_size: Sequence[int], image_shape: Sequence[float], passes: int
) -> float:
    """Expected network time for one image.

    Args:
        budget: Its measured throughput.
        network: 2D or 3D.
        patch_size: (z, y, x) or (y, x), voxels.
        image_shape: (z, y, x) at the configuration's spacing; a 2D network predicts slice by slice.
        passes: Mirrored variants per window, 1 for none.
    """
    windows = count_windows(image_shape, patch_size)
    return windows * passes * forward_seconds(budget, network, patch_size)


def count_windows(image_shape: Sequence[float], patch_size: Sequence[int]) -> int:
    """Windows that cover an image; every slice has its own for a 2D patch.

    Examples:
        >>> count_windows((138, 169, 138), (128, 128, 128)), count_windows((10, 256, 256), (256, 256))
        (8, 10)
    """
    slices = math.ceil(image_shape[0]) if len(patch_size) == 2 else 1
    in_patch_axes = image_shape[-len(patch_size) :]
    return slices * math.prod(
        max(math.ceil((size - edge) / (edge * (1 - OVERLAP))), 0) + 1
        for size, edge in zip(in_patch_axes, patch_size, strict=True)
    )


def keeps_latency(budget: Budget, seconds: float) -> bool:
    """Whether a network time leaves room for the rest; always, without a latency."""
    return budget.latency_seconds is None or seconds <= budget.latency_seconds * (1 - RESERVED_FRACTION)


def needed_latency(network_seconds: float) -> float:
    """Latency that a network time fits in, seconds, rounded up to a tenth."""
    tenths = math.ceil(network_seconds / (1 - RESERVED_FRACTION) * 10)
    fits = network_seconds <= tenths / 10 * (1 - RESERVED_FRACTION)
    return tenths / 10 if fits else (tenths + 1) / 10  # one rounding error can be in the way


def explain_latency(budget: Budget, seconds: float) -> str:
    """The reason, for a user."""
    return (
        f"A median case takes the network about {seconds:.2g} s; with {RESERVED_FRACTION:.0%} kept for reading, "
        f"resampling and writing, that is within {budget.latency_seconds:g} s."
    )
