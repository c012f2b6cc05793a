"""How a network is made smaller until it keeps to a limited time.

Called once per configuration when the budget names a time per fold or a latency, and always for a CPU. Starts from the
patch and batch that the memory rules chose and only ever makes them smaller: first a narrower network, then smaller
batches, then smaller patches, because context is worth more than the rest.

Example: 600 s per fold, of which 480 s are for training; a network of 8 feature maps and batch 4 needs
4 * 1.5e9 multiply-accumulates per step, and the device does 2e10 per second: 0.3 s per step, 1,600 steps before
validation is counted, more than the 1,500 wanted. With 16 feature maps (about 4 times as many) only 400 steps would
remain, so 8 are taken.

References:
    Own rule. The shape of the network follows nnU-Net v2 (Isensee et al., Nature Methods 2021) at every width.

Tested in tests/planners/rules/test_schedule.py.
"""

from collections.abc import Iterator, Sequence

from planners.rules import Decided
from planners.rules.schedule import MIN_STEPS
from planners.rules.topology import MIN_EDGE, Topology, compute_topology

WANTED_STEPS = 1500
"""A wider network is taken only if it gets so many steps: with fewer, a narrower one trained longer is better."""

MAX_BATCH = {2: 12, 3: 2}
"""Largest batch by dimension: with limited time more steps help more than larger batches. Hippocampus, 2.5 minutes on
two cores: batch 4 gave a mean Dice of 0.870, batch 2 of 0.878."""

MIN_BATCH = {2: 2, 3: 2}
"""Smallest batch by dimension; only then the patch shrinks."""


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
    patch: Decided[Topology], spacing: Sequence[float], median_shape: Sequence[float], max_levels: int | None
) -> Iterator[Decided[Topology]]:
    """Ever smaller patches, one axis halved at a time, until no axis can be halved any more.

    Args:
        patch: The largest one that fits the memory; not among the results.
        spacing: (z, y, x) or (y, x), mm.
        median_shape: Same axes, voxels.
        max_levels: Largest number of levels of the network; None: no limit.
    """
    reason = (
        f"Memory allows {patch.value.patch_size}, halved along the relatively longest axis until {MIN_STEPS} steps fit "
        "the time."
    )
    topology = _halve(patch.value, spacing, median_shape, max_levels)
    while topology is not None:
        yield Decided(topology, reason)
        topology = _halve(topology, spacing, median_shape, max_levels)


def _halve(
    topology: Topology, spacing: Sequence[float], median_shape: Sequence[float], max_levels: int | None
) -> Topology | None:
    """Halve the axis that is longest relative to the median; None when no axis can be halved any more.

    The other axes lose padding that a shallower network does not need. No axis ever grows: one whose halving would
    make another one be padded further is passed over.
    """
    old = topology.patch_size
    ratios = [edge / size for edge, size in zip(old, median_shape, strict=True)]
    unpadded = [min(edge, size) for edge, size in zip(old, median_shape, strict=True)]
    for axis in sorted(range(len(old)), key=lambda axis: (ratios[axis], axis), reverse=True):
        if old[axis] < 2 * MIN_EDGE:
            continue
        edges = [old[i] / 2 if i == axis else edge for i, edge in enumerate(unpadded)]
        halved = compute_topology(spacing, edges, max_levels)
        grows = any(new > edge for new, edge in zip(halved.patch_size, old, strict=True))
        if halved.levels > 1 and halved.patch_size != old and not grows:
            return halved
    return None


def explain_width(base_features: int, widths: Sequence[int]) -> str:
    """One sentence: why a network is as wide as it is, when the time per fold decides.

    Args:
        base_features: Feature maps at full resolution of the network that was chosen.
        widths: All that were allowed, best first.
    """
    if len(widths) == 1:
        return "The only width that was allowed."
    if base_features == widths[-1]:
        return f"The narrowest network; wider ones would get fewer than {WANTED_STEPS} steps."
    if base_features == widths[0]:
        return f"The full width: even so at least {WANTED_STEPS} steps fit the time."
    return f"The widest network that gets at least {WANTED_STEPS} steps in the time."
