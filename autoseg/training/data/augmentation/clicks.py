"""Clicks as a user would make them, drawn where the previous configuration's label map is wrong.

The label maps are those of held-out cases (`inference.models.cascade_maps`), so their mistakes are those that a user
sees. A click lies well inside a wrong place, and has the label that the place should have.

References:
    Wang et al., "DeepIGeoS", IEEE TPAMI 2019: clicks in wrong regions of a first segmentation. Differs: at most
    MAX_CLICKS of them, and in some patches none.
"""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.imaging.arrays.clicks import PlacedClick, box_around, make_click_maps, squared_distances
from autoseg.records.clicks import ClickSettings
from autoseg.training.data.batch import DrawnBatch

MAX_CLICKS = 5
"""Largest number of clicks in a patch."""

NO_CLICK_FRACTION = 0.15
"""Fraction of patches without a click."""

MIN_DEPTH_FRACTION = 0.6
"""Smallest distance of a click from the border of the wrong place, as a fraction of the largest one there."""

CORRECTED_FRACTION = 0.5
"""Part of a click's reach in which no second click follows."""


class AppendClickMaps(AbstractTransform):  # type: ignore[misc]  # batchgenerators has no type hints
    """Append one channel per label, background included, to the image: how near each voxel is to drawn clicks.

    Targets beyond the labels, as those of ignored voxels and of partly labelled cases are, get no click.
    """

    def __init__(self, num_labels: int, spacing: Sequence[float], settings: ClickSettings) -> None:
        self.num_labels = num_labels
        self.spacing = tuple(spacing)
        self.settings = settings

    def __call__(self, **batch: Unpack[DrawnBatch]) -> DrawnBatch:
        """Replace the image."""
        image, num_channels = batch["image"], batch["image"].shape[1]
        joined = np.empty((len(image), num_channels + self.num_labels + 1, *image.shape[2:]), dtype=np.float32)
        joined[:, :num_channels] = image
        for sample, generator in enumerate(batch["generators"]):
            previous, target = batch["previous"][sample], batch["target"][sample]
            is_wrong = (previous != target) & (target >= 0) & (target <= self.num_labels)
            clicks = draw_clicks(is_wrong, target, self.spacing, self.settings, generator)
            joined[sample, num_channels:] = make_click_maps(
                image[sample], clicks, self.num_labels, self.spacing, self.settings
            )
        batch["image"] = joined
        return batch


def draw_clicks(
    is_wrong: NDArray[np.bool_],
    target: NDArray[np.integer],
    spacing: Sequence[float],
    settings: ClickSettings,
    generator: np.random.Generator,
) -> list[PlacedClick]:
    """None, or up to MAX_CLICKS clicks, as far as there are wrong places that are apart.

    Args:
        is_wrong: Voxels to correct, (*S); overwritten.
        target: Label indices that they should have.
        spacing: Voxel size in mm, one for each axis.
        settings: Reach of the clicks.
        generator: Source of randomness.
    """
    if generator.random() < NO_CLICK_FRACTION:
        return []
    clicks: list[PlacedClick] = []
    for _ in range(int(generator.integers(1, MAX_CLICKS, endpoint=True))):
        wrong = np.flatnonzero(is_wrong)
        if not len(wrong):
            break
        voxel = tuple(int(place) for place in np.unravel_index(generator.choice(wrong), is_wrong.shape))
        click = _draw_inside(is_wrong, target, voxel, spacing, settings, generator)
        clicks.append(click)
        near = box_around(click.position, is_wrong.shape, spacing, settings.reach_mm)
        start = [place - side.start for place, side in zip(click.position, near, strict=True)]
        distances = squared_distances(start, is_wrong[near].shape, spacing)
        is_wrong[near] &= distances > (CORRECTED_FRACTION * settings.reach_mm) ** 2
    return clicks


def _draw_inside(
    is_wrong: NDArray[np.bool_],
    target: NDArray[np.integer],
    voxel: tuple[int, ...],
    spacing: Sequence[float],
    settings: ClickSettings,
    generator: np.random.Generator,
) -> PlacedClick:
    """A click well inside the wrong place that holds a voxel, as far as a click reaches."""
    index = int(target[voxel])
    box = box_around(voxel, is_wrong.shape, spacing, settings.reach_mm)
    components, _ = ndimage.label(is_wrong[box] & (target[box] == index))
    own = components[tuple(place - side.start for place, side in zip(voxel, box, strict=True))]
    depths = ndimage.distance_transform_edt(np.pad(components == own, 1), sampling=spacing)
    deep = np.argwhere(depths >= MIN_DEPTH_FRACTION * depths.max()) - 1
    inside = deep[generator.integers(len(deep))]
    return PlacedClick(index, tuple(int(place + side.start) for place, side in zip(inside, box, strict=True)))
