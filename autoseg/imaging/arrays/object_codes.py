"""Label maps whose voxels know their object, too: one number for label and object.

Where networks learn objects one by one, what is stored as the label map of a preprocessed case holds codes

    code = label index + number of label indices * number of the object

so that everything that is done to label maps (resampling, cutting, rotating, mirroring) is done to objects. Background
is 0, outside the nonzero mask -1, as in other label maps. Objects are numbered from 1 over all labels of a case.
"""

import numpy as np
from numpy.typing import NDArray

from autoseg.components import label_components
from autoseg.errors import DatasetError
from autoseg.records.dataset import LabelEncoding

MAX_CODE = int(np.iinfo(np.int16).max)


def encode_objects(
    labels: NDArray[np.int16], encoding: LabelEncoding, ids: NDArray[np.integer] | None
) -> NDArray[np.int16]:
    """Give every voxel of an object its code.

    Args:
        labels: Label indices, (Z, Y, X).
        encoding: Labels, not regions, without an ignore label.
        ids: Number of each voxel's object, (Z, Y, X), 0 for none; None: objects are the components of each label, in
            which voxels that touch at a corner are together. An object of several labels counts as one for each.

    Returns:
        Codes, (Z, Y, X). Foreground without a number is background: it is no object.

    Raises:
        DatasetError: If there are more objects than codes.
    """
    count = len(encoding.values)
    codes = np.zeros(labels.shape, dtype=np.int16)
    found = 0
    for label in range(1, count):
        mask = labels == label
        if not mask.any():
            continue
        numbers = label_components(mask) if ids is None else np.where(mask, ids, 0)
        values, positions = np.unique(numbers[mask], return_inverse=True)
        of_object = np.arange(1, len(values) + 1) + found
        if (found + len(values)) * count + label > MAX_CODE:
            raise DatasetError(
                f"more than {MAX_CODE // count - 1} objects, expected fewer in one case with {count - 1} labels. Cut "
                "the image into parts, each a case of its own"
            )
        coded = np.where(values > 0, label + count * of_object, 0)
        codes[mask] = coded[positions.ravel()]
        found += len(values)
    return codes


def decode_labels(codes: NDArray[np.int16], encoding: LabelEncoding) -> NDArray[np.int16]:
    """Label indices of codes, (Z, Y, X); -1 outside the nonzero mask stays."""
    return np.where(codes > 0, codes % len(encoding.values), codes).astype(np.int16)
