"""How far probability lies outside the reference's boundary.

The distance maps are made on the CPU by scipy, two transforms for each sample and foreground class: about 0.2
microseconds per voxel and class on one core (90,000 voxels and two classes, batch 2: 65 ms). The loader's workers make
them with each batch, so that neither the training process nor a GPU waits for them. A loss that is called without them
makes the same ones itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import Configuration
from autoseg.training.losses.level import Level, downsample_target, mean_of, region_target


@dataclass(frozen=True)
class BoundaryTerm:
    """Mean over annotated voxels and foreground classes of probability times signed distance to the reference.

    It has no lower bound of its own and is empty for a class absent from the patch, so it only goes with a term of
    overlap. Every level has its own distances, in its own voxels: the lower ones cost a seventh of the full one (3D).

    References:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019. Differs: distances run to the face
        between two voxels, which makes them symmetric; averaged over annotated voxels; distances in voxels, whatever
        the spacing.
    """

    def sums(self, level: Level) -> Tensor:
        """Sum probability times distance and count voxels times classes, (2,)."""
        probabilities = level.probabilities  # (B, F, V)
        distances = level.distances
        if distances is None:
            distances = torch.from_numpy(_distances_of(level)).to(probabilities.device)
        count = level.annotated_per_sample().sum() * probabilities.shape[1]
        return torch.stack([(probabilities * distances).sum(), count.to(probabilities.dtype)])

    def value(self, sums: Tensor) -> Tensor:
        """Take the mean, 0 when nothing is annotated."""
        return mean_of(sums)


def distance_shapes(configuration: Configuration) -> tuple[tuple[int, ...], ...]:
    """Spatial shapes of the outputs that the boundary loss weighs, full resolution first; none for other losses.

    Example: patch (32, 64, 64), strides (1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2) and deep supervision have the
    outputs (32, 64, 64), (32, 32, 32) and (16, 16, 16), of which the last one has no weight.
    """
    if configuration.training.loss != "boundary":
        return ()
    network = configuration.network
    num_outputs = len(network.features) - 1 if network.deep_supervision else 1
    shapes, shape = [], np.array(configuration.patch_size)
    for strides in network.strides[: max(1, num_outputs - 1)]:
        shape = shape // np.array(strides)
        shapes.append(tuple(shape.tolist()))
    return tuple(shapes)


def count_distance_classes(encoding: LabelEncoding) -> int:
    """Number of classes that have a distance map: foreground labels, or regions."""
    return len(encoding.heads) - (encoding.activation == "softmax")


def measure_distances(
    target: NDArray[np.integer], encoding: LabelEncoding, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Signed distances of every sample and class at one level.

    Args:
        target: Label indices at full resolution as the loss gets them, (B, *S); not negative.
        encoding: Labels of the dataset.
        shape: Spatial shape of the level.

    Returns:
        Voxels of the level, (B, F, *shape), for its F foreground labels or regions.
    """
    labels = downsample_target(torch.from_numpy(target), shape)
    if encoding.activation == "sigmoid":
        regions, mask = region_target(labels, encoding)
        return _distances(regions.bool().numpy(), None if mask is None else mask.bool().numpy())
    foreground = torch.arange(1, len(encoding.heads)).view(1, -1, *(1,) * len(shape))
    inside = (labels.unsqueeze(1) == foreground).numpy()
    if encoding.ignore_value is None:
        return _distances(inside, None)
    return _distances(inside, (labels != len(encoding.values)).unsqueeze(1).numpy())


def _distances_of(level: Level) -> NDArray[np.float32]:
    """Signed distances of a level that has none yet, (B, F, V)."""
    inside = (level.reference > 0).cpu().numpy()
    annotated = None if level.annotated is None else level.annotated.cpu().numpy().reshape(-1, 1, *level.spatial_shape)
    return _distances(inside.reshape(*inside.shape[:2], *level.spatial_shape), annotated).reshape(inside.shape)


def _distances(inside: NDArray[np.bool_], annotated: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Signed distances of masks (B, F, *S), of which those of one sample have the same annotated voxels (B, 1, *S)."""
    outside = ~inside if annotated is None else ~inside & annotated
    distances = np.empty(inside.shape, np.float32)
    for index in np.ndindex(*inside.shape[:2]):
        distances[index] = signed_distance(inside[index], outside[index])
    return distances


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
