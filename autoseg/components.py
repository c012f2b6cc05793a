"""Connected components of a mask: the one place where they are found and numbered.

cc3d (package connected-components-3d, extra `fast`) is used where it is installed, else scikit-image. Both give the
same numbers.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as label_by_skimage

try:
    import cc3d
except ImportError:
    cc3d = None

Connectivity = Literal["full", "face"]
"""Voxels are neighbours when they share a face, an edge or a corner (`full`: 26, in one slice 8), or a face alone
(`face`: 6, in one slice 4)."""

ComponentLibrary = Literal["cc3d", "scikit-image"]

INSTALLED_LIBRARY: ComponentLibrary = "scikit-image" if cc3d is None else "cc3d"

_NEIGHBOURS = {"full": 26, "face": 6}
"""Neighbours that cc3d asks for; flat images have a third axis of length 1 there."""


def label_components(
    mask: NDArray[np.bool_], connectivity: Connectivity = "full", *, library: ComponentLibrary = INSTALLED_LIBRARY
) -> NDArray[np.integer]:
    """Number the connected components of a mask; needs 4 to 8 bytes a voxel.

    Args:
        mask: (Z, Y, X) or (Y, X).
        connectivity: Which voxels are neighbours.
        library: Library that finds them; the fast one where it is installed, unless a test asks for another.

    Returns:
        Same shape, 0 outside the mask; components are counted from 1, in the order of their first voxels.
    """
    if library == "cc3d":
        # cc3d 4.1.1 makes too little room for the numbers of many small components where axes have odd lengths, and
        # numbers the components of flat images, whose corners join, in blocks of 2 x 2.
        flat = 3 - mask.ndim
        inside = (0,) * flat + tuple(slice(size) for size in mask.shape)
        padded = np.zeros([1] * flat + [size + 1 for size in mask.shape], dtype=bool)
        padded[inside] = mask
        numbered: NDArray[np.integer] = cc3d.connected_components(padded, connectivity=_NEIGHBOURS[connectivity])[
            inside
        ]
        return numbered
    by_skimage: NDArray[np.integer] = label_by_skimage(mask, connectivity=mask.ndim if connectivity == "full" else 1)
    return by_skimage
