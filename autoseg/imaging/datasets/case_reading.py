"""One case of a dataset as arrays in working orientation; used by every stage that reads training data."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import ImageFileError
from autoseg.imaging.arrays.labels import decode_label_map, encode_label_map
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
from autoseg.records.case import Grid, Orientation
from autoseg.records.dataset import CaseFiles, LabelEncoding, OrientationName


@dataclass(frozen=True)
class CaseVolume:
    """Image and label map of one case, in working orientation."""

    image: NDArray[np.float32]
    """Image, (C, Z, Y, X); a view, not contiguous when axes were permuted or flipped."""
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
        label_map = read_label_map(folder / files.label)
        difference = grid_difference(volume.grid, label_map.grid)
        if difference is not None:
            raise ImageFileError(f"{label_map.path}: not on the same grid as {volume.path}: {difference}")
        try:
            labels = orient_array(encode_label_map(label_map.array[0], encoding), oriented)
        except ValueError as error:
            raise ImageFileError(f"{label_map.path}: {error}") from error
    return CaseVolume(
        image=orient_array(volume.array, oriented),
        labels=labels,
        grid=orient_grid(volume.grid, oriented),
        orientation=oriented,
        template=volume.template,
    )


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
        Hash of 32 hexadecimal digits (BLAKE2b); it does not depend on file names.

    Raises:
        ImageFileError: If a file is missing or cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in (*files.images, *([files.label] if files.label else [])):
        for path in data_files(folder / name):
            digest.update(_file_digest(path))
    return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error}") from error
