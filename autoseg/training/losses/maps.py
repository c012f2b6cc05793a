"""What some losses need to know of the reference, as one map for each class: distances to its boundary, its skeleton.

The maps are made on the CPU. The loader's workers make them with each batch, so that neither the training process nor a
GPU waits for them. A loss that is called without them makes the same ones itself. Distances are two transforms of
scipy's for each sample and foreground class: about 0.2 microseconds per voxel and class on one core (90,000 voxels and
two classes, batch 2: 65 ms). A skeleton is scikit-image's, of the box around a class.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize
from torch import Tensor

from autoseg.records.dataset import LabelEncoding
from autoseg.records.losses import LossName
from autoseg.records.network import list_head_levels
from autoseg.records.plan import Configuration
from autoseg.training.losses.level import Level, downsample_target, region_target
from autoseg.training.losses.partial_labels import split_target

MaskMap = Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.float32]]
"""Where a class is and where it is not, (*S) each, to a map, (*S); voxels in neither are ignored."""

TUBE_RADIUS: Final = 2
"""Voxels by which a skeleton is dilated; Kirchhoff et al. (2024)."""


def signed_distance(inside: NDArray[np.bool_], outside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Measure how far each voxel is from the boundary, negative inside.

    From the voxel's centre to the nearest centre on the other side, less half a voxel: the two voxels at a face have
    -1/2 and 1/2.

    Args:
        inside: The class, any number of axes.
        outside: What is not the class, same shape. Voxels in neither are ignored: what borders on them is no boundary.

    Returns:
        Voxels; 0 everywhere when either side is empty, for there is no boundary; meaningless on ignored voxels.
    """
    if not inside.any() or not outside.any():
        return np.zeros(inside.shape, np.float32)
    to_inside = ndimage.distance_transform_edt(~inside)
    to_outside = ndimage.distance_transform_edt(~outside)
    distances: NDArray[np.float64] = np.where(inside, 0.5 - to_outside, to_inside - 0.5)
    return distances.astype(np.float32)


def tubed_skeleton(inside: NDArray[np.bool_], _outside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Skeleton of a class, dilated by up to two steps between faces, inside the class.

    Args:
        inside: The class, two or three axes.

    Returns:
        1 in the tube, 0 elsewhere and so on ignored voxels.

    References:
        Kirchhoff et al., Skeleton recall loss for connectivity conserving and resource efficient segmentation of thin
        tubular structures, 2024. Differs: a skeleton of each class or region, not of all foreground at once, so that
        classes that touch and regions in each other have theirs.
    """
    tube = np.zeros(inside.shape, np.float32)
    boxes = ndimage.find_objects(inside.astype(np.uint8))
    for box in boxes:
        mask = np.ascontiguousarray(inside[box])
        cross = ndimage.generate_binary_structure(mask.ndim, 1)
        tube[box] = ndimage.binary_dilation(skeletonize(mask), cross, iterations=TUBE_RADIUS) & mask
    return tube


MAPS: Final[Mapping[LossName, MaskMap]] = {"boundary": signed_distance, "skeleton_recall": tubed_skeleton}
"""The map that a loss needs; other losses need none."""


def map_shapes(configuration: Configuration) -> tuple[tuple[int, ...], ...]:
    """Spatial shapes of the outputs whose loss needs maps, full resolution first; none for most losses.

    Example: patch (32, 64, 64), strides (1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2) and deep supervision have the
    outputs (32, 64, 64), (32, 32, 32) and (16, 16, 16), of which the last one has no weight. Those of a nested U-Net
    are all of the finest shape. With a point head the finest level is its coarse one.
    """
    if configuration.training.loss not in MAPS:
        return ()
    network = configuration.network
    levels = list_head_levels(network)
    weighted = levels[: max(1, len(levels) - 1)]
    shapes, shape = [], np.array(configuration.patch_size)
    for strides in network.strides[: weighted.stop]:
        shape = shape // np.array(strides)
        shapes.append(tuple(shape.tolist()))
    if network.skip == "nested":
        return (shapes[network.coarse_level],) * len(weighted)
    return tuple(shapes[network.coarse_level :])


def count_map_classes(encoding: LabelEncoding) -> int:
    """Number of classes that have a map: foreground labels, or regions."""
    return len(encoding.heads) - (encoding.activation == "softmax")


def make_maps(
    target: NDArray[np.integer], encoding: LabelEncoding, shape: tuple[int, ...], make_map: MaskMap
) -> NDArray[np.float32]:
    """Maps of every sample and class at one level.

    Args:
        target: Label indices at full resolution as the loss gets them, with numbers of sets, (B, *S); not negative.
        encoding: Labels of the dataset.
        shape: Spatial shape of the level.
        make_map: What to make of each class, in voxels of the level.

    Returns:
        (B, F, *shape), for the F foreground labels or regions.
    """
    labels, looked_for = split_target(downsample_target(torch.from_numpy(target), shape), encoding)
    if encoding.activation == "sigmoid":
        regions, mask = region_target(labels, encoding)
        if looked_for is not None:
            regions = regions * looked_for.view(*looked_for.shape, *(1,) * len(shape))
        return _maps(regions.bool().numpy(), None if mask is None else mask.bool().numpy(), make_map)
    foreground = torch.arange(1, len(encoding.heads)).view(1, -1, *(1,) * len(shape))
    inside = (labels.unsqueeze(1) == foreground).numpy()
    if encoding.ignore_value is None:
        return _maps(inside, None, make_map)
    return _maps(inside, (labels != len(encoding.values)).unsqueeze(1).numpy(), make_map)


def maps_of_level(level: Level, make_map: MaskMap) -> Tensor:
    """The maps that came with a level, or the same ones made now, (B, F, V) float32 on the level's device."""
    if level.maps is not None:
        return level.maps
    inside = (level.reference > 0).cpu().numpy()
    shape, annotated = level.spatial_shape, None
    if level.annotated is not None:
        annotated = level.annotated.cpu().numpy().reshape(*level.annotated.shape[:2], *shape)
    maps = _maps(inside.reshape(*inside.shape[:2], *shape), annotated, make_map).reshape(inside.shape)
    return torch.from_numpy(maps).to(level.probabilities.device)


def _maps(inside: NDArray[np.bool_], annotated: NDArray[np.bool_] | None, make_map: MaskMap) -> NDArray[np.float32]:
    """Maps of masks (B, F, *S) whose annotated voxels are (B, F, *S), or the same for all of a sample, (B, 1, *S)."""
    outside = ~inside if annotated is None else ~inside & annotated
    maps = np.empty(inside.shape, np.float32)
    for index in np.ndindex(*inside.shape[:2]):
        maps[index] = make_map(inside[index], outside[index])
    return maps
