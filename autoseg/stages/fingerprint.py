"""Stage fingerprint: the facts about the training cases that planning uses. Every case is read once and released."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.cluster.dask_workers import Workers
from autoseg.components import label_components
from autoseg.errors import DatasetError
from autoseg.imaging.arrays.absent_channels import find_absent_channels
from autoseg.imaging.arrays.contrast import ChannelMeasurements, measure_contrast, summarize_contrasts
from autoseg.imaging.arrays.cropping import find_bounds, nonzero_mask, to_slices
from autoseg.imaging.arrays.intensities import IntensityPool, IntensitySummary, summarize_intensities
from autoseg.imaging.arrays.labels import foreground_heads, head_mask, label_boxes
from autoseg.imaging.datasets.cases import (
    CaseVolume,
    content_hash,
    files_state,
    read_case,
    read_instance_numbers,
    work_on_cases,
)
from autoseg.imaging.datasets.effort import choose_workers, reading_memory_bytes
from autoseg.imaging.formats.volume import voxel_mm3
from autoseg.progress import Progress, no_progress
from autoseg.records.case import Bounds, Triple
from autoseg.records.dataset import CaseFiles, DatasetDescription, LabelEncoding
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics, LabelFacts
from autoseg.records.partial_labels import find_never_sought, is_looked_for
from autoseg.system import count_cores
from autoseg.worker_memory import limit_workers

MAX_INSTANCE_SIZES = 20
"""Sizes of components that are kept of each label and case."""


def extract_fingerprint(
    description: DatasetDescription,
    dataset_folder: Path,
    *,
    workers: Workers | None = 1,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> Fingerprint:
    """Measure all cases of a dataset.

    Intensities are those of the foreground within the crop, contrasts those of whole images, every case weighted
    equally; memory does not grow with the number or size of cases, but for a few numbers of each. The result does not
    depend on the order of cases or the number of workers.

    Args:
        description: The dataset.
        dataset_folder: Folder of its files.
        workers: Number of processes; each holds one case in memory. None: as many as are worth their start.
        max_memory: Memory in bytes that the processes may take together; None: what is free. Fewer are started then.
        progress: Called after each case.

    Raises:
        DatasetError: If there is no case, cases could not be read (lists them all), no case has foreground, or a label
            was looked for in no case.

    References:
        nnU-Net v2 (Isensee et al. 2021, Nature Methods), dataset fingerprint. Differs: all foreground voxels enter
        through a quantile sketch instead of a random sample, and voxels with the ignore label do not count as
        foreground.
    """
    if not description.cases:
        raise DatasetError(f"{description.name}: there are no training cases to measure in {dataset_folder}")
    _check_every_label_is_sought(description)
    cases = sorted(description.cases, key=lambda files: files.case)
    workers = workers or choose_workers(dataset_folder, cases, count_cores())
    workers = limit_workers(workers, reading_memory_bytes(dataset_folder, cases), max_memory, "measuring")
    measure = partial(_measure_case, dataset_folder, description)
    measured = work_on_cases(measure, cases, task="measuring", workers=workers, progress=progress)
    fingerprints, pools, contrasts = _collect(measured, len(description.channel_names))
    return Fingerprint(
        dataset_name=description.name,
        channel_names=description.channel_names,
        labels=description.labels,
        encoding=description.encoding,
        orientation=description.orientation,
        cases=tuple(fingerprints),
        missing_channels=description.missing_channels,
        intensities=_pooled_statistics(pools, description),
        median_cropped_fraction=median(
            float(np.prod(case.cropped_shape) / np.prod(case.shape)) for case in fingerprints
        ),
        contrasts=summarize_contrasts(contrasts),
    )


def _check_every_label_is_sought(description: DatasetDescription) -> None:
    never = find_never_sought(description.encoding, (files.annotated for files in description.cases))
    if never:
        raise DatasetError(
            f"{description.name}: no case names {', '.join(never)} in `annotated`, and none leaves it empty, so there "
            f"is nothing to learn of {'it' if len(never) == 1 else 'them'}; expected some case in which each label was "
            "looked for. Correct `annotated`, or declare the value as ignore where it occurs and take the label out."
        )


def _collect(
    measured: Iterable[tuple[CaseFingerprint, tuple[IntensitySummary, ...], tuple[ChannelMeasurements, ...]]],
    num_channels: int,
) -> tuple[list[CaseFingerprint], list[IntensityPool], list[list[ChannelMeasurements | None]]]:
    """Facts of all cases; their intensities by channel, pooled; their contrasts, None for channels that they lack."""
    fingerprints, contrasts = [], []
    pools = [IntensityPool() for _ in range(num_channels)]
    for case, summaries, contrast in measured:
        fingerprints.append(case)
        lacking = case.absent_channels
        contrasts.append([None if channel in lacking else found for channel, found in enumerate(contrast)])
        for channel, summary in enumerate(summaries):  # none for a case without foreground
            if channel not in lacking:
                pools[channel].add(summary)
    return fingerprints, pools, contrasts


def _pooled_statistics(pools: list[IntensityPool], description: DatasetDescription) -> tuple[IntensityStatistics, ...]:
    empty = [name for pool, name in zip(pools, description.channel_names, strict=True) if pool.is_empty()]
    if 0 < len(empty) < len(pools):
        raise DatasetError(
            f"{description.name}: no case that has the channel {', '.join(empty)} has a labelled voxel, so its "
            "intensities are not known. Add such a case, or take the channel out of the names of channels."
        )
    if empty:
        raise DatasetError(
            f"{description.name}: none of the {len(description.cases)} label maps has a labelled voxel inside the "
            f"image's nonzero part, so there is nothing to learn. Declared labels: {description.labels}. "
            "Check that the label files are the right ones and that the values are declared"
        )
    return tuple(pool.statistics() for pool in pools)


def _measure_case(
    dataset_folder: Path, description: DatasetDescription, files: CaseFiles
) -> tuple[CaseFingerprint, tuple[IntensitySummary, ...], tuple[ChannelMeasurements, ...]]:
    """Facts of one case; the intensities of each channel in its foreground, none without any; its contrast."""
    state = files_state(dataset_folder, files)  # before the files are read: a change meanwhile must be noticed
    volume = read_case(dataset_folder, files, description.encoding, description.orientation)
    if volume.labels is None:
        raise DatasetError("no label file; training needs one for every case. Add it, or take the case out")
    if len(volume.image) != len(description.channel_names):
        raise DatasetError(
            f"{len(volume.image)} channel(s) found, {len(description.channel_names)} expected "
            f"({', '.join(description.channel_names)})"
        )
    start, stop = bounds = find_bounds(nonzero_mask(volume.image))
    fingerprint = CaseFingerprint(
        case=files.case,
        shape=volume.grid.shape,
        cropped_shape=(stop[0] - start[0], stop[1] - start[1], stop[2] - start[2]),
        spacing=volume.grid.spacing,
        channel_ranges=tuple((float(channel.min()), float(channel.max())) for channel in volume.image),
        absent_channels=find_absent_channels(volume.image) if description.missing_channels else (),
        labels=_label_facts(
            volume.labels,
            description.encoding,
            voxel_mm3(volume.grid),
            read_instance_numbers(dataset_folder, files, volume),
            files.annotated,
        ),
        content_hash=content_hash(dataset_folder, files),
        files_state=state,
    )
    intensities = _foreground_intensities(volume, volume.labels, bounds, description.encoding)
    return fingerprint, intensities, measure_contrast(volume.image)


def _label_facts(
    labels: NDArray[np.int16],
    encoding: LabelEncoding,
    volume_mm3: float,
    numbers: NDArray[np.integer] | None,
    annotated: tuple[str, ...] | None,
) -> dict[str, LabelFacts]:
    """Facts by name of label or region; an absent label has 0 voxels, one that was not looked for has no facts.

    Args:
        labels: Label indices (Z, Y, X).
        encoding: Labels or regions.
        volume_mm3: Volume of a voxel.
        numbers: Number of each voxel's object (Z, Y, X); None: objects are components.
        annotated: Labels that were looked for; None: all.
    """
    boxes = label_boxes(labels, encoding)
    facts = {}
    for _, head in foreground_heads(encoding):
        if not is_looked_for(head.part_of or head.name, annotated):
            continue
        mask, start = head_mask(labels, head, boxes)
        voxels = int(np.count_nonzero(mask))
        numbered = label_components(mask) if voxels else np.zeros((0, 0, 0), dtype=np.int32)
        facts[head.name] = LabelFacts(
            voxels=voxels,
            volume_mm3=voxels * volume_mm3,
            components=int(numbered.max(initial=0)),
            instance_sizes=_instance_sizes(numbered if numbers is None else _number_objects(mask, start, numbers)),
        )
    return facts


def _number_objects(mask: NDArray[np.bool_], start: Triple, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
    """Numbers 1 to n of the objects within a mask that begins at `start`; 0 elsewhere."""
    z, y, x = (slice(first, first + size) for first, size in zip(start, mask.shape, strict=True))
    inside = np.where(mask, numbers[z, y, x], 0)
    found = np.unique(inside[inside > 0])
    return np.where(inside > 0, np.searchsorted(found, inside) + 1, 0)


def _instance_sizes(numbered: NDArray[np.integer]) -> tuple[Triple, ...]:
    """Edges of the boxes around components, at most MAX_INSTANCE_SIZES of them, evenly from the smallest on."""
    voxels = np.bincount(numbered.ravel(), minlength=1)[1:]
    count = min(len(voxels), MAX_INSTANCE_SIZES)
    if count == 0:
        return ()
    ranks = (2 * np.arange(count) + 1) * len(voxels) // (2 * count)
    rank_of = np.zeros(len(voxels) + 1, dtype=np.uint8)  # boxes of these alone: those of all take far longer
    rank_of[1 + np.argsort(voxels, kind="stable")[ranks]] = np.arange(1, count + 1)
    boxes = ndimage.find_objects(rank_of[numbered])
    return tuple((z.stop - z.start, y.stop - y.start, x.stop - x.start) for z, y, x in boxes)


def _foreground_intensities(
    volume: CaseVolume, labels: NDArray[np.int16], bounds: Bounds, encoding: LabelEncoding
) -> tuple[IntensitySummary, ...]:
    cropped = labels[to_slices(bounds)]
    # The index after the last label is that of the ignore label.
    foreground = (cropped > 0) & (cropped < len(encoding.values))
    if not foreground.any():
        return ()
    return tuple(summarize_intensities(channel[to_slices(bounds)][foreground]) for channel in volume.image)
