"""Sizes for images of slices that are far apart, when the time per fold decides: smaller patches come first.

Taken instead of the general order of `planners.rules.speed` for such images where the speed was measured: with an
assumed one, nothing is known about steps. A cardiac scan of 10 slices shows its
organ in the middle of a wide field of view, so a quarter of the plane has nearly all of the context, and the time that
it saves buys steps and a wider network. The slices stay together.

Example: ACDC, 10 x 256 x 216 voxels of 10 x 1.56 x 1.56 mm. In 3 minutes on one CPU core a 2D network of 16 feature
maps took 1,890 steps of 4 patches of 128 x 112 and reached a mean Dice of 0.857; one of 8 feature maps took 870 steps
of 3 patches of 256 x 224 in 2 minutes and reached 0.709, and 0.85 in 20 minutes.

References:
    Own rule; figures in docs/benchmarks.md.
"""

import math
from collections.abc import Iterator, Sequence

from planners.rules import Decided
from planners.rules.spacing import ANISOTROPY_THRESHOLD
from planners.rules.speed import MIN_STEPS, WANTED_STEPS, halve_patch, smaller_patches
from planners.rules.topology import Depth, Topology

STEPS_BEFORE_CONTEXT = 4000
"""A patch that shows more than a quarter of the image is taken only if it gets so many steps at the full width."""

USUAL_FRACTION = 0.25
"""Part of the median image that a patch shows before the network becomes narrower."""

MIN_FRACTION = 0.125
"""Part of the median image that a patch shows before the slices are cut as well."""

NARROW_STEPS = 1000
"""Steps that the narrowest network must get with a quarter of the plane; with fewer, an eighth is better. ACDC, 2.5
minutes on one core, 8 feature maps: 564 steps of 10 x 128 x 112 gave a mean Dice of 0.711, 942 of 10 x 64 x 112 of
0.758. An eighth and a wider network is not: 1,500 steps of 10 x 128 x 56 with 16 feature maps gave 0.770."""

Size = tuple[Decided[Topology], int, Decided[int], int]
"""Patch, feature maps at full resolution, batch, and the training steps that they must get."""


def are_slices_far_apart(spacing: Sequence[float], median_shape: Sequence[float]) -> bool:
    """Whether an image has more than one slice, and slices count as far apart.

    Args:
        spacing: Target, first axis across the slices, mm.
        median_shape: At this spacing, same axes, voxels.
    """
    return median_shape[0] > 1 and spacing[0] > ANISOTROPY_THRESHOLD * max(spacing[1:])


def list_sizes_of_slices(
    patch: Decided[Topology],
    widths: Sequence[int],
    batches: Sequence[Decided[int]],
    spacing: Sequence[float],
    median_shape: Sequence[float],
    depth: Depth,
) -> Iterator[Size]:
    """Sizes from the most to the least expensive: no patch, width or batch is larger than that of the size before.

    Args:
        patch: The largest one that fits the memory.
        widths: Feature maps at full resolution, best first.
        batches: Largest first.
        spacing: (z, y, x) or (y, x), mm.
        median_shape: Same axes, voxels.
        depth: How deep the network is.
    """
    patches = [patch, *smaller_patches_in_plane(patch, spacing, median_shape, depth)]
    large = [each for each in patches if shown_fraction(each.value.patch_size, median_shape) >= USUAL_FRACTION]
    large = large or patches[:1]
    wide = widths[:-1] or widths
    yield from ((each, wide[0], batches[0], STEPS_BEFORE_CONTEXT) for each in large[:-1])
    yield from ((large[-1], width, batches[0], WANTED_STEPS) for width in wide)
    yield from ((large[-1], wide[-1], batch_size, WANTED_STEPS) for batch_size in batches[1:])
    yield large[-1], widths[-1], batches[-1], NARROW_STEPS
    yield from ((each, widths[-1], batches[-1], MIN_STEPS) for each in patches[len(large) :])
    reason = f"Memory allows {patch.value.patch_size}, halved until {MIN_STEPS} steps fit the time."
    for smaller in smaller_patches(patches[-1], spacing, median_shape, depth):
        yield Decided(smaller.value, reason), widths[-1], batches[-1], MIN_STEPS


def smaller_patches_in_plane(
    patch: Decided[Topology], spacing: Sequence[float], median_shape: Sequence[float], depth: Depth
) -> Iterator[Decided[Topology]]:
    """Ever smaller patches with all their slices that show at least `MIN_FRACTION` of the median image.

    The relatively longer axis of the plane is halved at a time. Arguments are those of `list_sizes_of_slices`; the
    patch itself is not among the results.
    """
    plane = range(len(spacing) - 2, len(spacing))
    topology = halve_patch(patch.value, spacing, median_shape, depth, axes=plane)
    while topology is not None:
        shown = shown_fraction(topology.patch_size, median_shape)
        if shown < MIN_FRACTION:
            return
        reason = (
            f"Memory allows {patch.value.patch_size}, halved in plane: slices are far apart, {shown:.0%} of the median "
            "image show enough, and more steps and a wider network are worth more than more context."
        )
        yield Decided(topology, reason)
        topology = halve_patch(topology, spacing, median_shape, depth, axes=plane)


def shown_fraction(patch_size: Sequence[int], median_shape: Sequence[float]) -> float:
    """Part of the median image that one patch shows, at most 1 along each axis."""
    return math.prod(min(edge / size, 1.0) for edge, size in zip(patch_size, median_shape, strict=True))
