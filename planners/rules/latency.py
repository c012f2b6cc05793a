"""How long the prediction of a median case may take, and which network keeps to it.

Called for every size that a planner considers, when the budget names a latency.

Example: median shape 138 x 169 x 138, patch 128 x 128 x 128, windows that overlap by half: 2 x 2 x 2 = 8 windows. At
0.4 s per window the network needs 3.2 s; of a latency of 5 s it may take 70 %, 3.5 s, so it is fast enough.

References:
    Own rule; windows as in nnU-Net v2 (Isensee et al., Nature Methods 2021): overlap of one half.
"""

import math
from collections.abc import Sequence

from autoseg.costs.windows import count_windows
from autoseg.errors import BudgetError
from autoseg.records.budget import Budget
from autoseg.records.network import NetworkSpec
from planners.rules.speed import forward_seconds

RESERVED_FRACTION = 0.3
"""Part of the latency that is kept for reading, resampling and writing."""


def prediction_seconds(
    budget: Budget, network: NetworkSpec, patch_size: Sequence[int], image_shape: Sequence[float], passes: int = 1
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


def refuse_latency(budget: Budget, fastest_seconds: float, dimensions: int) -> BudgetError:
    """The error where not even the fastest network keeps the latency; names the latency that would do."""
    needed = needed_latency(fastest_seconds)
    return BudgetError(
        f"No {dimensions}D network of this planner predicts a median case within {budget.latency_seconds:g} s: the "
        f"fastest needs {needed:.10g} s. Give more with --latency.",
        "--latency",
        needed,
    )
