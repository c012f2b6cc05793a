"""How strongly training images are changed: nnU-Net's probabilities and ranges, and what follows from the patch shape.

Pure rules, called when a loader is built. One worked example: the patch (20, 256, 224) is more than 3 times as wide
as it is high, so it is only turned and scaled within its slices, by any angle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.records.budget import Contrasts

ANISOTROPIC_PATCH_RATIO = 3.0
"""A 3D patch whose longest edge is more than this many times its first is augmented slice by slice ("dummy 2D")."""

ELONGATED_PATCH_RATIO = 1.5
"""A 2D patch with a larger ratio of edges is hardly rotated: it would turn out of the image."""

ENLARGEMENT_DIVISOR = 0.85
"""Room for zooming out in the enlarged patch; nnU-Net's constant, unrelated to its strongest zoom (1.4)."""


RANDOM_CONTRAST_PROBABILITY = 0.5
"""Part of the samples that get a random contrast, where the plan has them: the others look like the training images."""


@dataclass(frozen=True)
class AugmentationRules:
    """Probabilities per sample (or per channel or axis, where the name says so) and ranges of uniform draws.

    Factor ranges around 1 are drawn from their lower half with probability 1/2, else from their upper half.

    References:
        nnU-Net v2 (Isensee et al., Nature Methods 18, 2021, supplementary note 4; values of the released
        default trainer). As published.
    """

    random_contrast_probability: float = 0.0
    """0: nnU-Net's augmentation, which has no random contrasts."""
    rotation_probability: float = 0.2
    scaling_probability: float = 0.2
    scaling_range: tuple[float, float] = (0.7, 1.4)
    """One factor for all axes; above 1 objects become smaller."""
    noise_probability: float = 0.1
    noise_std_range: tuple[float, float] = (0.0, 0.1)
    blur_probability: float = 0.2
    blur_channel_probability: float = 0.5
    blur_sigma_range: tuple[float, float] = (0.5, 1.0)
    """Voxels."""
    brightness_probability: float = 0.15
    brightness_range: tuple[float, float] = (0.75, 1.25)
    contrast_probability: float = 0.15
    contrast_range: tuple[float, float] = (0.75, 1.25)
    low_resolution_probability: float = 0.25
    low_resolution_channel_probability: float = 0.5
    low_resolution_range: tuple[float, float] = (0.5, 1.0)
    """Size of the coarse grid relative to the patch."""
    inverted_gamma_probability: float = 0.1
    gamma_probability: float = 0.3
    gamma_range: tuple[float, float] = (0.7, 1.5)
    mirror_axis_probability: float = 0.5
    morphology_probability: float = 0.4
    """This and all below: of a cascade's label maps by the previous configuration."""
    morphology_label_probability: float = 0.5
    morphology_radius_range_voxels: tuple[int, int] = (1, 8)
    """Whole numbers, both ends included."""
    removal_probability: float = 0.2
    removal_label_probability: float = 0.5
    removed_share_of_patch: float = 0.15
    """Components of this size or larger are never removed."""


def choose_rules(contrasts: Contrasts) -> AugmentationRules:
    """nnU-Net's rules, with random contrasts where the plan has them."""
    return AugmentationRules(random_contrast_probability=RANDOM_CONTRAST_PROBABILITY if contrasts == "random" else 0.0)


def is_dummy_2d(patch_size: Sequence[int]) -> bool:
    """Whether a 3D patch is so anisotropic that it is turned and scaled slice by slice.

    References:
        nnU-Net v2, as published.
    """
    return len(patch_size) == 3 and max(patch_size) / patch_size[0] > ANISOTROPIC_PATCH_RATIO


def spatial_dimensions(patch_size: Sequence[int]) -> int:
    """Number of trailing axes, 2 or 3, that rotation and scaling act on."""
    return 2 if is_dummy_2d(patch_size) else len(patch_size)


def rotation_range_degrees(patch_size: Sequence[int]) -> float:
    """Largest rotation angle about each axis, degrees; angles are drawn from +- this value.

    Args:
        patch_size: Voxels, (z, y, x) or (y, x).

    References:
        nnU-Net v2, as published.
    """
    if is_dummy_2d(patch_size):
        return 180.0
    if len(patch_size) == 3:
        return 30.0
    return 15.0 if max(patch_size) / min(patch_size) > ELONGATED_PATCH_RATIO else 180.0


def enlarged_patch_size(patch_size: Sequence[int]) -> tuple[int, ...]:
    """The patch that nnU-Net cuts before it rotates, so that hardly any corner of the rotated patch is empty.

    Our sampler reads exactly the voxels it needs instead; the rule serves comparisons with pipelines that cut first.

    Args:
        patch_size: Voxels, (z, y, x) or (y, x).

    Returns:
        Voxels, same axes; never smaller than the patch.

    References:
        nnU-Net v2, as published: only one corner of the patch is rotated, about one axis at a time.
    """
    angle = math.radians(min(rotation_range_degrees(patch_size), 90.0))
    cosine, sine = math.cos(angle), math.sin(angle)
    corner = np.asarray(patch_size, dtype=np.float64)
    reached = corner.copy()
    for first, second in _rotation_planes(len(patch_size)):
        turned_first = cosine * corner[first] + sine * corner[second]
        turned_second = cosine * corner[second] - sine * corner[first]
        reached[first] = max(reached[first], abs(turned_first))
        reached[second] = max(reached[second], abs(turned_second))
    enlarged = [int(edge / ENLARGEMENT_DIVISOR) for edge in reached]
    if is_dummy_2d(patch_size):
        enlarged[0] = patch_size[0]
    return tuple(enlarged)


def _rotation_planes(dimensions: int) -> tuple[tuple[int, int], ...]:
    """Plane of each rotation; its first axis is the one that the corner's second coordinate is added to."""
    return ((0, 1),) if dimensions == 2 else ((1, 2), (2, 0), (0, 1))
