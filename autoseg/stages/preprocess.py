"""Preprocess: transpose, crop to nonzero, normalise, resample.

`preprocess_dataset` is the stage; `preprocess_case` is the step for one case, shared with prediction, so that a
network sees the same thing in both.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import DatasetError, RecordError, UsageError
from autoseg.imaging.border_core import divide_labels
from autoseg.imaging.case_parallel import work_on_cases
from autoseg.imaging.case_reading import CaseVolume, content_hash, read_case
from autoseg.imaging.class_locations import draw_class_locations
from autoseg.imaging.cropping import Box, bounding_box, box_slices, content_box, nonzero_mask
from autoseg.imaging.normalization import normalize_image
from autoseg.imaging.resampling import preprocessed_grid, resample_image, resample_labels
from autoseg.imaging.storage import ARRAY_ENDING, RECORD_ENDING, remove_other_cases, save_case
from autoseg.records.case import PreprocessedCase, Spacing, Triple
from autoseg.records.dataset import CaseFiles, DatasetDescription
from autoseg.records.files import Progress, read_record
from autoseg.records.network import NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace

OUTSIDE = -1
"""Label index of background voxels outside the nonzero mask."""
STORAGE_VERSION = 1
"""Enters the content hash; raise it when the same settings begin to give other arrays."""


def preprocess_dataset(
    description: DatasetDescription,
    dataset_folder: Path,
    plan: Plan,
    workspace: Workspace,
    configurations: Sequence[str],
    workers: int,
    progress: Progress | None = None,
) -> None:
    """Store every case as the configurations need it; cases that are up to date are left alone.

    Each case is read once for all configurations. Cascades share the arrays of the configuration they follow, so
    they are skipped. Stored cases that the dataset no longer has are removed.

    Args:
        description: The dataset.
        dataset_folder: Where its files are.
        plan: What to do.
        workspace: Where the arrays go.
        configurations: Names in the plan.
        workers: Processes; each holds one case in memory.
        progress: Called after each case.

    Raises:
        UsageError: If the plan lacks a configuration.
        DatasetError: If cases failed; names them all. The others are stored, and a later call redoes only the rest.
    """
    own_arrays = _configurations_to_store(plan, configurations)
    for configuration in own_arrays:
        remove_other_cases(workspace.preprocessed(configuration), frozenset(case.case for case in description.cases))
    work = partial(_store_case, dataset_folder, plan, workspace, own_arrays)
    for _ in work_on_cases(work, description.cases, task="preprocessing", workers=workers, progress=progress):
        pass


def preprocess_case(
    image: NDArray[np.float32],
    labels: NDArray[np.int16] | None,
    spacing: Spacing,
    *,
    case: str,
    plan: Plan,
    configuration: str,
    overwrite: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int16] | None, PreprocessedCase]:
    """Transpose, crop, normalise and resample one case.

    Args:
        image: Working orientation, (C, Z, Y, X).
        labels: Label indices on the same grid, (Z, Y, X), or None.
        spacing: mm, (z, y, x).
        case: Case id.
        plan: What to do.
        configuration: Name in the plan.
        overwrite: The image is normalised where it lies, and may come back as a view of itself; otherwise it stays
            as it is, as labels always do.

    Returns:
        The image, (C, Z, Y, X); the label indices, (Z, Y, X), -1 for background outside the nonzero mask, None
        without labels; and what is needed to go back.

    Raises:
        DatasetError: If the channels do not fit the plan.

    References:
        nnU-Net v2 (Isensee et al. 2021, Nature Methods), preprocessing. Differs: the mask of a masked z-score
        comes from the image alone, so that labels cannot change the image.
    """
    settings = plan.configurations[configuration]
    order = plan.transpose
    image = image.transpose(0, *(axis + 1 for axis in order))
    spacing = (spacing[order[0]], spacing[order[1]], spacing[order[2]])
    inside = None
    if labels is not None or any(spec.use_mask for spec in settings.normalization):
        mask = nonzero_mask(image)
        box = bounding_box(mask)
        inside = mask[box_slices(box)]
    else:
        box = content_box(image)  # nothing but its box is asked of the mask, which costs 5 bytes a voxel
    cropped = _normalize_crop(image, box, inside, settings.normalization, overwrite=overwrite)
    target_spacing, shape = preprocessed_grid(_shape(cropped[0]), spacing, settings.spacing)
    resampled = resample_image(cropped, shape, spacing, target_spacing, settings.resampling)
    resampled_labels = None
    if labels is not None and inside is not None:
        cropped_labels = _mark_outside(labels.transpose(order)[box_slices(box)], inside)
        resampled_labels = resample_labels(cropped_labels, shape, spacing, target_spacing, settings.resampling)
    record = PreprocessedCase(
        case=case,
        configuration=configuration,
        spacing=target_spacing,
        shape=shape,
        original_spacing=spacing,
        original_shape=_shape(image[0]),
        crop_start=box[0],
        crop_stop=box[1],
        transpose=order,
    )
    return resampled, resampled_labels, record


def normalized_crop(
    image: NDArray[np.float32],
    record: PreprocessedCase,
    normalization: Sequence[NormalizationSpec],
    *,
    overwrite: bool = False,
) -> NDArray[np.float32]:
    """What `preprocess_case` makes of an image before it resamples it.

    Args:
        image: Working orientation, (C, Z, Y, X).
        record: Of the same image.
        normalization: One per channel.
        overwrite: As for `preprocess_case`.

    Returns:
        (C, Z, Y, X), axes after the plan's transpose, within the crop.
    """
    image = image.transpose(0, *(axis + 1 for axis in record.transpose))
    box = record.crop_start, record.crop_stop
    inside = nonzero_mask(image)[box_slices(box)] if any(spec.use_mask for spec in normalization) else None
    return _normalize_crop(image, box, inside, normalization, overwrite=overwrite)


def labels_on_grid(
    labels: NDArray[np.unsignedinteger], grid: PreprocessedCase, spec: ResamplingSpec
) -> NDArray[np.int16]:
    """Bring a label map of the whole image to a preprocessed grid: transpose, crop and resample it.

    Args:
        labels: Label indices, working orientation, (Z, Y, X).
        grid: What preprocessing did to the same case.
        spec: Of the configuration whose grid it is.

    Returns:
        Label indices, shape `grid.shape`.

    References:
        nnU-Net v2 (Isensee et al. 2021), prediction with a cascade: the previous stage's label map is preprocessed
        with the image.
    """
    cropped = labels.transpose(grid.transpose)[box_slices((grid.crop_start, grid.crop_stop))].astype(np.int16)
    return resample_labels(cropped, grid.shape, grid.original_spacing, grid.spacing, spec)


def _normalize_crop(
    image: NDArray[np.float32],
    box: Box,
    inside: NDArray[np.bool_] | None,
    normalization: Sequence[NormalizationSpec],
    *,
    overwrite: bool,
) -> NDArray[np.float32]:
    cropped = image[(slice(None), *box_slices(box))]
    if not (overwrite and cropped.dtype == np.float32 and cropped.flags.writeable):
        cropped = np.array(cropped, dtype=np.float32, order="C")
    normalize_image(cropped, inside, normalization)
    return cropped


def _configurations_to_store(plan: Plan, configurations: Sequence[str]) -> tuple[str, ...]:
    missing = [name for name in configurations if name not in plan.configurations]
    if missing:
        raise UsageError(f"no configuration {', '.join(missing)} in the plan; it has {', '.join(plan.configurations)}")
    return tuple(name for name in configurations if plan.configurations[name].preprocessed_as == name)


def _store_case(
    dataset_folder: Path, plan: Plan, workspace: Workspace, configurations: Sequence[str], files: CaseFiles
) -> str:
    """Bring one case up to date in all configurations; returns its id."""
    source = content_hash(dataset_folder, files)
    hashes = {name: _settings_hash(source, plan, name) for name in configurations}
    outdated = [name for name in configurations if _stored_hash(workspace, name, files.case) != hashes[name]]
    if not outdated:
        return files.case
    volume = read_case(dataset_folder, files, plan.encoding, plan.orientation)
    divided = _divide(volume, plan)
    for name in outdated:
        image, labels, record = preprocess_case(
            volume.image, divided, volume.grid.spacing, case=files.case, plan=plan, configuration=name
        )
        if labels is None:
            raise DatasetError("no label file; training needs one for every case. Add it, or take the case out")
        locations, annotated = draw_class_locations(labels, plan.encoding, files.case)
        save_case(
            workspace.preprocessed(name),
            record.model_copy(update={"content_hash": hashes[name]}),
            image,
            labels,
            locations,
            annotated,
            plan.configurations[name].patch_size,
        )
    return files.case


def _divide(volume: CaseVolume, plan: Plan) -> NDArray[np.int16] | None:
    """The label map that networks learn: core and border, where the plan says so."""
    if volume.labels is None or plan.border_width_mm is None:
        return volume.labels
    return divide_labels(volume.labels, plan.encoding, volume.grid.spacing, plan.border_width_mm)


def _settings_hash(source: str, plan: Plan, configuration: str) -> str:
    """Hash of all that decides about the voxels of a stored case."""
    settings = plan.configurations[configuration]
    deciding = {
        "source": source,
        "version": STORAGE_VERSION,
        "orientation": plan.orientation,
        "transpose": plan.transpose,
        "encoding": plan.encoding.model_dump(mode="json"),
        "spacing": settings.spacing,
        "normalization": [spec.model_dump(mode="json") for spec in settings.normalization],
        "resampling": settings.resampling.model_dump(mode="json"),
    }
    if plan.border_width_mm is not None:
        deciding["border_width_mm"] = plan.border_width_mm
    return hashlib.blake2b(json.dumps(deciding, sort_keys=True).encode(), digest_size=16).hexdigest()


def _stored_hash(workspace: Workspace, configuration: str, case: str) -> str:
    """Content hash of a complete stored case; empty when there is none, or its record is damaged."""
    folder = workspace.preprocessed(configuration)
    if not (folder / (case + ARRAY_ENDING)).exists():
        return ""
    try:
        return read_record(PreprocessedCase, folder / (case + RECORD_ENDING)).content_hash
    except RecordError:
        return ""


def _mark_outside(labels: NDArray[np.int16], inside: NDArray[np.bool_]) -> NDArray[np.int16]:
    """A copy in which background outside the mask is -1; foreground outside the mask keeps its label."""
    marked = np.array(labels, dtype=np.int16, order="C")
    marked[(marked == 0) & ~inside] = OUTSIDE
    return marked


def _shape(array: NDArray[np.generic]) -> Triple:
    return array.shape[0], array.shape[1], array.shape[2]
