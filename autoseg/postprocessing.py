"""Operations on a finished label map. `select` chooses those that help; prediction applies them.

Foreground is connected by faces, edges and corners (26 neighbours, 8 in a single slice), so background, which holes
consist of, is connected by faces alone (6 neighbours, 4 in a single slice).
"""

from collections.abc import Callable, Sequence
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.components import label_components
from autoseg.errors import RecordError
from autoseg.records.case import Slices, Spacing
from autoseg.records.dataset import LabelEncoding, indices_by_label
from autoseg.records.selection import FillHoles, KeepLargestComponent, PostprocessingStep, RemoveSmallComponents

LabelIndices = NDArray[np.integer]
"""(Z, Y, X), indices of a LabelEncoding; 0 is background."""

VOLUME_TOLERANCE = 1e-6
"""Relative tolerance: headers store spacings as float32 (6e-8), so a component of exactly the smallest volume could be
lost."""

MAX_NAMES = 8
"""Labels that a sentence names before it says how many there are."""


def apply_postprocessing(
    labels: LabelIndices, steps: Sequence[PostprocessingStep], encoding: LabelEncoding, spacing: Spacing
) -> LabelIndices:
    """Apply the steps of a recipe in their order.

    Args:
        labels: Label indices, (Z, Y, X); left as they are. Voxels with the ignore index are never changed.
        steps: Steps of a recipe, with names of labels or regions.
        encoding: Labels and regions, with the indices that their names stand for.
        spacing: Lengths in mm whose product is the volume of a voxel, as `imaging.formats.volume.measurable_spacing`
            gives them.

    Returns:
        Label indices, (Z, Y, X); `labels` itself when there is no step.

    Raises:
        RecordError: If a step names a label that the encoding does not have.
    """
    for step in steps:
        match step:
            case KeepLargestComponent():
                labels = keep_largest_component(labels, indices_of(step.labels, encoding))
            case RemoveSmallComponents():
                smallest = smallest_kept_voxels(step.min_volume_mm3, spacing)
                labels = remove_small_components(labels, indices_of(step.labels, encoding), smallest)
            case FillHoles():
                indices = indices_of((step.label,), encoding)
                labels = fill_holes(labels, indices, _painted_index(step.label, encoding))
    return labels


def describe_step(step: PostprocessingStep) -> str:
    """Description of a step as part of a sentence.

    Examples:
        >>> describe_step(RemoveSmallComponents(labels=("liver", "tumour"), min_volume_mm3=50.0))
        'remove components of liver, tumour below 50 mm³ (2D: mm² or pixels)'
    """
    match step:
        case KeepLargestComponent():
            return f"keep the largest component of {shorten_names(step.labels)}"
        case RemoveSmallComponents():
            volume = f"{step.min_volume_mm3:g} mm³ (2D: mm² or pixels)"
            return f"remove components of {shorten_names(step.labels)} below {volume}"
        case FillHoles():
            return f"fill holes of {step.label}"


def check_labels_are_known(steps: Sequence[PostprocessingStep], encoding: LabelEncoding) -> None:
    """Check that the steps name labels of the encoding.

    Raises:
        RecordError: If one does not.
    """
    for step in steps:
        indices_of((step.label,) if isinstance(step, FillHoles) else step.labels, encoding)


def shorten_names(names: Sequence[str]) -> str:
    """All names, or the first few and how many there are."""
    few = ", ".join(names[:MAX_NAMES])
    return few if len(names) <= MAX_NAMES else f"{few}, ... ({len(names)} labels)"


def indices_of(names: Sequence[str], encoding: LabelEncoding) -> tuple[int, ...]:
    """Label indices of the union of labels or regions, ascending.

    Raises:
        RecordError: If a name is not in the encoding.
    """
    known = indices_by_label(encoding)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecordError(
            f"post-processing names labels that the model does not have: {', '.join(unknown)}; it has "
            f"{', '.join(known)}. Fix the recipe (selection.json), or run `autoseg select` again."
        )
    return tuple(sorted({index for name in names for index in known[name]}))


def keep_largest_component(labels: LabelIndices, indices: Sequence[int]) -> LabelIndices:
    """Keep only the largest connected component(s) of the union of some labels.

    Components of equal, largest size are all kept; what is removed becomes background.

    Args:
        labels: Label indices, (Z, Y, X); left as they are.
        indices: Label indices of the union; without 0.

    Returns:
        A new array, (Z, Y, X).

    References:
        nnU-Net v2 (Isensee et al. 2021), post-processing. As published.
    """
    return _remove_components(labels, indices, lambda sizes: sizes < sizes.max())


def remove_small_components(labels: LabelIndices, indices: Sequence[int], smallest: int) -> LabelIndices:
    """Remove connected components of the union of some labels that are too small; they become background.

    Args:
        labels: Label indices, (Z, Y, X); left as they are.
        indices: Label indices of the union; without 0.
        smallest: Voxels of the smallest component that is kept; see `smallest_kept_voxels`.

    Returns:
        A new array, (Z, Y, X).
    """
    return _remove_components(labels, indices, lambda sizes: sizes < smallest)


def smallest_kept_voxels(min_volume_mm3: float, spacing: Spacing) -> int:
    """Voxels of the smallest component that is not below a volume, at least 1.

    Examples:
        >>> smallest_kept_voxels(18.9, (3.0, 0.9, 0.7)), smallest_kept_voxels(19.0, (3.0, 0.9, 0.7))
        (10, 11)
    """
    return max(1, ceil(min_volume_mm3 / prod(spacing) * (1 - VOLUME_TOLERANCE)))


def fill_holes(labels: LabelIndices, indices: Sequence[int], painted_index: int) -> LabelIndices:
    """Fill the background that the union of some labels encloses.

    A hole is a part of what does not belong to the union that does not reach the border of the array; of a single
    slice only its outline is the border. Other labels inside a hole stay as they are, background becomes
    `painted_index`.

    Args:
        labels: Label indices, (Z, Y, X); left as they are.
        indices: Label indices of the union; without 0.
        painted_index: Index that is filled in.

    Returns:
        A new array, (Z, Y, X).
    """
    filled = labels.copy()
    mask, box = _find_union(labels, indices)
    if box is None:
        return filled
    parts = label_components(~mask[box], "face")
    del mask
    is_open = np.zeros(int(parts.max(initial=0)) + 1, dtype=bool)
    is_open[0] = True  # the union itself
    for axis, size in enumerate(labels.shape):
        if size > 1:  # beyond the box there is nothing of the union: it is the outside, or the border
            is_open[parts.take([0, -1], axis=axis)] = True
    for plane, found in zip(filled[box], parts, strict=True):
        plane[~is_open[found] & (plane == 0)] = painted_index
    return filled


def find_components(labels: LabelIndices, indices: Sequence[int]) -> tuple[Slices, NDArray[np.integer]] | None:
    """Components of the union of some labels.

    Args:
        labels: Label indices, (Z, Y, X).
        indices: Label indices of the union; without 0.

    Returns:
        The box of the union, and within it the component of each voxel, counted from 1; 0 is the rest. None when
        there is nothing of the union.
    """
    mask, box = _find_union(labels, indices)
    return None if box is None else (box, label_components(mask[box]))


def component_sizes(components: NDArray[np.integer]) -> NDArray[np.int64]:
    """Voxels by component, that of number 1 first; plane by plane, because counting copies with 8 bytes a voxel."""
    count = int(components.max(initial=0)) + 1
    sizes = np.zeros(count, dtype=np.int64)
    for plane in components:
        sizes += np.bincount(plane.ravel(), minlength=count)
    return sizes[1:]


def _remove_components(
    labels: LabelIndices,
    indices: Sequence[int],
    choose: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> LabelIndices:
    """Set components that are chosen by their sizes to background."""
    kept = labels.copy()
    found = find_components(labels, indices)
    if found is None:
        return kept
    box, components = found
    is_removed = np.concatenate([[False], choose(component_sizes(components))])
    for plane, numbers in zip(kept[box], components, strict=True):  # an array as index is first copied as int64
        plane[is_removed[numbers]] = 0
    return kept


def _find_union(labels: LabelIndices, indices: Sequence[int]) -> tuple[NDArray[np.bool_], Slices | None]:
    """Mask of the union, and its box; None instead of the box if the union has no voxel."""
    mask = np.empty(labels.shape, dtype=bool)
    for plane, values in zip(mask, labels, strict=True):
        plane[:] = np.isin(values, indices)
    boxes = ndimage.find_objects(mask.view(np.uint8))
    return mask, boxes[0] if boxes else None


def _painted_index(name: str, encoding: LabelEncoding) -> int:
    """Index that a label or region is written with; of a label with core and border that of the core."""
    return next(head.painted_index for head in encoding.heads if name in (head.name, head.part_of))
