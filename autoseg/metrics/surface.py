"""Distances between the surfaces of two masks, in mm, every piece of surface weighted by its area.

A surface lies where the eight voxels (four pixels in a single slice) around a voxel corner are not all inside or all
outside. Each such corner is one surface element: it sits on the corner, and its area is that of the triangles which
marching cubes puts there (in a single slice: the length of contour). `measure_surfaces` does the work once; what is
reported comes from its result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]

TOLERANCE_SLACK = 1e-6
"""Relative: headers store spacings as float32, and a distance of exactly the tolerance is within it."""

_NEAR_SPACINGS = 10
"""Elements nearer than this many times the coarsest spacing are looked up in a tree: microseconds each."""

_VOXELS_PER_FAR_ELEMENT = 500
"""A look-up far away costs as much as the distance transform of this many voxels (measured: 60 to 400 against 0.2 to
0.6 microseconds)."""


@dataclass(frozen=True)
class SurfaceDistances:
    """From every surface element of one mask to the nearest of the other; infinite when the other has none."""

    prediction_to_reference_mm: Numbers
    """(P,)."""
    prediction_areas: Numbers
    """(P,), mm²; in a single slice mm."""
    reference_to_prediction_mm: Numbers
    """(R,)."""
    reference_areas: Numbers
    """(R,), mm²; in a single slice mm."""

    @property
    def has_both(self) -> bool:
        """Whether both masks have a surface; else there is no distance between them."""
        return bool(self.prediction_areas.size and self.reference_areas.size)


def measure_surfaces(
    prediction: Mask, reference: Mask, spacing: Sequence[float], ignored: Mask | None = None
) -> SurfaceDistances:
    """Find both surfaces and the distances between them.

    The axes are taken as if they were at right angles: on the grid of a tilted gantry, which is sheared, slices are
    compared as if they were not shifted against each other, and lie their edge's length apart.

    Outside of the image counts as background, so a structure that the image cuts off is closed there. Surface
    elements that touch an ignored voxel are left out of both surfaces.

    Args:
        prediction: (Z, Y, X). An axis of length 1 makes it a single slice, whose surface is the contour.
        reference: (Z, Y, X), on the same grid.
        spacing: mm, (z, y, x); all positive.
        ignored: (Z, Y, X), voxels that are not counted; they should be in neither mask. None: all are counted.

    Returns:
        Distances and areas. Working memory grows with the box of both masks: about 6 bytes a voxel, 13 more when much
        of one surface is far from the other.

    Raises:
        ValueError: If the masks differ in shape.

    References:
        Nikolov et al. 2018, Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
        radiotherapy: surface elements and their areas, as its package surface-distance has them. The areas are
        computed here, see `_triangles`. Differs: elements beside ignored voxels are left out.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"masks have the shapes {prediction.shape} and {reference.shape}; both must be on one grid")
    axes = _extended_axes(prediction.shape)
    box = _box_with_margin(prediction | reference)
    lengths = tuple(float(spacing[axis]) for axis in axes)
    areas = _element_areas(lengths)
    codes = [_corner_codes(mask[box], axes) for mask in (prediction, reference)]
    surfaces = [areas[of_mask] > 0 for of_mask in codes]
    if ignored is not None:
        beside = _corner_codes(ignored[box], axes) > 0
        surfaces = [surface & ~beside for surface in surfaces]
    own, other = surfaces
    return SurfaceDistances(
        prediction_to_reference_mm=_distances(own, other, lengths),
        prediction_areas=areas[codes[0][own]],
        reference_to_prediction_mm=_distances(other, own, lengths),
        reference_areas=areas[codes[1][other]],
    )


def average_surface_distance(surfaces: SurfaceDistances) -> float | None:
    """Mean distance over both surfaces together, weighted by area (ASSD), mm; None when either mask has no surface.

    The one average that is reported: what is called ASD elsewhere is this, or the mean of one direction.

    References:
        Heimann et al. 2009, Comparison and evaluation of methods for liver segmentation, average symmetric surface
        distance. Differs: weighted by area instead of counting surface voxels.
    """
    if not surfaces.has_both:
        return None
    there = float(surfaces.prediction_to_reference_mm @ surfaces.prediction_areas)
    back = float(surfaces.reference_to_prediction_mm @ surfaces.reference_areas)
    return (there + back) / float(surfaces.prediction_areas.sum() + surfaces.reference_areas.sum())


def hausdorff_distance(surfaces: SurfaceDistances, fraction: float = 1.0) -> float | None:
    """Distance within which a fraction of each surface lies from the other one, mm.

    Args:
        surfaces: Distances between the surfaces of two masks.
        fraction: Fraction of the area, (0, 1]. 1.0: the largest distance, called Hausdorff or maximum surface distance
            (MSD). 0.95: HD95.

    Returns:
        The larger of both directions; of one direction the smallest distance such that elements up to it make up the
        fraction of the area. None when either mask has no surface.

    References:
        Huttenlocher et al. 1993; percentile by area as in Nikolov et al. 2018.
    """
    if not surfaces.has_both:
        return None
    return max(
        _quantile(surfaces.prediction_to_reference_mm, surfaces.prediction_areas, fraction),
        _quantile(surfaces.reference_to_prediction_mm, surfaces.reference_areas, fraction),
    )


def surface_dice(surfaces: SurfaceDistances, tolerance_mm: float) -> float | None:
    """Fraction of both surfaces together that lies within a tolerance of the other one.

    Args:
        surfaces: Distances between the surfaces of two masks.
        tolerance_mm: At least 0; a distance of exactly this much is within it.

    Returns:
        [0, 1]: 0 when one mask has no surface; None when neither has one.

    References:
        Nikolov et al. 2018, surface Dice similarity coefficient. As published.
    """
    total = float(surfaces.prediction_areas.sum() + surfaces.reference_areas.sum())
    if not total:
        return None
    limit = tolerance_mm * (1 + TOLERANCE_SLACK)
    near = surfaces.prediction_areas[surfaces.prediction_to_reference_mm <= limit].sum()
    near += surfaces.reference_areas[surfaces.reference_to_prediction_mm <= limit].sum()
    return min(1.0, float(near) / total)  # sums in another order may differ in the last digit


def largest_distance_mm(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Diagonal of the image, which no distance between two surfaces in it exceeds; of a single slice: its own.

    Args:
        shape: Voxels, (z, y, x).
        spacing: mm, (z, y, x).
    """
    return float(np.linalg.norm([shape[axis] * spacing[axis] for axis in _extended_axes(shape)]))


def _extended_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """All three axes, or the two others when one has length 1."""
    flat = next((axis for axis, size in enumerate(shape) if size == 1), None)
    return tuple(axis for axis in range(len(shape)) if axis != flat)


def _box_with_margin(mask: Mask) -> tuple[slice, ...]:
    """The mask's box and one voxel around it, within the image; all of an empty mask is no more than one voxel."""
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        return (slice(0, 1),) * mask.ndim
    return tuple(slice(max(0, side.start - 1), side.stop + 1) for side in boxes[0])


def _corner_codes(mask: Mask, axes: tuple[int, ...]) -> NDArray[np.uint8]:
    """Which of the voxels around each voxel corner are in the mask.

    Args:
        mask: (Z, Y, X); outside of it is background.
        axes: Two or three of its axes; the other one has length 1.

    Returns:
        One longer along each of the axes; bit 4 z + 2 y + x stands for the voxel at (z, y, x) of the eight, each 0 or
        1; of the four of a slice, bit 2 y + x.
    """
    flat = tuple(axis for axis in range(mask.ndim) if axis not in axes)
    codes = np.pad(mask.squeeze(flat), 1).view(np.uint8)
    for number, axis in enumerate(reversed(range(codes.ndim))):
        first, second = (np.moveaxis(codes, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        codes = np.moveaxis(first | (second << 2**number), 0, axis)
    return codes


def _distances(own: Mask, other: Mask, lengths: Sequence[float]) -> Numbers:
    """From each element of `own`, in C order, to the nearest of `other`, mm; infinite without such an element."""
    distances = np.zeros(np.count_nonzero(own))
    if not other.any():
        distances[:] = np.inf
        return distances
    corners = np.argwhere(own & ~other)  # the rest is on the other surface: distance 0
    # without tight boxes around its nodes the tree answers far questions many times faster
    tree = cKDTree(np.argwhere(other) * lengths, leafsize=32, balanced_tree=False, compact_nodes=False)
    apart, _ = tree.query(corners * lengths, distance_upper_bound=_NEAR_SPACINGS * max(lengths))
    is_far = np.isinf(apart)
    if np.count_nonzero(is_far) * _VOXELS_PER_FAR_ELEMENT < other.size:
        apart[is_far], _ = tree.query(corners[is_far] * lengths)
    else:
        apart[is_far] = _transformed_distances(corners[is_far], other, lengths)
    distances[~other[own]] = apart
    return distances


def _transformed_distances(corners: NDArray[np.intp], other: Mask, lengths: Sequence[float]) -> Numbers:
    """The same for many corners (N, D) at once: the nearest element of every place in the box is found."""
    nearest = ndimage.distance_transform_edt(~other, sampling=lengths, return_distances=False, return_indices=True)
    offsets = (nearest[:, *corners.T].T - corners) * lengths
    distances: Numbers = np.linalg.norm(offsets, axis=1)
    return distances


def _quantile(distances: Numbers, areas: Numbers, fraction: float) -> float:
    order = np.argsort(distances)
    reached = np.cumsum(areas[order])
    position = np.searchsorted(reached, fraction * reached[-1])
    return float(distances[order][min(int(position), len(order) - 1)])


@lru_cache(maxsize=64)  # spacings of the cases in a row are mostly few
def _element_areas(lengths: tuple[float, ...]) -> Numbers:
    """Area of the surface element, mm² (in a slice mm), by corner code: (256,), or (16,) in a slice."""
    if len(lengths) == 2:
        return _contour_lengths(*lengths)
    z, y, x = lengths
    stretched = (y * x, z * x, z * y)  # an area across z grows with y and x
    return np.array([np.linalg.norm(vectors * stretched, axis=1).sum() for vectors in _triangles()])


def _contour_lengths(y: float, x: float) -> Numbers:
    """Length of contour by code of four pixels: a straight line between two pairs, else a cut across each corner."""
    corner = np.hypot(y, x) / 2
    lengths = np.zeros(16)
    lengths[[0b0011, 0b1100]] = x
    lengths[[0b0101, 0b1010]] = y
    lengths[[0b0110, 0b1001]] = 2 * corner
    lengths[[0b0001, 0b0010, 0b0100, 0b1000, 0b1110, 0b1101, 0b1011, 0b0111]] = corner
    return lengths


@lru_cache(maxsize=1)
def _triangles() -> tuple[Numbers, ...]:
    """Area vectors (T, 3), (z, y, x), of the triangles at a corner of unit voxels, by corner code.

    References:
        Lorensen and Cline 1987, marching cubes. A code and its complement have the same surface: the one around the
        voxels that are fewer. scikit-image's tables treat the complement otherwise, so only codes of up to four
        voxels are asked for.
    """
    by_code = []
    for code in range(256):
        inside = code if code.bit_count() <= 4 else 255 - code
        by_code.append(_area_vectors(inside) if inside else np.zeros((0, 3)))
    return tuple(by_code)


def _area_vectors(code: int) -> Numbers:
    cube = np.array([code >> bit & 1 for bit in range(8)], dtype=np.float32).reshape(2, 2, 2)
    vertices, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen")
    first, second, third = (vertices[faces[:, number]].astype(np.float64) for number in range(3))
    vectors: Numbers = np.cross(second - first, third - first) / 2
    return vectors
