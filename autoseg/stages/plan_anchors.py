"""Where and how large anchors are: the finest level of the pyramid, and sizes that overlap best with the instances.

The sizes of the training cases' instances are in the fingerprint. Equal input gives equal anchors: nothing is drawn.

References:
    Baumgartner et al. 2021, "nnDetection" (anchors that maximise the mean IoU with the boxes of the training cases).
    Differs: three shapes that are scaled with the strides, found by a search along one edge after the other, instead of
    a product of sizes along each axis, found by differential evolution.
    Lin et al. 2017, "Feature pyramid networks" (anchors scaled by level).

Tested in tests/stages/test_plan_anchors.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.records.detection import Anchor
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan

Sizes = NDArray[np.float64]
"""(N, D): edges of instances in voxels of the patch."""

MIN_INSTANCES = 10
"""Fewer measured instances than this say too little about the others."""

MAX_INSTANCES = 2000
"""Instances that anchors are compared with; more would only take longer."""

FINEST_LEVEL, COARSEST_START = 1, 2
"""Levels that the pyramid may begin with: half the resolution, or a quarter as published."""

MIN_VOXELS = 8
"""Voxels of the first level along an edge of a small instance, on average over the axes (own rule): fewer show little
of its shape to the mask head."""

SMALL_PERCENTILE = 10
"""Percentile of the instances' sizes that counts as small."""

STEPS = (2.0, 2.0**0.5, 2.0**0.25, 2.0**0.125)
"""Factors by which an edge is changed in the search, coarse ones first."""

SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sizes that the search begins with, as factors of a level's own (Lin et al., "Focal loss", 2017)."""


@dataclass(frozen=True)
class AnchorChoice:
    """Anchors for one configuration, with the reason."""

    levels: tuple[int, ...]
    anchors: tuple[tuple[Anchor, ...], ...]
    """Sizes at each level."""
    reason: str


def measured_sizes(plan: Plan, name: str, fingerprint: Fingerprint) -> Sizes:
    """Edges of the measured instances at the spacing of a configuration, along the axes of its patch, in voxels."""
    target = plan.configurations[name].spacing
    axes = plan.transpose[-len(target) :]
    sizes = [
        [size[axis] * case.spacing[axis] / voxel for axis, voxel in zip(axes, target, strict=True)]
        for case in fingerprint.cases
        for facts in case.labels.values()
        for size in facts.instance_sizes
    ]
    return np.array(sizes, dtype=np.float64).reshape(-1, len(target))


def choose_anchors(
    sizes: Sizes, strides: Sequence[Sequence[int]], patch_size: Sequence[int], num_levels: int
) -> AnchorChoice | None:
    """Choose the levels of the pyramid and the anchors of each.

    Args:
        sizes: Instances of the training cases.
        strides: Strides of the encoder by level, ones at level 0.
        patch_size: Voxels of a patch.
        num_levels: Largest number of levels of the pyramid.

    Returns:
        The choice; None if too few instances were measured.
    """
    if len(sizes) < MIN_INSTANCES:
        return None
    steps = np.cumprod(strides, axis=0).astype(np.float64)
    first = _choose_first_level(sizes, steps)
    levels = tuple(range(first, min(len(steps), first + num_levels)))
    scales = steps[list(levels)] / steps[first]
    shapes, iou = _search_shapes(_take_evenly(sizes), scales)
    anchors = tuple(tuple(_as_anchor(shape * scale) for shape in shapes) for scale in scales)
    small, middle, large = np.percentile(_mean_edges(sizes), [SMALL_PERCENTILE, 50, 100 - SMALL_PERCENTILE])
    fitting = float((sizes <= np.array(patch_size)).all(axis=1).mean())
    reason = (
        f"{len(sizes)} measured objects, {small:.3g} to {large:.3g} voxels wide (median {middle:.3g}), overlap with "
        f"the best anchor by {iou:.2f} on average; {fitting:.0%} of them fit into the patch."
    )
    return AnchorChoice(levels, anchors, reason)


def _choose_first_level(sizes: Sizes, steps: NDArray[np.float64]) -> int:
    """The coarsest level at which small instances have enough voxels."""
    small = np.percentile(_mean_edges(sizes), SMALL_PERCENTILE)
    last = min(COARSEST_START, len(steps) - 1)
    fitting = [level for level in range(FINEST_LEVEL, last + 1) if small / _mean_edges(steps)[level] >= MIN_VOXELS]
    return max(fitting, default=min(FINEST_LEVEL, last))


def _take_evenly(sizes: Sizes) -> Sizes:
    """At most MAX_INSTANCES of them, of all sizes, in an order that depends on nothing but the sizes."""
    ordered = sizes[np.lexsort((*sizes.T, sizes.prod(axis=1)))]
    count = min(len(ordered), MAX_INSTANCES)
    return ordered[(2 * np.arange(count) + 1) * len(ordered) // (2 * count)]


def _search_shapes(sizes: Sizes, scales: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Shapes (A, D) at the first level whose mean IoU with the instances is largest, and that mean.

    Begins with instances of median shape and looks for better edges in ever smaller steps.
    """
    edges = _mean_edges(sizes)
    median_shape = np.median(sizes / edges[:, None], axis=0) * np.percentile(edges, SMALL_PERCENTILE)
    shapes: NDArray[np.float64] = np.outer(SCALES, median_shape)
    best = _mean_iou(sizes, shapes, scales)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for index in np.ndindex(shapes.shape):
                for factor in (step, 1 / step):
                    changed = shapes.copy()
                    changed[index] = np.maximum(1.0, changed[index] * factor)
                    iou = _mean_iou(sizes, changed, scales)
                    if iou > best + 1e-9:
                        shapes, best, improved = changed, iou, True
    return shapes[np.argsort(shapes.prod(axis=1), kind="stable")], best


def _mean_iou(sizes: Sizes, shapes: NDArray[np.float64], scales: NDArray[np.float64]) -> float:
    """Mean over instances of the largest IoU with an anchor of the same centre."""
    volumes = sizes.prod(axis=1)
    best = np.zeros(len(sizes))
    for scale in scales:
        for shape in shapes * scale:
            common = np.minimum(sizes, shape).prod(axis=1)
            np.maximum(best, common / (volumes + shape.prod() - common), out=best)
    return float(best.mean())


def _mean_edges(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Geometric mean over the axes."""
    edges: NDArray[np.float64] = sizes.prod(axis=1) ** (1 / sizes.shape[1])
    return edges


def _as_anchor(edges: NDArray[np.float64]) -> Anchor:
    return tuple(float(f"{edge:.4g}") for edge in edges)
