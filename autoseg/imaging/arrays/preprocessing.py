"""Preprocess one case in memory: transpose, crop, normalise, resample; for training and for prediction alike.

Tested in tests/stages/test_preprocess.py.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.arrays.absent_channels import find_absent_channels
from autoseg.imaging.arrays.cropping import crop_slices, find_bounds, find_content_bounds, nonzero_mask, to_slices
from autoseg.imaging.arrays.intensities import normalize_image
from autoseg.imaging.arrays.intensity_maps import IntensityMap, apply_map
from autoseg.imaging.arrays.resampling import (
    ImageResampler,
    preprocessed_grid,
    resample_labels,
    resample_on_cpu,
)
from autoseg.records.case import Bounds, PreprocessedCase, Spacing, Triple
from autoseg.records.network import NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Plan

OUTSIDE = -1
"""Label index of background voxels outside the nonzero mask."""


def preprocess_case(
    image: NDArray[np.float32],
    labels: NDArray[np.int16] | None,
    spacing: Spacing,
    *,
    case_id: str,
    plan: Plan,
    configuration_name: str,
    overwrite: bool = False,
    resampler: ImageResampler = resample_on_cpu,
    maps: Sequence[IntensityMap | None] = (),
) -> tuple[NDArray[np.float32], NDArray[np.int16] | None, PreprocessedCase]:
    """Transpose, crop, normalise and resample one case.

    Args:
        image: Image in working orientation, (C, Z, Y, X). Where the plan allows for missing channels, one whose voxels
            are all 0 is missing, and is 0 in the result too.
        labels: Label indices on the same grid, (Z, Y, X), or None.
        spacing: Voxel size in mm, (z, y, x).
        case_id: Case id.
        plan: Plan with the axis order and the configuration.
        configuration_name: Name in the plan.
        overwrite: Whether the image may be normalised in place and returned as a view; otherwise it is not changed.
            Labels are never changed.
        resampler: What resamples the image. Labels are resampled on the CPU.
        maps: Curve for the intensities of each channel, before normalisation; empty: none for any.

    Returns:
        The image, (C, Z, Y, X); the label indices, (Z, Y, X), -1 for background outside the nonzero mask, None
        without labels; and what is needed to go back.

    Raises:
        DatasetError: If the channels do not fit the plan.

    References:
        nnU-Net v2 (Isensee et al. 2021, Nature Methods), preprocessing. Differs: the mask of a masked z-score
        comes from the image alone, so that labels cannot change the image.
    """
    settings = plan.configurations[configuration_name]
    order = plan.transpose
    image = image.transpose(0, *(axis + 1 for axis in order))
    spacing = (spacing[order[0]], spacing[order[1]], spacing[order[2]])
    absent = find_absent_channels(image) if settings.channel_presence else ()
    needs_mask = labels is not None or any(spec.use_mask for spec in settings.normalization)
    bounds, inside = _find_content(image, needs_mask=needs_mask)
    cropped = _normalize_crop(image, bounds, inside, settings.normalization, maps, overwrite=overwrite)
    cropped[list(absent)] = 0
    target_spacing, shape = preprocessed_grid(_shape(cropped[0]), spacing, settings.spacing)
    resampled, resampled_on = resampler(cropped, shape, spacing, target_spacing, settings.resampling)
    record = PreprocessedCase(
        case=case_id,
        configuration=configuration_name,
        spacing=target_spacing,
        shape=shape,
        original_spacing=spacing,
        original_shape=_shape(image[0]),
        crop_start=bounds[0],
        crop_stop=bounds[1],
        transpose=order,
        absent_channels=absent,
        resampled_on=resampled_on,
    )
    if labels is None or inside is None:
        return resampled, None, record
    marked = _mark_outside(labels.transpose(order)[to_slices(bounds)], inside)
    return resampled, resample_labels(marked, shape, spacing, target_spacing, settings.resampling), record


def normalized_crop(
    image: NDArray[np.float32],
    record: PreprocessedCase,
    normalization: Sequence[NormalizationSpec],
    *,
    overwrite: bool = False,
    maps: Sequence[IntensityMap | None] = (),
) -> NDArray[np.float32]:
    """The image as `preprocess_case` has it before resampling: transposed, cropped, normalised.

    Args:
        image: Image in working orientation, (C, Z, Y, X).
        record: What preprocessing did to the same image.
        normalization: One normalisation per channel.
        overwrite: Whether the image may be normalised in place and returned as a view.
        maps: Curve for the intensities of each channel, before normalisation; empty: none for any.

    Returns:
        The image, (C, Z, Y, X), axes after the plan's transpose, within the crop.
    """
    image = image.transpose(0, *(axis + 1 for axis in record.transpose))
    bounds = record.crop_start, record.crop_stop
    inside = nonzero_mask(image)[to_slices(bounds)] if any(spec.use_mask for spec in normalization) else None
    cropped = _normalize_crop(image, bounds, inside, normalization, maps, overwrite=overwrite)
    cropped[list(record.absent_channels)] = 0
    return cropped


def labels_on_grid(
    labels: NDArray[np.unsignedinteger], grid: PreprocessedCase, spec: ResamplingSpec
) -> NDArray[np.int16]:
    """Bring a label map of the whole image to a preprocessed grid: transpose, crop and resample it.

    Args:
        labels: Label indices in working orientation, (Z, Y, X).
        grid: What preprocessing did to the same case.
        spec: Resampling of the configuration that the grid belongs to.

    Returns:
        Label indices, shape `grid.shape`.

    References:
        nnU-Net v2 (Isensee et al. 2021), prediction with a cascade: the label map of the previous cascade step is
        preprocessed with the image.
    """
    cropped = labels.transpose(grid.transpose)[crop_slices(grid)].astype(np.int16)
    return resample_labels(cropped, grid.shape, grid.original_spacing, grid.spacing, spec)


def _find_content(image: NDArray[np.float32], *, needs_mask: bool) -> tuple[Bounds, NDArray[np.bool_] | None]:
    """Bounds of the nonzero voxels, and their mask within them; None where no mask, 5 bytes per voxel, is needed."""
    if not needs_mask:
        return find_content_bounds(image), None
    mask = nonzero_mask(image)
    bounds = find_bounds(mask)
    return bounds, mask[to_slices(bounds)]


def _normalize_crop(
    image: NDArray[np.float32],
    bounds: Bounds,
    inside: NDArray[np.bool_] | None,
    normalization: Sequence[NormalizationSpec],
    maps: Sequence[IntensityMap | None],
    *,
    overwrite: bool,
) -> NDArray[np.float32]:
    cropped = image[(slice(None), *to_slices(bounds))]
    if not (overwrite and cropped.dtype == np.float32 and cropped.flags.writeable):
        cropped = np.array(cropped, dtype=np.float32, order="C")
    for channel, curve in zip(cropped, maps, strict=False):
        if curve is not None:
            apply_map(channel, curve)
    normalize_image(cropped, inside, normalization)
    return cropped


def _mark_outside(labels: NDArray[np.int16], inside: NDArray[np.bool_]) -> NDArray[np.int16]:
    """A copy with -1 for background outside the mask; foreground outside the mask keeps its label."""
    marked = np.array(labels, dtype=np.int16, order="C")
    marked[(marked == 0) & ~inside] = OUTSIDE
    return marked


def _shape(array: NDArray[np.generic]) -> Triple:
    return array.shape[0], array.shape[1], array.shape[2]
