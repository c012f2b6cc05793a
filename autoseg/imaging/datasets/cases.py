"""The cases of a dataset: one as arrays in working orientation, and work on many of them in processes.

Tested in tests/imaging/datasets/test_case_reading.py and tests/imaging/datasets/test_case_parallel.py.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoseg.cluster.dask_workers import DaskCluster, Workers
from autoseg.errors import AutosegError, DatasetError, ImageFileError, WorkerError, WriteError
from autoseg.imaging.arrays.absent_channels import fill_absent_channels
from autoseg.imaging.arrays.labels import decode_label_map, encode_label_map
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.label_values import check_whole_numbers
from autoseg.imaging.formats.reading import Template, data_files, read_image, read_label_map
from autoseg.imaging.formats.volume import (
    AnyArray,
    canonical_orientation,
    grid_difference,
    orient_array,
    orient_grid,
    restore_array,
)
from autoseg.imaging.formats.writing import write_label_map
from autoseg.processes import WorkerDeath, map_in_workers
from autoseg.progress import Progress, no_progress
from autoseg.records.case import Grid, Orientation
from autoseg.records.dataset import CaseFiles, LabelEncoding, OrientationName, reference_files
from autoseg.records.fingerprint import CaseFingerprint


@dataclass(frozen=True)
class CaseVolume:
    """Image and label map of one case, in working orientation."""

    image: NDArray[np.float32]
    """Image, (C, Z, Y, X), zeros where the case lacks a channel; a view, not contiguous when axes were permuted or
    flipped."""
    labels: NDArray[np.int16] | None
    """Label indices, (Z, Y, X); None for a case without label map."""
    grid: Grid
    """Grid in working orientation."""
    orientation: Orientation
    """Permutation and flips from stored to working axes."""
    template: Template
    """Template for writing a label map on the image's own grid."""

    def write_labels(self, labels: NDArray[np.integer], encoding: LabelEncoding, path: Path) -> AnyArray:
        """Write a label map of this case on the image's own grid.

        Args:
            labels: Label indices, (Z, Y, X) in working orientation.
            encoding: Encoding of the dataset.
            path: File to write.

        Returns:
            The label map as written: label values, (Z, Y, X) in the file's orientation.
        """
        values = decode_label_map(restore_array(labels, self.orientation), encoding)
        write_label_map(values, self.template, path)
        return values


def read_case(folder: Path, files: CaseFiles, encoding: LabelEncoding, orientation: OrientationName) -> CaseVolume:
    """Read image and label map of one case, re-orient them and turn label values into indices.

    Args:
        folder: Dataset folder, to which the paths in `files` are relative.
        files: Files of the case; an empty label gives no label map.
        encoding: Encoding of the dataset.
        orientation: Working orientation; `as_stored` does not change the axes, the others permute and flip them.

    Raises:
        ImageFileError: If a file cannot be read, the grids differ, or the label map has undeclared values.
    """
    volume = read_image([folder / path for path in files.images])
    oriented = choose_orientation(volume.grid, orientation)
    labels = None
    if files.label:
        label_map = read_reference(folder, files, encoding)
        difference = grid_difference(volume.grid, label_map.grid)
        if difference is not None:
            raise ImageFileError(f"{label_map.path}: not on the same grid as {volume.path}: {difference}")
        try:
            labels = orient_array(encode_label_map(label_map.array[0], encoding), oriented)
        except ValueError as error:
            raise ImageFileError(f"{label_map.path}: {error}") from error
    return CaseVolume(
        image=orient_array(fill_absent_channels(volume.array, files.absent_channels), oriented),
        labels=labels,
        grid=orient_grid(volume.grid, oriented),
        orientation=oriented,
        template=volume.template,
    )


def read_instance_numbers(folder: Path, files: CaseFiles, volume: CaseVolume) -> NDArray[np.integer] | None:
    """Read the map with a number for each object of a case, in working orientation.

    Args:
        folder: Dataset folder.
        files: Files of the case.
        volume: Image and label map of the case.

    Returns:
        Numbers, (Z, Y, X), 0 where no object is; None for a case without such a map.

    Raises:
        ImageFileError: If the file cannot be read, lies on another grid, or has numbers that are not whole.
    """
    if not files.instances:
        return None
    found = read_label_map(folder / files.instances, None)
    grid = orient_grid(found.grid, volume.orientation)
    if grid.shape != volume.grid.shape:
        raise ImageFileError(
            f"{found.path}: not on the same grid as the image: shape {grid.shape}, expected {volume.grid.shape}"
        )
    check_whole_numbers(found.array, found.path)
    return orient_array(found.array[0], volume.orientation).astype(np.int64)


def choose_orientation(grid: Grid, name: OrientationName) -> Orientation:
    """The orientation from stored to working axes for the dataset's choice."""
    if name == "as_stored":
        return Orientation()
    canonical = canonical_orientation(grid)
    if name == "canonical":
        return canonical
    flip_z, flip_y, flip_x = canonical.flips
    return Orientation(axes=canonical.axes, flips=(flip_z, not flip_y, not flip_x))


def content_hash(folder: Path, files: CaseFiles) -> str:
    """Hash of the bytes of all files of a case, to detect changed data.

    Returns:
        Hash of 32 hexadecimal digits (BLAKE2b); it does not depend on file names, but on which channels are missing.

    Raises:
        ImageFileError: If a file is missing or cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in (*files.images, *reference_files(files)):
        for path in data_files(folder / name):
            digest.update(_file_digest(path))
    if files.absent_channels:
        digest.update(repr(files.absent_channels).encode())
    return digest.hexdigest()


def files_state(folder: Path, files: CaseFiles) -> str:
    """Hash of the sizes and times of change of all files of a case: while it stays, they did not change.

    Raises:
        ImageFileError: If a file is missing.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in (*files.images, *reference_files(files)):
        for path in data_files(folder / name):
            try:
                found = path.stat()
            except OSError as error:
                raise ImageFileError(f"{path}: cannot be read: {error}") from error
            digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode())
    return digest.hexdigest()


def is_changed(folder: Path, files: CaseFiles, planned: CaseFingerprint) -> bool:
    """Whether the files of a case have another content than when it was planned; they are read only if they may have.

    Raises:
        ImageFileError: If a file is missing or cannot be read.
    """
    return files_state(folder, files) != planned.files_state and content_hash(folder, files) != planned.content_hash


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error}") from error


Item = TypeVar("Item")

Result = TypeVar("Result")


def map_in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    task: str,
    workers: Workers,
    progress: Progress = no_progress,
) -> Iterator[Result | WorkerDeath]:
    """Apply a function to every item, in the order of the items, and give each result as soon as it is available.

    Args:
        work: Picklable function. An error that it raises ends everything.
        items: Picklable arguments, one case each.
        task: Name of the work for messages, as in "preprocessing: a worker process was ended by SIGKILL".
        workers: Number of processes; 1 works in this one. Each holds one item in memory and uses one thread. Or a
            cluster, for which `work` and the results must be small.
        progress: Called after each item.

    Yields:
        Results; they are not kept. For a case that ended its worker process twice, what is known of that.

    Raises:
        UsageError: If worker processes cannot start, or the cluster has no worker.
    """
    results: Iterator[Result | WorkerDeath]
    if isinstance(workers, DaskCluster):
        results = workers.map(work, items, task=task)
    elif workers == 1 or len(items) == 1:
        results = map(work, items)
    else:
        results = map_in_workers(work, items, task=task, workers=workers)
    for done, result in enumerate(results, start=1):
        yield result
        progress(done, len(items))


def work_on_cases(
    work: Callable[[CaseFiles], Result],
    cases: Sequence[CaseFiles],
    *,
    task: str,
    workers: Workers,
    progress: Progress = no_progress,
) -> Iterator[Result]:
    """Apply a function to every case; one bad case does not stop the others.

    Args:
        work: Picklable function. Raises AutosegError, OSError, ValueError or MemoryError for a case that fails.
        cases: The cases.
        task: Name of the work for the message, as in "preprocessing failed".
        workers: Number of processes; 1 works in this one. Each holds one case in memory and uses one thread. Or a
            cluster.
        progress: Called after each case.

    Yields:
        Results of the cases that succeeded, in the order of the cases; they are not kept.

    Raises:
        DatasetError: After the last case, if any failed; names each of them.
        WorkerError: The same, if one of them ended its worker process.
        WriteError: If the disk is full.
        UsageError: If worker processes cannot start, or the cluster has no worker.
    """
    failures, kind = [], DatasetError
    outcomes = map_in_processes(partial(_attempt, work), cases, task=task, workers=workers, progress=progress)
    for case, outcome in zip(cases, outcomes, strict=True):
        if isinstance(outcome, WorkerDeath):
            failures.append(f"  {case.case}: {outcome.describe()}")
            kind = WorkerError
            continue
        result, failure = outcome
        if result is None:
            failures.append(f"  {case.case}: {failure}")
        else:
            yield result
    if failures:
        raise kind(f"{task} failed for {len(failures)} of {len(cases)} case(s):\n" + "\n".join(failures))


def _attempt(work: Callable[[CaseFiles], Result], case: CaseFiles) -> tuple[Result | None, str]:
    """Result of a case, or None and the error message."""
    try:
        return work(case), ""
    except WriteError:
        raise  # the disk is full for the other cases too
    except (AutosegError, OSError, ValueError) as error:
        return None, str(error)
    except MemoryError:
        return None, "out of memory; use fewer workers"
