"""Stage preprocess: store every case transposed, cropped to nonzero, normalised and resampled.

What is done to one case is `preprocess_case`, which prediction shares, so that networks get the same input in both.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.cluster.dask_workers import Workers
from autoseg.errors import DatasetError, UsageError
from autoseg.imaging.arrays.border_core import divide_labels
from autoseg.imaging.arrays.damage import find_case_damage
from autoseg.imaging.arrays.labels import draw_class_locations
from autoseg.imaging.arrays.object_codes import decode_labels, encode_objects
from autoseg.imaging.arrays.preprocessing import preprocess_case
from autoseg.imaging.arrays.resampling import ImageResampler, preprocessed_grid, resample_on_cpu
from autoseg.imaging.arrays.storage import RECORD_ENDING, array_hashes, remove_other_cases, save_case
from autoseg.imaging.datasets.cases import CaseVolume, content_hash, read_case, read_instance_numbers, work_on_cases
from autoseg.progress import Progress, no_progress
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import CaseFiles, DatasetDescription
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.preprocess")


def refuse_absurd_sizes(plan: Plan, fingerprint: Fingerprint) -> None:
    """Refuse cases whose spacing cannot be meant beside the plan's, before any of them is preprocessed.

    Raises:
        DatasetError: If there are such cases; names them all.
    """
    first, second, third = plan.transpose
    faults = {}
    for case in fingerprint.cases:
        shape = case.cropped_shape[first], case.cropped_shape[second], case.cropped_shape[third]
        spacing = case.spacing[first], case.spacing[second], case.spacing[third]
        for configuration in plan.configurations.values():
            try:
                preprocessed_grid(shape, spacing, configuration.spacing)
            except DatasetError as error:
                faults[case.case] = str(error)
    if faults:
        listed = "\n".join(f"  {case}: {what}" for case, what in faults.items())
        raise DatasetError(f"{len(faults)} of {len(fingerprint.cases)} case(s) do not fit the plan:\n{listed}")


def preprocess_dataset(
    description: DatasetDescription,
    plan: Plan,
    workspace: Workspace,
    configurations: Sequence[str],
    workers: Workers,
    progress: Progress = no_progress,
    resampler: ImageResampler = resample_on_cpu,
) -> None:
    """Store every case as the configurations need it; cases that are up to date and undamaged are not changed.

    Each case is read once for all configurations. Cascades share the arrays of the configuration they follow, so
    they are skipped. Stored cases that the dataset no longer has are removed.

    Args:
        description: The dataset; its folder may be relative to the workspace.
        plan: Plan with the configurations.
        workspace: Workspace for the arrays.
        configurations: Names in the plan.
        workers: Number of processes; each holds one case in memory.
        progress: Called after each case.
        resampler: What resamples images, in the workers; picklable.

    Raises:
        UsageError: If the plan lacks a configuration.
        DatasetError: If cases failed; lists them all. The others are stored, and a later call does only the rest.
    """
    own_arrays = _configurations_to_store(plan, configurations)
    for configuration in own_arrays:
        remove_other_cases(workspace.preprocessed(configuration), frozenset(case.case for case in description.cases))
    store_cases(description, plan, workspace, own_arrays, workers, progress, resampler)


def store_cases(
    description: DatasetDescription,
    plan: Plan,
    workspace: Workspace,
    configurations: Sequence[str],
    workers: Workers,
    progress: Progress = no_progress,
    resampler: ImageResampler = resample_on_cpu,
) -> None:
    """`preprocess_dataset` for configurations with arrays of their own, without removing other cases."""
    dataset_folder, absolute = workspace.dataset_folder(description.folder), Workspace(workspace.root.absolute())
    work = partial(_store_case, dataset_folder, plan, absolute, configurations, resampler)
    devices: Counter[str] = Counter()
    for used in work_on_cases(work, description.cases, task="preprocessing", workers=workers, progress=progress):
        devices.update(used)
    for device in sorted(devices.keys() - {""}):
        logger.info("resampled on %s: %d of the %d arrays written", device, devices[device], devices.total())


def _configurations_to_store(plan: Plan, configurations: Sequence[str]) -> tuple[str, ...]:
    missing = [name for name in configurations if name not in plan.configurations]
    if missing:
        raise UsageError(f"no configuration {', '.join(missing)} in the plan; it has {', '.join(plan.configurations)}")
    return tuple(name for name in configurations if plan.configurations[name].preprocessed_as == name)


def _store_case(
    dataset_folder: Path,
    plan: Plan,
    workspace: Workspace,
    configurations: Sequence[str],
    resampler: ImageResampler,
    files: CaseFiles,
) -> list[str]:
    """Bring one case up to date in all configurations; returns the GPU of each array written, empty for the CPU."""
    source = content_hash(dataset_folder, files)
    hashes = {name: array_hashes(source, plan, name) for name in configurations}
    outdated = [name for name in configurations if _stored_hash(workspace, name, files.case) not in hashes[name]]
    if not outdated:
        return []
    volume = read_case(dataset_folder, files, plan.encoding, plan.orientation)
    learned, devices = _learned_labels(volume, plan, read_instance_numbers(dataset_folder, files, volume)), []
    for name in outdated:
        image, labels, record = preprocess_case(
            volume.image, learned, volume.grid.spacing, case_id=files.case, plan=plan, configuration_name=name,
            resampler=resampler,
        )  # fmt: skip
        if labels is None:
            raise DatasetError("no label file; training needs one for every case. Add it, or take the case out")
        indices = decode_labels(labels, plan.encoding) if plan.target == "mask_rcnn" else labels
        locations = draw_class_locations(indices, plan.encoding, files.case)
        save_case(
            workspace.preprocessed(name),
            record.model_copy(update={"content_hash": hashes[name][0]}),
            image,
            labels,
            locations,
            plan.configurations[name].patch_size,
        )
        devices.append(record.resampled_on)
    return devices


def _learned_labels(volume: CaseVolume, plan: Plan, numbers: NDArray[np.integer] | None) -> NDArray[np.int16] | None:
    """The label map that networks learn: with core and border, or with codes of objects, where the plan says so."""
    if volume.labels is None:
        return None
    if plan.border_width_mm is not None:
        return divide_labels(volume.labels, plan.encoding, volume.grid.spacing, plan.border_width_mm, ids=numbers)
    if plan.target == "mask_rcnn":
        return encode_objects(volume.labels, plan.encoding, numbers)
    return volume.labels


def _stored_hash(workspace: Workspace, configuration_name: str, case_id: str) -> str:
    """Content hash of a stored case; empty when it is missing or damaged."""
    folder = workspace.preprocessed(configuration_name)
    if find_case_damage(folder, case_id):
        return ""
    return read_record(PreprocessedCase, folder / (case_id + RECORD_ENDING)).content_hash
