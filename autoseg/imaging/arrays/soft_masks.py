"""Grey levels among the values of a label map: soft edges (blurring, interpolation, anti-aliasing) and noise (JPEG).

Labels cover areas; grey levels are lines along edges, or dots. A value is called thin when hardly any of its voxels is
surrounded by equal ones.
"""

from collections.abc import Mapping, Set

import numpy as np

from autoseg.imaging.formats.color_masks import MAX_INNER_FRACTION
from autoseg.imaging.formats.label_values import MAX_LABEL_VALUE
from autoseg.imaging.formats.volume import AnyArray

MIN_GREY_LEVELS = 8
"""From this number of thin values on, a label map is refused: four labelled vessels, two pixels wide, are thin too."""

MAX_GREY_LEVELS = 255
"""Foreground values of a mask of 8 bits; files with more are images rather than masks."""

MIN_SUSPECTED_LEVELS = 3
"""From this number of thin values on, beside a value that is not thin, a warning is given."""


def count_values(values: AnyArray) -> dict[int, int]:
    """Number of voxels for each value, for whole numbers of any sign.

    Args:
        values: Values of integer type, (Z, Y, X).
    """
    lowest, highest = int(values.min()), int(values.max())
    if highest - lowest > MAX_LABEL_VALUE:
        found, voxels = np.unique(values, return_counts=True)
        return dict(zip(found.tolist(), voxels.tolist(), strict=True))
    voxels = np.zeros(highest - lowest + 1, dtype=np.int64)
    for plane in values:
        # Slice by slice, because bincount works on a copy of 8 bytes per voxel.
        voxels += np.bincount((plane.astype(np.int64) - lowest).ravel(), minlength=voxels.size)
    return {lowest + int(offset): int(voxels[offset]) for offset in np.flatnonzero(voxels)}


def find_thin_values(values: AnyArray) -> frozenset[int]:
    """Foreground values of which hardly any voxel has four equal neighbours in its plane.

    Args:
        values: Whole numbers from 0 on, (Z, Y, X).
    """
    size = int(values.max()) + 1
    voxels, inner = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for plane in values:
        is_inner = np.ones(plane.shape, dtype=np.bool_)
        for first, second in (((slice(1, None),), (slice(-1),)), ((..., slice(1, None)), (..., slice(-1)))):
            is_equal = plane[first] == plane[second]
            is_inner[first] &= is_equal
            is_inner[second] &= is_equal
        voxels += np.bincount(plane.ravel().astype(np.int64), minlength=size)
        inner += np.bincount(plane[is_inner].astype(np.int64), minlength=size)
    is_thin = (voxels > 0) & (inner <= MAX_INNER_FRACTION * voxels)
    return frozenset(value for value in np.flatnonzero(is_thin).tolist() if value)


def are_grey_levels(voxels: Mapping[int, int], thin: Set[int]) -> bool:
    """Whether the values of a label map are those of a soft or noisy mask rather than labels.

    Args:
        voxels: Number of voxels by value.
        thin: Result of `find_thin_values`.
    """
    num_foreground = len(set(voxels) - {0})
    return len(thin) >= MIN_GREY_LEVELS and num_foreground / 2 < len(thin) and num_foreground <= MAX_GREY_LEVELS


def suggest_grey_levels(voxels: Mapping[int, int], thin: Set[int]) -> bool:
    """Whether some of the values may be grey levels: most of the foreground values are thin, and one is not."""
    foreground = set(voxels) - {0}
    return len(thin) >= MIN_SUSPECTED_LEVELS and 2 * len(thin) > len(foreground) > len(thin)


def describe_grey_levels(voxels: Mapping[int, int], thin: Set[int]) -> str:
    """The sentences about a mask with grey levels: its values, where its voxels are, and what to do.

    Args:
        voxels: Number of voxels by value.
        thin: Result of `find_thin_values`.
    """
    total = sum(voxels.values())
    main = sorted(sorted(voxels, key=lambda value: -voxels[value])[:2])
    fraction = sum(voxels[value] for value in main) / total
    return (
        f"{len(voxels)} different values from {min(voxels)} to {max(voxels)}, of which {len(thin)} lie only along "
        "edges or in dots, as in a soft or noisy mask (blurred, resized or saved as JPEG); "
        f"{' and '.join(map(str, main))} hold {100 * fraction:.1f} % of the voxels. Threshold the mask: "
        f"--label-threshold {middle_value(max(voxels))} reads values from there on as its one structure. If every "
        "value is a structure, declare them with --label-names or in a dataset.json"
    )


def middle_value(highest: int) -> int:
    """The threshold to suggest for masks with values from 0 to about `highest`."""
    return (highest + 1) // 2
