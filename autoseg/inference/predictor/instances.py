"""Find and measure the objects of one predicted image: size, place, bounds, mean probability.

Tested in tests/inference/files/test_instance_table.py and tests/stages/test_predict_instances.py.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.imaging.arrays.instances import find_instances
from autoseg.imaging.formats.volume import orient_grid, restore_array, voxel_mm3
from autoseg.inference.models.label_colors import value_names
from autoseg.records.case import Grid, Orientation
from autoseg.records.dataset import LabelEncoding
from autoseg.records.prediction import Instance, Instances


def find_instances_of_image(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    encoding: LabelEncoding,
    grid: Grid,
    orientation: Orientation,
    *,
    is_flat: bool,
) -> Instances:
    """Find the objects of each label of an image, and measure them.

    Args:
        labels: Label indices (Z, Y, X), working orientation.
        probabilities: Probabilities of these labels, (Z, Y, X), working orientation; voxels with NaN do not count.
        encoding: Indices and values of the labels.
        grid: Grid of the image in stored order.
        orientation: Way from stored to working axes.
        is_flat: Whether the image has two dimensions.
    """
    ids, owners = find_instances(labels, encoding, orient_grid(grid, orientation).spacing)
    ids, probabilities = restore_array(ids, orientation), restore_array(probabilities, orientation)
    table = measure_instances(ids, owners, value_names(encoding), grid, probabilities, is_flat=is_flat)
    return Instances(ids=ids, table=table)


def measure_instances(
    ids: NDArray[np.unsignedinteger],
    owners: Sequence[int],
    names: Mapping[int, str],
    grid: Grid,
    probabilities: NDArray[np.floating] | None,
    *,
    is_flat: bool,
) -> tuple[Instance, ...]:
    """Measure all instances of one case, slice by slice.

    Args:
        ids: Numbers of instances (Z, Y, X), 1 to n, stored order.
        owners: Value in the label map of each instance, by number - 1.
        names: Name of each value.
        grid: Grid of the image.
        probabilities: Probabilities of the decided labels, (Z, Y, X); voxels with NaN do not count. None: not known.
        is_flat: Whether the image has two dimensions, and so no volumes and no place in the world.

    Returns:
        The instances, in the order of their numbers.
    """
    voxels, positions, means = _add_up(ids, len(owners), probabilities)
    affine = np.array(grid.affine)
    volume_mm3 = voxel_mm3(grid)
    found = []
    for number, (owner, box) in enumerate(zip(owners, ndimage.find_objects(ids), strict=True), start=1):
        center = positions[:, number] / voxels[number]
        world = affine @ [*center, 1.0]
        found.append(
            Instance(
                id=number,
                label=names[owner],
                value=owner,
                voxels=int(voxels[number]),
                volume_mm3=None if is_flat else float(voxels[number]) * volume_mm3,
                mean_probability=None if np.isnan(means[number]) else float(means[number]),
                touches_border=any(
                    length > 1 and (edge.start == 0 or edge.stop == length)
                    for edge, length in zip(box, ids.shape, strict=True)
                ),
                center=(float(center[0]), float(center[1]), float(center[2])),
                center_mm=None if is_flat else (float(world[0]), float(world[1]), float(world[2])),
                start=(box[0].start, box[1].start, box[2].start),
                stop=(box[0].stop, box[1].stop, box[2].stop),
            )
        )
    return tuple(found)


def _add_up(
    ids: NDArray[np.unsignedinteger], count: int, probabilities: NDArray[np.floating] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """For every number: voxels (N,), sums of their indices (3, N), mean probability (N,), NaN where it is not known."""
    size = count + 1
    voxels, known, total = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64), np.zeros(size)
    positions = np.zeros((3, size))
    rows, columns = (axis.ravel() for axis in np.indices(ids.shape[1:]))
    for z, plane in enumerate(ids):
        flat = plane.ravel()
        counts = np.bincount(flat, minlength=size)
        voxels += counts
        positions[0] += z * counts
        positions[1] += np.bincount(flat, weights=rows, minlength=size)
        positions[2] += np.bincount(flat, weights=columns, minlength=size)
        if probabilities is not None:
            values = probabilities[z].ravel().astype(np.float64)
            given = ~np.isnan(values)
            known += np.bincount(flat[given], minlength=size)
            total += np.bincount(flat[given], weights=values[given], minlength=size)
    unknown = np.full(size, np.nan)
    return voxels, positions, np.divide(total, known, out=unknown, where=known > 0)
