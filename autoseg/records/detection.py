"""How a network finds objects one by one: anchors, regions of interest and the numbers of both (Mask R-CNN).

Sizes per axis are (z, y, x), or (y, x) in a 2D network. The defaults are those that were published for images of two
axes, with fewer regions per sample, because medical patches have fewer objects than photographs.

References:
    Ren et al., "Faster R-CNN", 2015. Lin et al., "Feature pyramid networks", 2017. He et al., "Mask R-CNN", 2017.
    Jaeger et al., "Retina U-Net", 2019 (anchors and numbers for medical images in three dimensions).

Tested in tests/records/test_detection.py.
"""

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, model_validator

from autoseg.records.files import FieldFault, Record, refuse_faults

Number = Annotated[int, Field(gt=0, le=2**16)]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

RoiSize = Annotated[tuple[Number, ...], Field(min_length=2, max_length=3)]
"""Bins along each axis, into which every region of interest is divided whatever its size."""

Anchor = tuple[PositiveFloat, ...]
"""Size of a box in voxels of the patch, one per axis."""


class DetectionSpec(Record):
    """Feature pyramid, region proposals, regions of interest, and what is kept of all detections."""

    num_labels: Number
    """Foreground labels."""
    levels: Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1)]
    """Levels of the encoder that the feature pyramid has and that have anchors; ascending without a gap, 0 is full
    resolution."""
    anchors: tuple[Annotated[tuple[Anchor, ...], Field(min_length=1)], ...]
    """Anchors of each level, centred at every voxel of it; the same number at each level. A region is taken from the
    level whose anchors are nearest to it in size."""
    pyramid_features: Number = 64
    """Feature maps of every level of the pyramid."""
    box_features: Number = 256
    """Numbers of each of the two hidden layers of the box head (1024 as published)."""
    box_size: RoiSize
    """Bins of a region for the box head; 7 along an axis as published."""
    mask_roi_size: RoiSize
    """Bins of a region for the mask head; 14 along an axis as published. Masks have twice as many."""
    anchor_positive_iou: Fraction = 0.7
    """Anchors that overlap an object so much are taken for it; its best anchor always is."""
    anchor_negative_iou: Fraction = 0.3
    """Anchors that overlap every object less are taken for background."""
    anchors_per_sample: Number = 256
    """Anchors of each sample that the loss of the region proposals compares."""
    anchor_positive_fraction: Fraction = 0.5
    """Largest fraction of them that are objects'."""
    proposals_per_level: Number = 1000
    """Best proposals of each level of the pyramid that non-maximum suppression sees."""
    proposal_nms_iou: Fraction = 0.7
    proposals: Number = 500
    """Proposals of each sample that are kept."""
    regions_per_sample: Number = 128
    """Regions of each sample that the losses of the heads compare (512 as published)."""
    region_positive_iou: Fraction = 0.5
    """Regions that overlap an object so much are taken for it, others for background."""
    region_positive_fraction: Fraction = 0.25
    """Largest fraction of them that are objects'."""
    detection_nms_iou: Fraction = 0.5
    """Overlap of two detections of one label from which only the one with the higher score is kept."""
    score_threshold: Fraction = 0.05
    """Detections with a lower score are dropped."""
    detections: Number = 100
    """Largest number of detections of a patch."""
    mask_threshold: Fraction = 0.5
    """Probability from which a voxel belongs to an object."""

    @property
    def dimensions(self) -> int:
        """Number of spatial axes."""
        return len(self.box_size)

    @property
    def mask_size(self) -> tuple[int, ...]:
        """Voxels of a predicted mask along each axis of its box."""
        return tuple(2 * bins for bins in self.mask_roi_size)

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_faults(_find_faults(self))
        return self


def _find_faults(spec: DetectionSpec) -> Iterator[FieldFault]:
    first = spec.levels[0]
    expected = tuple(range(first, first + len(spec.levels)))
    if spec.levels != expected:
        yield ("levels",), f"{spec.levels}, expected levels that follow each other, such as {expected}"
    if len(spec.anchors) != len(spec.levels):
        yield ("anchors",), f"{len(spec.anchors)} entries, expected {len(spec.levels)}: one for each of `levels`"
    elif len({len(sizes) for sizes in spec.anchors}) > 1:
        yield ("anchors",), "different numbers of anchors, expected the same number at each level"
    for level, sizes in enumerate(spec.anchors):
        if wrong := [size for size in sizes if len(size) != spec.dimensions]:
            yield ("anchors", level), f"{wrong[0]}, expected {spec.dimensions} numbers like `box_size`"
    if len(spec.mask_roi_size) != spec.dimensions:
        yield ("mask_roi_size",), f"{spec.mask_roi_size}, expected {spec.dimensions} numbers like `box_size`"
    if spec.anchor_negative_iou > spec.anchor_positive_iou:
        yield ("anchor_negative_iou",), f"{spec.anchor_negative_iou:g}, expected at most `anchor_positive_iou`"
