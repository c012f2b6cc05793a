"""Surfaces of structures in label maps, as triangles in the coordinates of the patient.

Tested in tests/imaging/arrays/test_meshes.py.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from skimage.measure import marching_cubes

from autoseg.imaging.formats.mesh_files import Mesh
from autoseg.records.case import Affine

SMOOTHING_ROUNDS = 20
"""Rounds of smoothing: steps of slices a few voxels thick disappear, and volumes stay."""

SHRINKING, GROWING = 0.5, -0.53
"""Fractions of the way towards the mean of the neighbours, in turn; Taubin's, which keep volumes."""


def make_mesh(mask: NDArray[np.bool_], affine: Affine, *, smooth: bool = False) -> Mesh | None:
    """Find the surface of a structure: half-way between its voxels and their neighbours, and closed everywhere.

    A voxel at the border of the image is part of the structure up to its outer face, as everywhere else.

    Args:
        mask: Voxels of the structure, (Z, Y, X).
        affine: Voxel index (z, y, x, 1) to world mm (x, y, z towards right, anterior, superior).
        smooth: Whether steps between voxels are smoothed.

    Returns:
        The mesh, in mm towards left, posterior, superior; None if no voxel is in the mask. Memory: some 200 bytes for
        each voxel on the surface, and 4 for each in the structure's box.

    References:
        Lewiner et al. 2003, "Efficient implementation of marching cubes' cases with topological guarantees".
    """
    box = next(iter(ndimage.find_objects(mask.view(np.uint8))), None)
    if box is None:
        return None
    cropped = mask[box]
    padded = np.zeros(tuple(size + 2 for size in cropped.shape), dtype=np.float32)
    padded[1:-1, 1:-1, 1:-1] = cropped
    indices, triangles, _, _ = marching_cubes(padded, level=0.5, allow_degenerate=False)
    first = np.array([side.start - 1 for side in box])
    to_patient = np.diag([-1.0, -1.0, 1.0]) @ np.array(affine)[:3]
    points = (indices + first) @ to_patient[:, :3].T + to_patient[:, 3]
    # scikit-image turns triangles clockwise, seen from outside, where the axes are right-handed in the order z, y, x
    if np.linalg.det(to_patient[:, :3]) > 0:
        triangles = triangles[:, ::-1]
    if smooth:
        points = _smooth(points, triangles)
    return Mesh(points=points.astype(np.float32), triangles=np.ascontiguousarray(triangles, dtype=np.int32))


def _smooth(points: NDArray[np.float64], triangles: NDArray[np.integer]) -> NDArray[np.float64]:
    """Move each point towards the mean of its neighbours, and a little further back, several times.

    References:
        Taubin 1995, "A signal processing approach to fair surface design".
    """
    starts, ends = triangles.ravel(), np.roll(triangles, -1, axis=1).ravel()
    edges = sparse.csr_array((np.ones(len(starts), dtype=np.float32), (starts, ends)), shape=(len(points),) * 2)
    num_neighbours = edges.sum(axis=1)[:, None]
    for _ in range(SMOOTHING_ROUNDS):
        for fraction in (SHRINKING, GROWING):
            points = points + fraction * (edges @ points / num_neighbours - points)
    return points
