"""Sample cases of a dataset: one slice of each with its labels, and a sample of its intensities.

Small images are read from the files. Of large ones, single slices are read from the preprocessed arrays, so neither
time nor memory grows with the images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import AutosegError
from autoseg.imaging.arrays.display import choose_window, describe_slice, display_image, through_plane_axis
from autoseg.imaging.arrays.storage import open_case
from autoseg.imaging.datasets.cases import read_case
from autoseg.records.dataset import CaseFiles, DatasetDescription
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.report.charts.slices import SliceImage, make_slice

MAX_SAMPLES = 12
MAX_FLAGGED_SAMPLES = 4
"""Unusual cases among the samples."""
MAX_VOXELS = 2**25
"""Voxels over all channels of an image that is read as a whole: 128 MB in memory, about a second."""
MAX_INTENSITIES = 20_000
"""Voxels of a case and channel that enter its histogram, inside and outside of labels."""


@dataclass(frozen=True)
class Sample:
    """One sample case."""

    case: str
    """Case id."""
    image: SliceImage
    """Slice with the contours of its labels."""
    inside: NDArray[np.float32]
    """Intensities within labels, (C, N)."""
    outside: NDArray[np.float32]
    """Intensities outside of labels, (C, M)."""
    is_preprocessed: bool
    """Whether the intensities are normalised."""


@dataclass(frozen=True)
class _Slice:
    image: NDArray[np.float32]
    """Intensities, (C, Y, X)."""
    labels: NDArray[np.int16]
    """Label indices, (Y, X)."""
    pixel_aspect: float
    place: str
    is_preprocessed: bool


@dataclass(frozen=True)
class SampleReader:
    """Reader of sample cases from the dataset folder or the preprocessed arrays."""

    workspace: Workspace
    description: DatasetDescription
    plan: Plan | None
    facts: dict[str, CaseFingerprint]

    def read(self, files: CaseFiles) -> Sample | None:
        """Read one case; None where neither its files nor its preprocessed arrays exist.

        Raises:
            AutosegError: If a file cannot be read.
        """
        shown = self._read_whole(files) if self._is_small(files.case) else None
        shown = shown or self._read_stored(files.case)
        if shown is None:
            return None
        window = None if shown.is_preprocessed else choose_window(self.plan)  # preprocessing has cut CT already
        is_inside = shown.labels != 0
        parts = (shown.image[:, is_inside], shown.image[:, ~is_inside])
        inside, outside = (part[:, :: max(1, part.shape[1] // MAX_INTENSITIES)] for part in parts)
        image = make_slice(
            caption=files.case,
            description=f"{files.case}, {shown.place}, with the contours of its labels",
            image=display_image(shown.image, in_colour=self._is_flat(files.case), window=window),
            reference=shown.labels,
            prediction=None,
            pixel_aspect=shown.pixel_aspect,
        )
        return Sample(files.case, image, inside, outside, shown.is_preprocessed)

    def _is_flat(self, case: str) -> bool:
        return case in self.facts and min(self.facts[case].shape) == 1

    def _is_small(self, case: str) -> bool:
        return case in self.facts and math.prod(self.facts[case].shape) * self._channels <= MAX_VOXELS

    @property
    def _channels(self) -> int:
        return len(self.description.channel_names)

    def _read_whole(self, files: CaseFiles) -> _Slice | None:
        folder = self.workspace.dataset_folder(self.description.folder)
        if not folder.exists():
            return None
        volume = read_case(folder, files, self.description.encoding, self.description.orientation)
        shape = volume.grid.shape
        labels = np.zeros(shape, dtype=np.int16) if volume.labels is None else volume.labels
        axis = through_plane_axis(shape, volume.grid.spacing)
        counts = np.count_nonzero(labels, axis=tuple(other for other in range(3) if other != axis))
        place = int(counts.argmax()) if counts.any() else shape[axis] // 2
        rows, columns = (other for other in range(3) if other != axis)
        up = slice(None, None, -1 if rows == 0 else 1)  # z runs upwards, rows run downwards
        spacing = volume.grid.spacing
        return _Slice(
            image=np.take(volume.image, place, axis=1 + axis)[:, up],
            labels=self._without_ignored(np.take(labels, place, axis=axis)[up]),
            pixel_aspect=spacing[rows] / spacing[columns],
            place=describe_slice(axis, place, shape[axis]),
            is_preprocessed=False,
        )

    def _read_stored(self, case: str) -> _Slice | None:
        """Read the slice with most foreground among the voxels that preprocessing recorded."""
        folder = self._stored_folder(case)
        if folder is None:
            return None
        stored = open_case(folder, case)
        noted = np.concatenate([np.zeros((0, 3), dtype=np.int32), *stored.locations.values()])[:, 0]
        depth = stored.record.shape[0]
        place = int(np.bincount(noted).argmax()) if len(noted) else depth // 2
        values = np.asarray(stored.array[:, place])
        up = slice(None, None, -1 if stored.record.transpose[1] == 0 else 1)
        spacing = stored.record.spacing
        return _Slice(
            image=values[: self._channels, up],
            labels=self._without_ignored(values[-1, up].astype(np.int16)),
            pixel_aspect=spacing[1] / spacing[2],
            place=describe_slice(stored.record.transpose[0], place, depth),
            is_preprocessed=True,
        )

    def _stored_folder(self, case: str) -> Path | None:
        names = () if self.plan is None else tuple(self.plan.configurations)
        folders = (self.workspace.preprocessed(name) for name in names)
        return next((folder for folder in folders if (folder / f"{case}.json").exists()), None)

    def _without_ignored(self, labels: NDArray[np.int16]) -> NDArray[np.int16]:
        return np.where((labels < 0) | (labels >= len(self.description.encoding.values)), 0, labels).astype(np.int16)


def read_samples(
    workspace: Workspace,
    description: DatasetDescription,
    fingerprint: Fingerprint | None,
    plan: Plan | None,
    flagged: Sequence[str],
) -> tuple[list[Sample], list[str]]:
    """Read up to twelve cases, one at a time: some unusual ones, and others evenly spaced over the list.

    Returns:
        The samples, and a sentence for each case that cannot be shown.
    """
    facts = {} if fingerprint is None else {case.case: case for case in fingerprint.cases}
    reader = SampleReader(workspace, description, plan, facts)
    by_case = {files.case: files for files in description.cases}
    samples, notes, missing = [], [], 0
    for case in choose_samples(list(by_case), [case for case in flagged if case in by_case]):
        try:
            sample = reader.read(by_case[case])
        except (AutosegError, ValueError) as error:
            notes.append(f"{case} cannot be shown: {error}")
            continue
        if sample is None:
            missing += 1
        else:
            samples.append(sample)
    if missing:
        place = workspace.dataset_folder(description.folder)
        why = (
            f"The dataset is no longer at {description.folder}"
            if not place.exists()
            else "Their images are too large to be read as a whole, and preprocessed arrays are missing"
        )
        notes.append(f"Sample cases that cannot be shown: {missing}. {why}.")
    return samples, notes


def choose_samples(cases: Sequence[str], flagged: Sequence[str]) -> list[str]:
    """The first flagged cases and others evenly spaced over the list, in the order of the list."""
    chosen = list(dict.fromkeys(flagged))[:MAX_FLAGGED_SAMPLES]
    others = [case for case in cases if case not in chosen]
    wanted = min(MAX_SAMPLES - len(chosen), len(others))
    chosen += [others[int(place)] for place in np.linspace(0, len(others) - 1, wanted)] if wanted > 0 else []
    return sorted(chosen, key=list(cases).index)
