"""Operations on a finished label map. `select` finds out which of them help; prediction applies those."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as label_components

from autoseg.errors import RecordError
from autoseg.records.dataset import LabelEncoding, indices_by_label
from autoseg.records.postprocessing import PostprocessingStep

LabelIndices = NDArray[np.integer]
"""(Z, Y, X), indices of a LabelEncoding; 0 is background."""


def apply_postprocessing(
    labels: LabelIndices, steps: Sequence[PostprocessingStep], encoding: LabelEncoding
) -> LabelIndices:
    """Apply the steps of a recipe in their order.

    Args:
        labels: Label indices, (Z, Y, X); left as they are.
        steps: Recipe, with names of labels or regions.
        encoding: Says which indices a name stands for.

    Returns:
        Label indices, (Z, Y, X); `labels` itself when there is no step.

    Raises:
        RecordError: If a step names a label that the encoding does not have.
    """
    for step in steps:
        labels = keep_largest_component(labels, indices_of(step.labels, encoding))
    return labels


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
            f"{', '.join(known)}. Mend selection.json, or run `autoseg select` again."
        )
    return tuple(sorted({index for name in names for index in known[name]}))


def keep_largest_component(labels: LabelIndices, indices: Sequence[int]) -> LabelIndices:
    """Keep only the largest connected component(s) of the union of some labels.

    Voxels are connected when they share a face, an edge or a corner (26 neighbours, 8 in a single slice).
    Components of equal, largest size are all kept; what is removed becomes background.

    Args:
        labels: Label indices, (Z, Y, X); left as they are.
        indices: Label indices whose union is looked at; without 0.

    Returns:
        A new array, (Z, Y, X).

    References:
        nnU-Net v2 (Isensee et al. 2021), post-processing. As published.
    """
    kept = labels.copy()
    union = np.isin(labels, indices)
    boxes = ndimage.find_objects(union.view(np.uint8))
    if not boxes:
        return kept
    inside = union[boxes[0]]  # components need 4 to 8 bytes per voxel: label the foreground's box only
    components = label_components(inside, connectivity=inside.ndim)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    is_smaller = sizes < sizes.max()
    kept[boxes[0]][inside & is_smaller[components]] = 0
    return kept
