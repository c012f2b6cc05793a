"""What a label map must know of the series that its image was read from, and label maps on the slices of the series."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.records.case import Grid


@dataclass(frozen=True)
class SourceSlice:
    """One slice of the series, as its file has it."""

    file: str
    """Name of the file in the folder or archive; empty where the source is the file itself."""
    frame: int
    """Number of the frame in its file, from 0."""
    class_uid: str
    instance_uid: str
    position: tuple[float, float, float]
    """Centre of the first voxel, mm, left-posterior-superior."""
    layer: float
    """Place along the first axis of the image's grid, in voxels; whole numbers where nothing was resampled."""
    shift: tuple[float, float]
    """Place of the slice's first voxel along the other axes of the image's grid (y, x), in voxels."""


@dataclass(frozen=True)
class DicomSeries:
    """The series of an image: where its files are, and where its slices lie on the grid of the image."""

    path: Path
    """Folder, zip archive or file."""
    series_uid: str
    shape: tuple[int, int]
    """Rows and columns of a slice."""
    spacing: tuple[float, float]
    """Distance of rows and of columns, mm."""
    orientation: tuple[float, ...]
    """Direction along a row and along a column, three numbers each, left-posterior-superior."""
    slices: tuple[SourceSlice, ...]
    """Slices, lowest first along the normal of the first one."""

    def slices_of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of an array on the image's grid at the voxels of the files: the nearest ones, nothing interpolated.

        Args:
            values: Array on the image's grid, (Z, Y, X).

        Returns:
            Array (S, rows, columns) of the same type, in the order of `slices`; 0 outside of the grid.
        """
        found = np.zeros((len(self.slices), *self.shape), dtype=values.dtype)
        for index, source in enumerate(self.slices):
            layer = int(np.rint(source.layer))
            if 0 <= layer < len(values):
                found[index] = cut_plane(values[layer], source.shift, self.shape)
        return found

    def put_slices(self, slices: NDArray[Any], grid: Grid) -> NDArray[Any]:
        """Values at the voxels of the files, on the grid of the image; the inverse of `slices_of`.

        Args:
            slices: Array (S, rows, columns) in the order of `slices`.
            grid: Grid of the image.

        Returns:
            Array (Z, Y, X) of the same type; layers between slices have the values of the nearest slice.
        """
        found = np.zeros(grid.shape, dtype=slices.dtype)
        layers = np.array([source.layer for source in self.slices])
        for layer in range(len(found)):
            nearest = int(np.abs(layers - layer).argmin())
            y, x = self.slices[nearest].shift
            found[layer] = cut_plane(slices[nearest], (-y, -x), grid.shape[1:])
        return found


def cut_plane(plane: NDArray[Any], start: tuple[float, float], shape: tuple[int, ...]) -> NDArray[Any]:
    """A part of a plane (Y, X) that begins at the voxel nearest to `start`; 0 outside of the plane."""
    cut = np.zeros(shape, dtype=plane.dtype)
    first = np.rint(start).astype(int)
    low, high = np.maximum(first, 0), np.minimum(first + shape, plane.shape)
    if (high > low).all():
        inside = tuple(slice(begin, end) for begin, end in zip(low - first, high - first, strict=True))
        cut[inside] = plane[low[0] : high[0], low[1] : high[1]]
    return cut
