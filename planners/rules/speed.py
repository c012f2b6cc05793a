"""How fast the device trains and predicts with a network, and how a network is made smaller until it is fast enough.

Called for every size that a planner considers when the budget names a time per fold or a latency, and always for a
CPU. Speed is measured where the budget says so, assumed otherwise. Sizes start from the patch and batch that the memory
allows and only become smaller: first a narrower network, then smaller batches, then smaller patches, because context is
worth more than the rest.

Example: a U-Net of 8 feature maps was measured at 2e10 multiply-accumulates per second of a whole training step, one
of 32 at 6e10. 16 feature maps lie halfway in the logarithm: 4e10. A batch of 4 patches at 1.5e9
multiply-accumulates each takes 0.15 s.

Example on a GPU, where launching an operation takes the same time however small it is: a step of a small patch took
20 ms for 0.02e12 multiply-accumulates, one of a large patch 80 ms for 0.42e12. So the device does 0.4e12 in 60 ms,
6.7e12 per second, and 17 ms are launches, 0.3 ms for each of 57 operations. A planned network of 80 operations and
0.95e12 multiply-accumulates takes 24 + 143 ms. The small patch alone would have given 1e12 per second, 950 ms.

Example of a latency: median shape 138 x 169 x 138, patch 128 x 128 x 128, windows that overlap by half: 2 x 2 x 2 = 8
windows. At 0.4 s per window the network needs 3.2 s; of a latency of 5 s it may take 70 %, 3.5 s, so it is fast enough.

Example of a time per fold: 600 s, of which 480 s are for training; a network of 8 feature maps and batch 4 needs
4 * 1.5e9 multiply-accumulates per step, and the device does 2e10 per second: 0.3 s per step, 1,600 steps before
validation is counted, more than the 1,500 wanted. With 16 feature maps (about 4 times as many) only 400 steps would
remain, so 8 are taken.

References:
    Own rule; windows as in nnU-Net v2 (Isensee et al., Nature Methods 2021): overlap of one half. The shape of the
    network follows it at every width.

Tested in tests/planners/rules/test_speed.py and tests/planners/rules/test_schedule.py.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

from autoseg.costs.architectures import ARCHITECTURES, FORWARD_FRACTION, forward_macs, list_operations
from autoseg.costs.detection import at_prediction
from autoseg.costs.parts import relative_speed_of_parts
from autoseg.costs.windows import count_windows
from autoseg.errors import BudgetError
from autoseg.records.budget import Budget, Throughput
from autoseg.records.network import NetworkSpec
from planners.rules import Decided
from planners.rules.topology import MIN_EDGE, Depth, Topology, compute_topology

ASSUMED_MACS_PER_SECOND = {"cpu": 10e9, "cuda": 1e12, "mps": 0.2e12, "xpu": 1e12}
"""Without a measurement: what two slow cores, or a small graphics card, do in a whole step of a plain U-Net. Apple's
GPUs compute in float32 and share the memory of the processor; a fifth is a guess."""

RESERVED_FRACTION = 0.3
"""Part of the latency that is kept for reading, resampling and writing."""

MIN_STEPS = 600
"""With fewer steps a network is not trained well: the smallest one gets a smaller patch, or the plan says so."""

WANTED_STEPS = 1500
"""A wider network is taken only if it gets so many steps: with fewer, a narrower one trained longer is better."""

MAX_BATCH = {2: 12, 3: 2}
"""Largest batch by dimension: with limited time more steps help more than larger batches. Hippocampus, 2.5 minutes on
two cores: batch 4 gave a mean Dice of 0.870, batch 2 of 0.878."""

MIN_BATCH = {2: 2, 3: 2}
"""Smallest batch by dimension; only then the patch shrinks."""


def step_seconds(budget: Budget, network: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> float:
    """Expected time of one training step: launches of its operations, and its multiply-accumulates."""
    macs = forward_macs(network, patch_size) * batch_size
    launches = [point.seconds_per_operation for point in _measured_for(budget, network)]
    return _launch_seconds(launches, network, patch_size) + macs / macs_per_second(budget, network)


def forward_seconds(budget: Budget, network: NetworkSpec, patch_size: Sequence[int]) -> float:
    """Expected time of predicting one window: launches of its operations, and its multiply-accumulates."""
    network = at_prediction(network)
    launches = [point.prediction_seconds_per_operation for point in _measured_for(budget, network)]
    return _launch_seconds(launches, network, patch_size) + _forward_mac_seconds(budget, network, patch_size)


def _forward_mac_seconds(budget: Budget, network: NetworkSpec, patch_size: Sequence[int]) -> float:
    macs = forward_macs(network, patch_size)
    measured = [point for point in budget.throughput if point.prediction_macs_per_second is not None]
    if not measured:
        return FORWARD_FRACTION * macs / macs_per_second(budget, network)
    forward = [
        point.model_copy(update={"macs_per_second": point.prediction_macs_per_second or point.macs_per_second})
        for point in measured
    ]
    return macs / macs_per_second(budget.model_copy(update={"throughput": tuple(forward)}), network)


def _launch_seconds(
    seconds_per_operation: Sequence[float | None], network: NetworkSpec, patch_size: Sequence[int]
) -> float:
    """Time that does not depend on the size of the patch; 0 where it was not measured apart."""
    measured = [seconds for seconds in seconds_per_operation if seconds is not None]
    return max(measured, default=0.0) * len(list_operations(network, patch_size))


def macs_per_second(budget: Budget, network: NetworkSpec) -> float:
    """Throughput at a network's width: interpolated between measured widths in the logarithm of the width.

    Beyond the widest measured network it stays as there; below the narrowest it falls in proportion to the width,
    because narrow convolutions use a device badly. An assumed figure where nothing was measured.
    """
    measured = _measured_for(budget, network)
    is_own = is_measured(budget, network)
    factor = 1.0 if is_own else ARCHITECTURES[network.architecture].relative_speed
    factor *= relative_speed_of_parts(network)
    if not measured:
        return ASSUMED_MACS_PER_SECOND[budget.device] * factor
    return factor * _interpolate(measured, network.features[0])


def _measured_for(budget: Budget, network: NetworkSpec) -> list[Throughput]:
    """What was measured for networks of this kind, else for plain U-Nets."""
    return _measured(budget, network) or _measured(budget, network.model_copy(update={"architecture": "unet"}))


def is_measured(budget: Budget, network: NetworkSpec) -> bool:
    """Whether networks of this kind were measured, and not only assumed."""
    return bool(_measured(budget, network))


def _interpolate(measured: Sequence[Throughput], base_features: int) -> float:
    if base_features <= measured[0].base_features:
        return measured[0].macs_per_second * base_features / measured[0].base_features
    for low, high in itertools.pairwise(measured):
        if low.base_features < base_features <= high.base_features:
            position = math.log(base_features / low.base_features) / math.log(high.base_features / low.base_features)
            return low.macs_per_second + position * (high.macs_per_second - low.macs_per_second)
    return measured[-1].macs_per_second


def _measured(budget: Budget, network: NetworkSpec) -> list[Throughput]:
    points = [
        point for point in budget.throughput
        if (point.dimensions, point.architecture) == (network.dimensions, network.architecture)
    ]  # fmt: skip
    return sorted(points, key=lambda point: (point.base_features, point.macs_per_second))


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


def smaller_batches(batch_size: Decided[int], dimensions: int) -> Iterator[Decided[int]]:
    """The largest batch that suits a limited time, then ever smaller ones, halved down to the smallest."""
    reason = f"With limited time more steps help more than larger batches; memory allows {batch_size.value}."
    if batch_size.value > MAX_BATCH[dimensions]:
        batch_size = Decided(MAX_BATCH[dimensions], reason)
    yield batch_size
    while batch_size.value // 2 >= MIN_BATCH[dimensions]:
        batch_size = Decided(batch_size.value // 2, reason)
        yield batch_size


def smaller_patches(
    patch: Decided[Topology],
    spacing: Sequence[float],
    median_shape: Sequence[float],
    depth: Depth,
    min_steps: int = MIN_STEPS,
) -> Iterator[Decided[Topology]]:
    """Ever smaller patches, one axis halved at a time, until no axis can be halved any more.

    Args:
        patch: The largest one that fits the memory; not among the results.
        spacing: (z, y, x) or (y, x), mm.
        median_shape: Same axes, voxels.
        depth: How deep the network is.
        min_steps: Training steps that are wanted, for the reason.
    """
    reason = (
        f"Memory allows {patch.value.patch_size}, halved along the relatively longest axis until {min_steps} steps fit "
        "the time."
    )
    topology = halve_patch(patch.value, spacing, median_shape, depth)
    while topology is not None:
        yield Decided(topology, reason)
        topology = halve_patch(topology, spacing, median_shape, depth)


def halve_patch(
    topology: Topology,
    spacing: Sequence[float],
    median_shape: Sequence[float],
    depth: Depth,
    *,
    axes: Sequence[int] | None = None,
) -> Topology | None:
    """Halve the axis that is longest relative to the median; None when no axis can be halved any more.

    The other axes lose padding that a shallower network does not need. No axis ever grows: one whose halving would
    make another one be padded further is passed over.

    Args:
        topology: Patch and levels.
        spacing: (z, y, x) or (y, x), mm.
        median_shape: Same axes, voxels.
        depth: How deep the network is.
        axes: Those that may be halved; None: all.
    """
    old = topology.patch_size
    ratios = [edge / size for edge, size in zip(old, median_shape, strict=True)]
    unpadded = [min(edge, size) for edge, size in zip(old, median_shape, strict=True)]
    allowed = range(len(old)) if axes is None else axes
    for axis in sorted(allowed, key=lambda axis: (ratios[axis], axis), reverse=True):
        if old[axis] < 2 * MIN_EDGE:
            continue
        edges = [old[i] / 2 if i == axis else edge for i, edge in enumerate(unpadded)]
        halved = compute_topology(spacing, edges, depth)
        grows = any(new > edge for new, edge in zip(halved.patch_size, old, strict=True))
        if halved.levels > 1 and halved.patch_size != old and not grows:
            return halved
    return None


def explain_width(base_features: int, widths: Sequence[int], wanted_steps: int = WANTED_STEPS) -> str:
    """One sentence: why a network is as wide as it is, when the time per fold decides.

    Args:
        base_features: Feature maps at full resolution of the network that was chosen.
        widths: All that were allowed, best first.
        wanted_steps: Training steps that a wider network must get.
    """
    if len(widths) == 1:
        return "The only width that was allowed."
    if base_features == widths[-1]:
        return f"The narrowest network; wider ones would get fewer than {wanted_steps} steps."
    if base_features == widths[0]:
        return f"The full width: even so at least {wanted_steps} steps fit the time."
    return f"The widest network that gets at least {wanted_steps} steps in the time."
