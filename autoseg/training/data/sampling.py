"""Where the patches of a batch lie: which samples must show foreground, and which voxel they are placed around.

Called by the loader for every sample. Pure but for the generator passed in. All triples are (z, y, x); a patch of a 2D
configuration has one slice, (1, y, x). One worked example: in a volume of 5 x 7 x 11 voxels a patch of 4 x 9 x 11 can
start at z = 0 or 1, at y = -1 (one voxel of padding on both sides) and at x = 0.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.arrays.labels import Locations
from autoseg.records.case import Triple

OUTSIDE_LABEL = -1
"""Label of voxels that are outside the volume or outside the nonzero mask."""


class SliceableArray(Protocol):
    """An array in memory or on disk: (C + 1, Z, Y, X) float32, label indices in the last channel."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, then voxels."""

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[np.float32]:
        """Read a box."""


class SliceableLabels(Protocol):
    """A label map in memory or on disk: (Z, Y, X) int16."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels."""

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[np.int16]:
        """Read a box."""


Slices = tuple[slice, ...]
"""One per spatial axis."""


def forced_fraction(batch_size: int, fraction: float) -> float:
    """Fraction of a batch whose patches are placed around foreground, once the wanted fraction is rounded.

    Example: of a batch of 2 one sample at 0.33, so a half; patches that grow keep that half in larger batches too.
    """
    return 1.0 - round(batch_size * (1 - fraction)) / batch_size


def is_forced_foreground(sample: int, batch_size: int, fraction: float) -> bool:
    """Whether a sample's patch must be placed around a foreground voxel: the last ones of each batch are.

    Args:
        sample: 0-based position in the whole batch, not in a process's share of it.
        batch_size: At least 1.
        fraction: Fraction of the batch to force, [0, 1]; a batch of 2 gets one forced sample at 0.33.

    References:
        nnU-Net v2, as published, with its rounding to even.
    """
    return sample >= round(batch_size * (1 - fraction))


def corner_range(shape: Sequence[int], patch_size: Triple) -> tuple[Triple, Triple]:
    """Smallest and largest lower corner, both allowed.

    A patch lies inside the volume along each axis where it fits. Where it does not, it contains the whole volume, with
    equal padding on both sides, or one voxel more on one of them.

    References:
        nnU-Net v2, as published but for rounding: it places an enlarged patch, whose centre has the same range.
    """
    lower, upper = [], []
    for size, edge in zip(shape, patch_size, strict=True):
        missing = max(0, edge - size)
        lower.append(-missing // 2)
        upper.append(max(size - edge, 0) - missing // 2)
    return (lower[0], lower[1], lower[2]), (upper[0], upper[1], upper[2])


def draw_patch_corner(
    shape: Sequence[int], patch_size: Triple, voxel: NDArray[np.integer] | None, generator: np.random.Generator
) -> Triple:
    """Lower corner of a patch around a voxel, or anywhere.

    Args:
        shape: Shape of the volume, (z, y, x), voxels.
        patch_size: Voxels.
        voxel: Becomes the centre as far as `corner_range` allows; None: uniform over that range.
        generator: Source of randomness.

    References:
        nnU-Net v2. Differs: patches around a voxel are kept inside the far border as well.
    """
    lower, upper = corner_range(shape, patch_size)
    if voxel is None:
        corner = generator.integers(lower, upper, endpoint=True)
    else:
        corner = np.clip(voxel - np.asarray(patch_size) // 2, lower, upper)
    return (int(corner[0]), int(corner[1]), int(corner[2]))


def draw_centre_voxel(
    locations: Mapping[int, Locations], annotated: Locations | None, *, forced: bool, generator: np.random.Generator
) -> NDArray[np.int32] | None:
    """The voxel to place a patch around.

    Args:
        locations: Foreground voxels by head; heads that the case does not have may be missing or empty.
        annotated: Locations that do not carry the ignore label; None for a dataset without one.
        forced: Around foreground: every head of the case is equally likely, and so is every voxel of the head.
        generator: Source of randomness.

    Returns:
        (3,); None where any place will do: a sample that is not forced in a dataset without ignore label, or a case
        without any voxel to choose from.

    References:
        nnU-Net v2, as published.
    """
    present = [head for head in sorted(locations) if len(locations[head])]
    if forced and present:
        head = present[generator.integers(len(present))]
        return _draw_row(locations[head], generator)
    if annotated is not None and len(annotated):
        return _draw_row(annotated, generator)
    return None


def list_cases_by_head(locations: Sequence[Mapping[int, Locations]]) -> dict[int, list[int]]:
    """Positions of the cases that have foreground of a head, by head; heads of no case are left out.

    Args:
        locations: Foreground voxels by head, of each case; missing or empty where a case has none.
    """
    heads = sorted({head for case in locations for head, voxels in case.items() if len(voxels)})
    return {head: [index for index, case in enumerate(locations) if len(case.get(head, ()))] for head in heads}


def draw_case_with_foreground(
    cases_by_head: Mapping[int, Sequence[int]], generator: np.random.Generator
) -> tuple[int, int]:
    """A head and a case that has it: every head is equally likely, then every case with it.

    Args:
        cases_by_head: Result of `list_cases_by_head`, not empty.
        generator: Source of randomness.

    Returns:
        Head and position of the case.

    References:
        Own rule. nnU-Net v2 draws a case first, so that a label of few cases is in few patches.
    """
    head = list(cases_by_head)[int(generator.integers(len(cases_by_head)))]
    positions = cases_by_head[head]
    return head, positions[int(generator.integers(len(positions)))]


def group_cases_by_set(targets: Sequence[NDArray[np.integer] | None]) -> list[list[int]]:
    """Positions of the cases in which the same labels were looked for, by set.

    Args:
        targets: `TrainingCase.targets` of each case; that of the background tells the set.
    """
    numbers = [0 if of_case is None else int(of_case[0]) for of_case in targets]
    return [
        [index for index, number in enumerate(numbers) if number == wanted] for wanted in sorted(dict.fromkeys(numbers))
    ]


def draw_case_of_sets(cases_by_set: Sequence[Sequence[int]], generator: np.random.Generator) -> int:
    """A case, after a set of labels that were looked for: its probability grows with the root of its number of cases.

    So a small dataset that is merged with a large one is seen often enough to be learnt, and not so often that its few
    cases are learnt by heart.

    Args:
        cases_by_set: Result of `group_cases_by_set`.
        generator: Source of randomness.

    References:
        Own rule, after Conneau et al., "Unsupervised cross-lingual representation learning at scale", 2020, who draw
        languages with a power of their frequency.
    """
    weights = np.sqrt([len(positions) for positions in cases_by_set])
    positions = cases_by_set[int(generator.choice(len(weights), p=weights / weights.sum()))]
    return positions[int(generator.integers(len(positions)))]


def _draw_row(voxels: Locations, generator: np.random.Generator) -> NDArray[np.int32]:
    row: NDArray[np.int32] = voxels[generator.integers(len(voxels))]
    return row


def cut_box(array: SliceableArray, corner: Triple, size: Triple) -> NDArray[np.float32]:
    """Read a box that may hang over the border: 0 there in the image channels, -1 in the label channel.

    Args:
        array: (C + 1, Z, Y, X), labels last.
        corner: Lower corner, may be negative.
        size: Voxels.

    Returns:
        (C + 1, *size); a view where the box is inside an array in memory, so do not write to it.
    """
    source, filled = _overlap(array.shape[1:], corner, size)
    if filled is None:
        return array[(slice(None), *source)]
    box = np.zeros((array.shape[0], *size), dtype=np.float32)
    box[-1] = OUTSIDE_LABEL
    if all(part.start < part.stop for part in source):
        box[(slice(None), *filled)] = array[(slice(None), *source)]
    return box


def cut_label_box(labels: SliceableLabels, corner: Triple, size: Triple) -> NDArray[np.int16]:
    """Read a box of a label map that may hang over the border; background there.

    Args:
        labels: (Z, Y, X).
        corner: Lower corner, may be negative.
        size: Voxels.

    Returns:
        Of shape `size`; a view where the box is inside a map in memory, so do not write to it.
    """
    source, filled = _overlap(labels.shape, corner, size)
    if filled is None:
        return labels[source]
    box = np.zeros(size, dtype=np.int16)
    if all(part.start < part.stop for part in source):
        box[filled] = labels[source]
    return box


def _overlap(shape: Sequence[int], corner: Triple, size: Triple) -> tuple[Slices, Slices | None]:
    """Where a box overlaps a volume, in the volume's and in the box's voxels; None: all of the box."""
    start = [min(max(low, 0), full) for low, full in zip(corner, shape, strict=True)]
    stop = [min(max(low + edge, 0), full) for low, edge, full in zip(corner, size, shape, strict=True)]
    source = tuple(map(slice, start, stop))
    if all(high - low == edge for low, high, edge in zip(start, stop, size, strict=True)):
        return source, None
    filled = tuple(slice(low - origin, high - origin) for low, high, origin in zip(start, stop, corner, strict=True))
    return source, filled
