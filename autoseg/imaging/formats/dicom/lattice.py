"""Slices in the order of their positions: the grid that they lie on, or the one that they are resampled to.

Tested in tests/imaging/formats/dicom/test_reading.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.dicom.frames import Frame
from autoseg.imaging.formats.dicom.stacks import Stack, normal_of
from autoseg.imaging.formats.volume import FLAT_SLICE_FACTOR, make_grid, reverse_voxel_axes
from autoseg.records.case import Grid

DISTANCE_TOLERANCE = 0.01
"""Deviation of a distance of slices from the usual one, as a fraction of it, beyond which slices lie irregularly."""

ROUNDING_MM = 0.02
"""Deviation of a distance that rounded positions cause."""

DUPLICATE_FRACTION = 0.01
"""Distance of slices, as a fraction of the usual one, below which they lie at the same position."""

TILT_TOLERANCE = 1e-3
"""Shift of a slice within its plane, as a fraction of its distance, up to which the stack counts as upright."""

SHIFT_TOLERANCE_VOXELS = 0.1
"""Shift within the plane over the whole stack, in voxels, up to which the stack counts as upright."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_LISTED = 8
"""Number of positions that a message names; it counts the others."""


@dataclass(frozen=True)
class Lattice:
    """Slices of a stack, lowest first along the normal, and the grid of the image that is made of them."""

    frames: tuple[Frame, ...]
    """Frames in order; duplicates are left out."""
    grid: Grid
    layers: tuple[float, ...]
    """Place of each slice along the first axis of the grid, in voxels: 0, 1, 2, ... where nothing is resampled."""
    shifts: tuple[tuple[float, float], ...]
    """Place of each slice's first voxel along the other two axes of the grid (y, x), in voxels."""
    notes: tuple[str, ...] = ()

    @property
    def is_resampled(self) -> bool:
        """Whether the image's slices are others than those of the files."""
        is_moved = any(max(map(abs, shift)) > 0 for shift in self.shifts)
        return is_moved or any(layer != index for index, layer in enumerate(self.layers))


GAP_NOTE = "slices at irregular positions are resampled to equal distances, because --resample-gaps was given"
TILT_NOTE = "the gantry was tilted: slices are shifted within their planes to an upright grid"


def arrange(stack: Stack, path: Path, *, resample_gaps: bool) -> Lattice:
    """Put the slices of a stack in order.

    Args:
        stack: Frames of one image.
        path: Folder, archive or file, for messages.
        resample_gaps: Whether gaps and duplicates are resampled.

    Raises:
        ImageFileError: If slices have no place in the patient, are missing, double or at irregular distances.
    """
    _check_places(stack, path)
    normal = normal_of(stack.frames[0])
    frames = sorted(stack.frames, key=lambda frame: (float(np.dot(frame.position or 0, normal)), frame.instance_number))
    heights = np.array([np.dot(frame.position or 0, normal) for frame in frames])
    notes: list[str] = []
    if len(frames) > 1:
        step = _usual_distance(heights, path)
        faults = _irregularities(heights, step)
        if faults and not resample_gaps:
            raise ImageFileError(
                f"{path}: the slices do not lie at equal distances of {step:.5g} mm: {'; '.join(faults)}. Add or "
                "remove the files, or give --resample-gaps to resample the image"
            )
        if faults:
            kept = [0, *(i for i in range(1, len(frames)) if heights[i] - heights[i - 1] > DUPLICATE_FRACTION * step)]
            frames, heights = [frames[index] for index in kept], heights[kept]
            notes.append(GAP_NOTE)
        else:
            step = float(heights[-1] - heights[0]) / (len(heights) - 1)
    else:
        step, faults = _thickness(frames[0]), []
    layers = (heights - heights[0]) / step if faults else np.arange(len(frames), dtype=np.float64)
    return _on_grid(frames, heights, layers, step, notes)


def arrange_frames(frames: Sequence[Frame], path: Path) -> Lattice:
    """Put frames in order that lie at some of the positions of a regular stack, as those of segmentations do.

    Args:
        frames: Frames, one at each position, all of which have a place in the patient.
        path: File, for messages.

    Raises:
        ImageFileError: If no stack with equal distances has all of these positions, or voxels have no size.
    """
    if min(frames[0].spacing) <= 0:
        raise ImageFileError(f"{path}: the segmentation has no voxel size (Pixel Spacing). Correct the file")
    normal = normal_of(frames[0])
    ordered = sorted(frames, key=lambda frame: float(np.dot(frame.position or 0, normal)))
    heights = np.array([np.dot(frame.position or 0, normal) for frame in ordered])
    if len(ordered) == 1:
        return _on_grid(ordered, heights, np.zeros(1), _thickness(ordered[0]), [])
    usual = _usual_distance(heights, path)
    if not _irregularities(heights, usual):
        step = float(heights[-1] - heights[0]) / (len(heights) - 1)
        skipped = round(step / frames[0].distance) if frames[0].distance > 0 else 1
        step /= max(skipped, 1)
    else:
        step = frames[0].distance if frames[0].distance > 0 else float(np.diff(heights).min())
    layers = np.rint((heights - heights[0]) / step) if step > ROUNDING_MM / 10 else heights
    if np.abs(layers * step - (heights - heights[0])).max() > SHIFT_TOLERANCE_VOXELS * step:
        raise ImageFileError(
            f"{path}: the frames of the segmentation do not lie at multiples of one distance: they begin "
            f"{_few([f'{height:.5g} mm' for height in heights])}. Resample it to its image"
        )
    return _on_grid(ordered, heights, layers, step, [])


def _check_places(stack: Stack, path: Path) -> None:
    first = stack.frames[0]
    if any(frame.position is None for frame in stack.frames):
        raise ImageFileError(
            f"{path}: the {first.modality or 'DICOM'} images have no place in the patient (Image Position and Image "
            "Orientation); expected slices of CT, MR or PET. Convert them to another format, with their voxel size"
        )
    if min(first.spacing) <= 0:
        raise ImageFileError(f"{path}: the images have no voxel size (Pixel Spacing). Correct the files")
    if min(first.shape) < 1:
        raise ImageFileError(f"{path}: the images have {first.shape[0]} x {first.shape[1]} voxels")


def _thickness(frame: Frame) -> float:
    """Distance that a single slice stands for; like a 2D image if it says none."""
    return frame.thickness if frame.thickness > 0 else FLAT_SLICE_FACTOR * max(frame.spacing)


def _usual_distance(heights: NDArray[np.float64], path: Path) -> float:
    distances = np.diff(heights)
    apart = distances[distances > ROUNDING_MM / 10]
    if not apart.size:
        raise ImageFileError(
            f"{path}: all {len(heights)} slices lie at the same position, {heights[0]:.5g} mm, and nothing tells them "
            "apart. Give a folder with one image"
        )
    return float(np.median(apart))


def _irregularities(heights: NDArray[np.float64], step: float) -> list[str]:
    """What is wrong with the positions along the normal, in mm; empty if slices lie at equal distances."""
    doubles, gaps = [], []
    for low, high in pairwise(heights):
        distance = float(high - low)
        if distance <= DUPLICATE_FRACTION * step:
            doubles.append(f"{low:.5g} mm")
        elif abs(distance - step) > DISTANCE_TOLERANCE * step + ROUNDING_MM:
            gaps.append(f"{low:.5g} to {high:.5g} mm ({distance:.5g} mm)")
    faults = [f"{len(gaps)} gaps or other distances: {_few(gaps)}"] if gaps else []
    return [*faults, f"{len(doubles)} slices at the position of another one: {_few(doubles)}"] if doubles else faults


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _on_grid(
    frames: Sequence[Frame],
    heights: NDArray[np.float64],
    layers: NDArray[np.float64],
    step: float,
    notes: list[str],
) -> Lattice:
    """The upright grid that covers all slices, whose lowest slice lies on its first layer."""
    first = frames[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    axes = np.stack([normal_of(first), column, row], axis=1)  # along z, y, x of the array
    spacing = np.array([step, *first.spacing])
    origin = np.array(first.position)
    offsets = (np.array([frame.position for frame in frames]) - origin) @ axes[:, 1:] / spacing[1:]
    is_tilted = _is_tilted(offsets, heights, spacing)
    if is_tilted:
        notes = [*notes, TILT_NOTE]
    else:
        # Within the tolerance the last slice decides, so that rounded positions do not add up.
        offsets = np.zeros_like(offsets)
    low = np.minimum(np.floor(offsets.min(axis=0) + 1e-3), 0)
    high = np.maximum(np.ceil(offsets.max(axis=0) - 1e-3), 0)
    shape = [int(np.ceil(layers[-1] - 1e-3)) + 1, *(np.array(first.shape) + (high - low).astype(int)).tolist()]
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = origin + axes[:, 1:] @ (low * spacing[1:])
    if not is_tilted and len(frames) > 1 and np.array_equal(layers, np.arange(len(frames))):
        affine[:3, 0] = (np.array(frames[-1].position) - origin) / (len(frames) - 1)
    moved = [(float(y), float(x)) for y, x in offsets - low]
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return Lattice(
        frames=tuple(frames),
        grid=make_grid(shape, lengths.tolist(), _LPS_TO_RAS @ affine),
        layers=tuple(layers.tolist()),
        shifts=tuple(moved),
        notes=tuple(notes),
    )


def _is_tilted(offsets: NDArray[np.float64], heights: NDArray[np.float64], spacing: NDArray[np.float64]) -> bool:
    """Whether slices are shifted within their planes by more than rounded positions explain."""
    drift = np.abs(offsets).max()
    drift_mm = np.abs(offsets * spacing[1:]).max()
    return bool(drift > SHIFT_TOLERANCE_VOXELS and drift_mm > TILT_TOLERANCE * float(heights[-1] - heights[0]))


def world_affine(grid: Grid) -> NDArray[np.float64]:
    """Matrix from voxel index (x, y, z, 1) to DICOM's world (left-posterior-superior, mm), (4, 4)."""
    return np.asarray(_LPS_TO_RAS @ reverse_voxel_axes(np.array(grid.affine)), dtype=np.float64)
