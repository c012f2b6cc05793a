"""Operations of the part of a network that finds objects: feature pyramid, proposals, and the heads of the regions.

Pyramid and proposals are exact. The regions that training compares are counted as if a sample always had the planned
number, and as many objects among them as may be drawn; a patch with fewer objects costs less. A prediction has other
numbers of them (`at_prediction`).

Tested in tests/costs/test_detection.py.
"""

import math
from collections.abc import Iterator, Sequence

from autoseg.costs.operations import Operation
from autoseg.records.detection import DetectionSpec
from autoseg.records.network import NetworkSpec, Sizes

MASK_CONVOLUTIONS = 4
"""Convolutions of the mask head before its upsampling."""

SAMPLES_PER_BIN = 2
"""Sampling points along each axis of a bin of a region."""


def detection_operations(
    network: NetworkSpec, detection: DetectionSpec, shapes: Sequence[Sizes]
) -> Iterator[Operation]:
    """Everything behind the encoder, for one sample; shape of each level of the encoder, full resolution first."""
    voxels = [math.prod(shape) for shape in shapes]
    yield from _pyramid(network, detection, voxels)
    yield from _proposals(detection, [voxels[level] for level in detection.levels])
    objects = int(detection.regions_per_sample * detection.region_positive_fraction)
    yield from _box_head(detection, detection.regions_per_sample)
    yield from _mask_head(detection, objects)


def at_prediction(network: NetworkSpec) -> NetworkSpec:
    """The network as prediction uses it: every proposal has a box, and as many as are kept at most have a mask."""
    if network.detection is None:
        return network
    proposals, detections = network.detection.proposals, network.detection.detections
    numbers = {
        "regions_per_sample": proposals,
        "region_positive_fraction": min(detections / proposals, 1.0),
    }
    return network.model_copy(update={"detection": network.detection.model_copy(update=numbers)})


def _pyramid(network: NetworkSpec, detection: DetectionSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    """The lowest level first; a level keeps what its last convolution reads."""
    width, lowest = detection.pyramid_features, len(network.features) - 1
    for level in reversed(range(detection.levels[0], lowest + 1)):
        is_kept = level in detection.levels
        yield Operation("convolution", network.features[level], width, voxels[level], kept=is_kept and level == lowest)
        if level < lowest:
            yield Operation("interpolate", 1, width, voxels[level], kept=False)
            yield Operation("join", 1, width, voxels[level], kept=is_kept)
    for level in detection.levels:
        yield Operation("convolution", width, width, voxels[level], math.prod(network.kernel_sizes[level]))


def _proposals(detection: DetectionSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    """The same weights at every level."""
    width, anchors = detection.pyramid_features, len(detection.anchors[0])
    for position, count in enumerate(voxels):
        again = position > 0
        yield Operation("convolution", width, width, count, 3**detection.dimensions, repeated=again)
        yield Operation("head", width, anchors, count, kept=False, repeated=again)
        yield Operation("head", width, anchors * 2 * detection.dimensions, count, kept=False, repeated=again)


def _box_head(detection: DetectionSpec, regions: int) -> Iterator[Operation]:
    bins, width = math.prod(detection.box_size), detection.box_features
    yield from _regions(detection, regions, bins)
    yield Operation("linear", detection.pyramid_features * bins, width, regions)
    yield Operation("linear", width, width, regions)
    yield Operation("linear", width, detection.num_labels + 1, regions)
    yield Operation("linear", width, detection.num_labels * 2 * detection.dimensions, regions)


def _mask_head(detection: DetectionSpec, regions: int) -> Iterator[Operation]:
    width, bins = detection.pyramid_features, math.prod(detection.mask_roi_size)
    masks = math.prod(detection.mask_size)
    yield from _regions(detection, regions, bins)
    for _ in range(MASK_CONVOLUTIONS):
        yield Operation("convolution", width, width, regions * bins, 3**detection.dimensions)
    # kernel and stride are equal, so that every output voxel has one input voxel
    yield Operation("transposed", width, width, regions * masks, 2**detection.dimensions)
    yield Operation("convolution", width, detection.num_labels, regions * masks)


def _regions(detection: DetectionSpec, regions: int, bins: int) -> Iterator[Operation]:
    """Features at the sampling points, which the mean over a bin keeps, and those of the bins."""
    points = regions * bins * SAMPLES_PER_BIN**detection.dimensions
    yield Operation("interpolate", 1, detection.pyramid_features, points)
    yield Operation("average_pool", 1, detection.pyramid_features, regions * bins)
