"""Border-core: each object of a label is divided into a core and a border, so that touching objects stay separable.

The network learns both as labels of their own, and both carry the label's value in files: what it predicts is the
label itself, and `imaging.arrays.instances` grows the cores into the border.

References:
    Chen et al. 2016, "DCAN: deep contour-aware networks for accurate gland segmentation" (objects and their contours
    as classes). Isensee et al., Cell Tracking Challenge 2020 (border and core instead of instances, for nnU-Net).
"""

import math
from collections.abc import Iterator
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.components import label_components
from autoseg.errors import PlanningError
from autoseg.records.case import Spacing
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.fingerprint import Fingerprint

BORDER_FRACTION = 0.05
"""Width of the border as a fraction of an object's diameter: its core keeps nine tenths of it. Wider borders leave
more small objects without a core, narrower ones are bridged by fewer wrong voxels (own rule)."""

MIN_WIDTH_VOXELS = 1.5
"""Smallest width of the border, in voxels of the finest plane: one voxel all around, corners included (a diagonal step
is 1.41)."""

MIN_PIECE = 0.1
"""Where necks are too thin for a core, a core falls into pieces. A piece smaller than this fraction of the largest one
becomes border, so that its part of the object is not taken for an object (own rule; on the cells of the ISBI 2012
membranes seven of eight wrong objects vanish)."""

_CORNERS = ndimage.generate_binary_structure(3, 3)


def divide_encoding(encoding: LabelEncoding) -> LabelEncoding:
    """Two heads instead of one for each foreground label: its core and its border.

    Args:
        encoding: Encoding of labels, not regions.

    Returns:
        Encoding in which indices 1, 2 are core and border of the first label, 3, 4 of the second, and so on.

    Raises:
        PlanningError: If labels are regions, which overlap.
    """
    if encoding.activation != "softmax":
        raise PlanningError(
            "--target border-core divides labels, but this dataset has regions, which overlap. Declare one value per "
            "label, or plan without --target."
        )
    values, heads = [encoding.values[0]], [encoding.heads[0]]
    for head in encoding.heads[1:]:
        for part in ("core", "border"):
            index = len(values)
            name = f"{head.name} {part}"
            values.append(encoding.values[head.painted_index])
            heads.append(Head(name=name, indices=(index,), painted_index=index, part_of=head.name))
    return encoding.model_copy(update={"values": tuple(values), "heads": tuple(heads)})


def divide_labels(
    labels: NDArray[np.int16],
    encoding: LabelEncoding,
    spacing: Spacing,
    width_mm: float,
    *,
    ids: NDArray[np.integer] | None = None,
) -> NDArray[np.int16]:
    """Divide every object of a label map into core and border.

    Objects without numbers are connected by faces, so that a gap of one voxel at a corner keeps them apart.

    Args:
        labels: Label indices, (Z, Y, X), foreground with the index of its core, as from `encode_label_map`; unchanged.
        encoding: Result of `divide_encoding`.
        spacing: Voxel size in mm, (z, y, x).
        width_mm: Width of the border.
        ids: Number of each voxel's object, (Z, Y, X), 0 for none; None: objects are components.

    Returns:
        Label indices, (Z, Y, X), with the index of the border in borders and where a label has no object.
    """
    divided = labels.copy()
    for core, border in _pairs(encoding):
        mask = labels == core
        boxes = ndimage.find_objects(mask.view(np.uint8))
        if boxes:
            box = _with_margin(boxes[0], mask.shape)
            objects = label_components(mask[box], "face") if ids is None else _renumber(np.where(mask, ids, 0)[box])
            is_core = find_cores(objects, spacing, width_mm)
            divided[box][mask[box] & ~is_core] = border
    return divided


def _renumber(ids: NDArray[np.integer]) -> NDArray[np.integer]:
    """The same objects with numbers 1 to n, 0 for none."""
    numbers = np.unique(ids[ids > 0])
    return np.where(ids > 0, np.searchsorted(numbers, ids) + 1, 0)


def find_cores(ids: NDArray[np.integer], spacing: Spacing, width_mm: float) -> NDArray[np.bool_]:
    """Voxels of objects that are farther than a width from everything outside the same object.

    The edge of the array is not a border: an object may continue beyond it. A voxel that has a voxel of another object
    among its 26 neighbours is never core, however thick slices are. Small pieces of a core that falls apart are not
    core either (`MIN_PIECE`). An object without any such voxel keeps one, the deepest, as its core.

    Args:
        ids: Objects, (Z, Y, X), 1 to n, 0 for background.
        spacing: Voxel size in mm, (z, y, x).
        width_mm: Distance between centres of voxels.

    Returns:
        Mask of all cores, (Z, Y, X).
    """
    cores = np.zeros(ids.shape, dtype=np.bool_)
    for number, found in enumerate(ndimage.find_objects(ids), start=1):
        if found is None:
            continue
        box = _with_margin(found, ids.shape)
        member = ids[box] == number
        others = (ids[box] > 0) & ~member
        core = member.copy()
        if not member.all():
            depth_mm = ndimage.distance_transform_edt(member, sampling=spacing)
            core &= depth_mm > width_mm
            if others.any():
                core &= ~ndimage.binary_dilation(others, _CORNERS)
            if not core.any():
                core[_deepest(depth_mm)] = True
        cores[box] |= _without_small_pieces(core)
    return cores


def choose_border_width(fingerprint: Fingerprint) -> tuple[float, str]:
    """Choose the width of borders.

    Args:
        fingerprint: Facts about the labels; an object's size is that of a case's label divided by its components, or
            by its objects where they have numbers.

    Returns:
        Width in mm, and the reason in one sentence.

    Raises:
        PlanningError: If no case has any foreground.
    """
    sizes = [
        _diameter_mm(
            facts.volume_mm3 / max(facts.components, len(facts.instance_sizes)),
            None if case.shape[0] > 1 else case.spacing[0],
        )
        for case in fingerprint.cases
        for facts in case.labels.values()
        if facts.components
    ]
    if not sizes:
        raise PlanningError("--target border-core: no label has a voxel in any case, so there are no objects")
    diameter_mm = median(sizes)
    voxel_mm = median(sorted(case.spacing)[1] for case in fingerprint.cases)
    width_mm = float(f"{max(BORDER_FRACTION * diameter_mm, MIN_WIDTH_VOXELS * voxel_mm):.3g}")
    return width_mm, (
        f"{BORDER_FRACTION:.0%} of the median object's diameter, {diameter_mm:.3g} mm, and at least "
        f"{MIN_WIDTH_VOXELS:g} voxels of {voxel_mm:.3g} mm."
    )


def _diameter_mm(volume_mm3: float, thickness_mm: float | None) -> float:
    """Diameter of a ball with this volume, or of a disc where the thickness of the only slice is given."""
    if thickness_mm is not None:
        return 2 * math.sqrt(volume_mm3 / thickness_mm / math.pi)
    return 2 * math.cbrt(volume_mm3 * 3 / 4 / math.pi)


def _without_small_pieces(core: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces = label_components(core, "face")
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    is_kept = (sizes >= MIN_PIECE * sizes.max()) & (sizes > 0)
    kept: NDArray[np.bool_] = is_kept[pieces]
    return kept


def _with_margin(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices and one voxel around them within the array: they hold the nearest voxels outside an object."""
    return tuple(slice(max(0, edge.start - 1), min(size, edge.stop + 1)) for edge, size in zip(box, shape, strict=True))


def _deepest(depth_mm: NDArray[np.floating]) -> tuple[int, ...]:
    """Voxel of largest depth; among equals the one that is nearest to the centre of the object."""
    candidates = np.argwhere(depth_mm == depth_mm.max())
    middle = np.argwhere(depth_mm > 0).mean(axis=0)
    nearest = ((candidates - middle) ** 2).sum(axis=1).argmin()
    return tuple(candidates[nearest].tolist())


def _pairs(encoding: LabelEncoding) -> Iterator[tuple[int, int]]:
    """Label indices of core and border, label by label."""
    parts = [head.painted_index for head in encoding.heads if head.part_of is not None]
    yield from zip(parts[::2], parts[1::2], strict=True)
