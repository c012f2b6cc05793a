"""Frames into stacks: those of one series that lie parallel to each other, one at each position.

A folder holds several series, a series may hold localizers, several acquisitions, echoes or times.

Tested in tests/imaging/formats/dicom/test_reading.py.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.dicom.frames import Frame, frames_of, modality_of, read_header
from autoseg.imaging.formats.dicom.sources import DicomSource

MIN_SIZE_FACTOR = 10
"""A stack is taken without being asked for if it has at least this many times the slices of every other one, or the
others are localizers."""

_SAME_POSITION_MM = 1e-3

_PARALLEL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Stack:
    """Frames of one series that belong to one image; not yet in order."""

    series_uid: str
    number: str
    """Number of the series as the file tells it; may be empty."""
    part: int
    """Number of the stack in its series, from 1."""
    parts: int
    """Number of stacks in the series."""
    frames: tuple[Frame, ...]
    difference: str = ""
    """What tells it from other stacks of the series at the same positions, such as `EchoTime 80`."""

    @property
    def name(self) -> str:
        """What `--series` calls it."""
        series = self.number or self.series_uid
        return series if self.parts == 1 else f"{series}-{self.part}"

    def is_called(self, series: str) -> bool:
        """Whether a number or UID, with `-N` for the N-th stack, means this stack."""
        own = {self.number, self.series_uid} - {""}
        return series in {f"{name}-{self.part}" for name in own} | (own if self.parts == 1 else set())

    def describe(self) -> str:
        """One line that tells stacks apart; nothing in it tells who the patient is."""
        first = self.frames[0]
        rows, columns = first.shape
        orientation = f", {_plane(first)}" if first.orientation else ""
        difference = f", {self.difference}" if self.difference else ""
        return (
            f"--series {self.name}: {first.modality or 'no modality'}, {len(self.frames)} slices of {rows} x {columns}"
            f"{orientation}{difference}, UID {self.series_uid}"
        )


def normal_of(frame: Frame) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The direction that is at right angles to a frame: that of its rows times that of its columns."""
    directions = np.array(frame.orientation, dtype=np.float64)
    normal = np.cross(directions[:3], directions[3:])
    unit: np.ndarray[tuple[int], np.dtype[np.float64]] = normal / np.linalg.norm(normal)
    return unit


def find_stacks(source: DicomSource) -> tuple[Stack, ...]:
    """All images of a source, by the number of their series.

    Raises:
        ImageFileError: If a DICOM file is damaged, or no file is an image.
    """
    frames: list[Frame] = []
    kinds: Counter[str] = Counter()
    for name in source.names:
        header = read_header(source, name)
        if header is not None:
            found = frames_of(header, source, name)
            frames += found
            kinds[modality_of(header) or "of no modality"] += not found
    if not frames:
        others = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise ImageFileError(
            f"{source.path}: found {f'no images, but other DICOM files: {others}' if others else 'no DICOM files'}; "
            "expected a series of CT, MR or PET. Give the folder or zip archive with the images"
        )
    by_series: dict[str, list[Frame]] = {}
    for frame in frames:
        by_series.setdefault(frame.series_uid, []).append(frame)
    stacks = [stack for uid, members in by_series.items() for stack in _stacks_of_series(uid, members)]
    return tuple(sorted(stacks, key=lambda stack: (_as_number(stack.number), stack.series_uid, stack.part)))


def choose_stack(stacks: Sequence[Stack], series: str | None, path: Path) -> Stack:
    """The stack that was asked for, the only one, or the one that is clearly the image.

    Raises:
        ImageFileError: If there are several, or none is called like that; the message lists them.
    """
    listed = "\n  ".join(["", *(stack.describe() for stack in stacks)])
    if series is not None:
        called = [stack for stack in stacks if stack.is_called(series)]
        if len(called) == 1:
            return called[0]
        what = "several images are" if called else "no image is"
        raise ImageFileError(f"{path}: {what} called --series {series}. Choose one of:{listed}")
    images = [stack for stack in stacks if stack.frames[0].position is not None] or list(stacks)
    images = [stack for stack in images if not stack.frames[0].is_localizer] or images
    largest = max(images, key=lambda stack: len(stack.frames))
    others = [len(stack.frames) for stack in images if stack is not largest]
    if all(MIN_SIZE_FACTOR * count <= len(largest.frames) for count in others):
        return largest
    raise ImageFileError(f"{path}: has {len(stacks)} images; say which one is meant. Choose one of:{listed}")


def _stacks_of_series(uid: str, frames: Sequence[Frame]) -> Iterator[Stack]:
    parallel: list[list[Frame]] = []
    for frame in frames:
        group = next((group for group in parallel if _are_parallel(group[0], frame)), None)
        if group is None:
            parallel.append([frame])
        else:
            group.append(frame)
    parts = [part for group in parallel for part in _without_repetition(group)]
    for number, (part, difference) in enumerate(parts, start=1):
        yield Stack(uid, part[0].series_number, number, len(parts), tuple(part), difference)


def _are_parallel(first: Frame, other: Frame) -> bool:
    same = ("shape", "channels", "reference_uid", "is_localizer")
    if any(getattr(first, name) != getattr(other, name) for name in same):
        return False
    if len(first.orientation) != len(other.orientation):
        return False
    spacing, orientation = np.subtract(first.spacing, other.spacing), np.subtract(first.orientation, other.orientation)
    is_close = np.abs(spacing).max() <= _PARALLEL_TOLERANCE * max(first.spacing)
    return bool(is_close and np.abs(orientation).max(initial=0) <= _PARALLEL_TOLERANCE)


def _without_repetition(frames: Sequence[Frame]) -> list[tuple[list[Frame], str]]:
    """Frames with one at each position, split by what tells those at one position apart; together if nothing does."""
    if frames[0].position is None:
        return [(list(frames), "")]
    positions = [_position_key(frame) for frame in frames]
    repetitions = max(Counter(positions).values())
    if repetitions == 1:
        return [(list(frames), "")]
    keys = list(dict.fromkeys(key for frame in frames for key, _ in frame.varying))
    for chosen in (*combinations(keys, 1), *combinations(keys, 2)):
        groups: dict[tuple[str, ...], list[int]] = {}
        for index, frame in enumerate(frames):
            found = dict(frame.varying)
            groups.setdefault(tuple(found.get(key, "none") for key in chosen), []).append(index)
        is_split = all(len({positions[index] for index in group}) == len(group) for group in groups.values())
        is_whole = min(map(len, groups.values())) > 1 or len(set(positions)) == 1
        if is_split and is_whole and len(groups) == repetitions:
            return [
                (
                    [frames[index] for index in group],
                    ", ".join(f"{key} {value}" for key, value in zip(chosen, values, strict=True)),
                )
                for values, group in groups.items()
            ]
    return [(list(frames), "")]


def _position_key(frame: Frame) -> tuple[int, ...]:
    return tuple(np.rint(np.array(frame.position) / _SAME_POSITION_MM / 10).astype(int).tolist())


def _as_number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.lstrip("-").isdigit() else (1 << 31, text)


def _plane(frame: Frame) -> str:
    """The plane that a frame lies closest to."""
    axis = int(np.abs(normal_of(frame)).argmax())
    return ("sagittal", "coronal", "axial")[axis]
