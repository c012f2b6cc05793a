"""The heads that find objects as they usually are for a planned network, before the objects of the data are looked at.

Only levels and anchors follow from the objects, and they change costs little: so planners size a network with these.

Tested in tests/costs/test_usual_detection.py.
"""

import math
from collections.abc import Sequence

from autoseg.records.detection import Anchor, DetectionSpec
from autoseg.records.network import DETECTING, NetworkSpec

FINEST_LEVEL = 1
"""Finest level of the pyramid: half the resolution, because objects of medical images are small. Published: the second
(Lin et al. 2017)."""

PYRAMID_LEVELS = 4
"""Largest number of levels of the pyramid, as published (Lin et al. 2017, without the pooled fifth)."""

ANCHOR_EDGE = 4
"""Edge of an anchor in voxels of its level: 8 at half resolution, 16 at a quarter (as published: 32 at a quarter)."""

SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Factors of the anchors of one level (Lin et al., "Focal loss", 2017)."""

PYRAMID_WIDTH = 4
"""Feature maps of the pyramid for each of the encoder at full resolution (Jaeger et al. 2019)."""

BOX_WIDTH = 4
"""Numbers of a hidden layer of the box head for each feature map of the pyramid (1024 for 256 as published)."""

ROI_BINS = {2: (7, 14), 3: (5, 8)}
"""Bins along an axis for the box head and for the mask head, by dimensions; those of 2D as published."""

REGIONS = {2: 128, 3: 32}
"""Regions of each sample that are compared in training."""


def with_usual_detection(network: NetworkSpec) -> NetworkSpec:
    """The network with these heads in place of its decoder; as it is where its architecture cannot have them."""
    if network.architecture not in DETECTING:
        return network
    levels = usual_levels(network)
    return with_detection(network, levels, usual_anchors(network.strides, levels))


def with_detection(
    network: NetworkSpec, levels: tuple[int, ...], anchors: tuple[tuple[Anchor, ...], ...]
) -> NetworkSpec:
    """The network with a feature pyramid of some levels, and heads of usual widths.

    Args:
        network: Its architecture can have them.
        levels: Levels of the encoder that the pyramid has.
        anchors: Anchors of each level, voxels of the patch.
    """
    box, mask = ROI_BINS[network.dimensions]
    features = PYRAMID_WIDTH * network.features[0]
    detection = DetectionSpec(
        num_labels=network.output_channels - 1,
        levels=levels,
        anchors=anchors,
        pyramid_features=features,
        box_features=BOX_WIDTH * features,
        box_size=(box,) * network.dimensions,
        mask_roi_size=(mask,) * network.dimensions,
        regions_per_sample=REGIONS[network.dimensions],
    )
    return network.model_copy(update={"detection": detection, "deep_supervision": False})


def usual_levels(network: NetworkSpec) -> tuple[int, ...]:
    """Levels of the encoder that the pyramid has."""
    stop = min(len(network.features), FINEST_LEVEL + PYRAMID_LEVELS)
    return tuple(range(FINEST_LEVEL, stop))


def usual_anchors(strides: Sequence[Sequence[int]], levels: Sequence[int]) -> tuple[tuple[Anchor, ...], ...]:
    """Cubes of so many voxels of each level, in three sizes."""
    anchors = []
    for level in levels:
        step = [math.prod(sizes) for sizes in zip(*strides[: level + 1], strict=True)]
        anchors.append(tuple(tuple(ANCHOR_EDGE * scale * edge for edge in step) for scale in SCALES))
    return tuple(anchors)
