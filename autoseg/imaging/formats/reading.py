"""Reading of image and label files of every format into arrays (C, Z, Y, X).

Only this module, the format modules that it calls and `writing` know the axis order of files.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError as NibabelError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.detached import DETACHABLE_ENDINGS, detached_data_files
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.imaging.formats.dicom.reading import SERIES_ENDING, read_series
from autoseg.imaging.formats.dicom.segment_reading import read_dicom_label_map
from autoseg.imaging.formats.dicom.sources import DICOM_ENDINGS, ZIP_ENDING, open_source
from autoseg.imaging.formats.itk import read_itk, volume_from_simpleitk
from autoseg.imaging.formats.label_values import read_values
from autoseg.imaging.formats.nifti import image_data_file, read_nifti, volume_from_nibabel
from autoseg.imaging.formats.pictures import PICTURE_SLICE_SPACING_MM, read_picture
from autoseg.imaging.formats.tiff_stacks import has_pages
from autoseg.imaging.formats.units import refuse_absurd_spacing
from autoseg.imaging.formats.volume import (
    IMAGE_ENDINGS,
    ITK_ENDINGS,
    NIFTI_ENDINGS,
    PICTURE_ENDINGS,
    AnyArray,
    Template,
    Volume,
    canonical_affine,
    grid_difference,
    make_grid,
    split_ending,
)
from autoseg.records.case import Grid
from autoseg.records.dataset import LabelReading
from autoseg.records.files import describe_special

__all__ = [
    "IMAGE_ENDINGS",
    "PICTURE_SLICE_SPACING_MM",
    "Template",
    "Volume",
    "data_files",
    "describe_notes",
    "image_exists",
    "is_series",
    "read_grid",
    "read_image",
    "read_label_map",
    "split_ending",
    "stored_ending",
    "volume_from_array",
    "volume_from_nibabel",
    "volume_from_simpleitk",
]


def read_image(paths: Sequence[Path]) -> Volume:
    """Read one case's image.

    Args:
        paths: One file (3D, 4D whose last axis is the channel, or colour), or one file per channel in order; a DICOM
            series is a folder, a .zip archive or a file (`formats.dicom.reading.read_series`).

    Returns:
        Volume with array (C, Z, Y, X) float32 in stored order; grid and template are the first file's.

    Raises:
        ImageFileError: If a file cannot be read, or the files' grids differ; the message begins with the path.
    """
    volumes: list[Volume] = []
    arrays: list[AnyArray] = []
    for path in paths:
        volume = _read(Path(path), as_labels=False)
        arrays.append(_as_float32(volume.array))
        volumes.append(replace(volume, array=arrays[-1][:0].copy()))
        del volume
    first = volumes[0]
    for other in volumes[1:]:
        difference = grid_difference(first.grid, other.grid)
        if difference is not None:
            raise ImageFileError(f"{other.path}: not on the same grid as {first.path}: {difference}")
    array = arrays[0] if len(arrays) == 1 else _join_channels(arrays)
    notes = tuple(dict.fromkeys(note for volume in volumes for note in volume.notes))
    return replace(first, array=array, notes=notes)


def read_grid(path: Path) -> Grid:
    """The grid of a NIfTI file, from its header alone.

    Raises:
        ImageFileError: If the header cannot be read.
    """
    try:
        image = nibabel.load(path)
        blank = np.broadcast_to(np.uint8(0), image.shape)  # no memory but for one number
        return volume_from_nibabel(type(image)(blank, None, image.header)).grid
    except (OSError, ValueError, NibabelError, HeaderDataError) as error:
        raise ImageFileError(f"{path}: cannot be read as NIfTI: {error}") from error


def read_label_map(path: Path, reading: LabelReading | None = None) -> Volume:
    """Read a label map with the file's own values, or as the dataset's rule for its label files says.

    Args:
        path: File of the label map; of a DICOM segmentation the values are the numbers of its segments.
        reading: Rule of the dataset; None: pixels are label values.

    Returns:
        Volume with array (1, Z, Y, X) in stored order: integers stay integers, floats that are whole numbers but for
        rounding become integers (with a note if they were rounded), anything else (fractions, NaN) stays float.

    Raises:
        ImageFileError: If the file cannot be read or has more than one value per voxel.
        ColorMaskError: If it has colours that are not declared.
    """
    has_colors = reading is not None and bool(reading.colors)
    volume = _read(Path(path), as_labels=True, with_palette=has_colors)
    values, notes = read_values(volume.array, reading, Path(path))
    return replace(volume, array=values, notes=(*volume.notes, *notes))


def describe_notes(notes_by_case: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes of the readers, each once with the number of its cases.

    Args:
        notes_by_case: Notes by case or file, an empty sequence for those without notes.
    """
    number = Counter(note for notes in notes_by_case.values() for note in notes)
    first = {note: case for case, notes in reversed([*notes_by_case.items()]) for note in notes}
    return [
        f"{note} ({count} of {len(notes_by_case)} cases, the first is {first[note]})" for note, count in number.items()
    ]


def volume_from_array(
    array: ArrayLike, spacing: Sequence[float], affine: ArrayLike | None = None, *, ending: str = ""
) -> Volume:
    """A volume from an array in memory.

    Args:
        array: Image, (C, Z, Y, X), or (Z, Y, X) for one channel.
        spacing: Voxel size in mm, (z, y, x).
        affine: Matrix from voxel index (z, y, x, 1) to world mm (right, anterior, superior, 1), (4, 4); None: the axes
            run towards superior, posterior and left.
        ending: Ending of the files that label maps will be written to, for example `.nii.gz`.

    Raises:
        ValueError: If the array has other than 3 or 4 axes or no voxels, the spacing is not three lengths above 0 or is
            absurd, or spacing and affine disagree.
    """
    voxels: AnyArray = np.asarray(array)
    if voxels.ndim == 3:
        voxels = voxels[np.newaxis]
    if voxels.ndim != 4:
        raise ValueError(f"expected an array (C, Z, Y, X) or (Z, Y, X), found the shape {voxels.shape}")
    if not voxels.size:
        raise ValueError(f"the array has no voxels: its shape is {voxels.shape}")
    if len(spacing) != 3 or not all(length > 0 for length in spacing):
        raise ValueError(f"expected a spacing of three lengths above 0 mm, (z, y, x), found {tuple(spacing)}")
    matrix = canonical_affine(spacing) if affine is None else np.asarray(affine, dtype=np.float64)
    if not np.allclose(np.linalg.norm(matrix[:3, :3], axis=0), spacing, rtol=1e-2):
        raise ValueError(f"the affine's columns are not {tuple(spacing)} mm long; both have the order (z, y, x)")
    refuse_absurd_spacing(spacing, voxels.shape[1:])
    grid = make_grid(voxels.shape[1:], spacing, matrix)
    return Volume(array=_as_float32(voxels), grid=grid, template=Template(ending=ending, grid=grid))


def is_series(path: Path) -> bool:
    """Whether a path is read as DICOM: a folder, a zip archive, or a file with an ending of DICOM."""
    target = read_address(path).path
    if split_ending(target.name)[1] in IMAGE_ENDINGS:
        return False
    return target.suffix.lower() in (*DICOM_ENDINGS, ZIP_ENDING) or target.is_dir()


def image_exists(path: Path) -> bool:
    """Whether there is a file, or a folder or archive with a DICOM series."""
    return read_address(path).path.exists() if is_series(path) else path.is_file()


def stored_ending(path: Path) -> str:
    """The ending of an image file; .nii.gz for TIFF stacks, whose label maps are NIfTI because PNG holds one slice.

    Label maps of DICOM series are segmentations, .dcm.
    """
    if is_series(path):
        return SERIES_ENDING
    return ".nii.gz" if has_pages(path) else split_ending(path.name)[1]


def data_files(path: Path) -> tuple[Path, ...]:
    """The file itself and the files with its voxels: .img beside .hdr, and the files that MetaImage and NRRD name.

    Of a folder with a DICOM series, all files in it.

    Raises:
        ImageFileError: If a header that names its files cannot be read, or names files outside its folder; if one of
            the files is not a regular file, such as a FIFO or a device.
    """
    if is_series(path):
        return _files_of_series(read_address(path).path)
    _refuse_special(path, path)
    if path.suffix.lower() == ".hdr":
        others: tuple[Path, ...] = (image_data_file(path),)
    elif path.suffix.lower() in DETACHABLE_ENDINGS:
        others = detached_data_files(path)
    else:
        others = ()
    for other in others:
        _refuse_special(other, path)
    return path, *others


def _files_of_series(path: Path) -> tuple[Path, ...]:
    if not path.is_dir():
        _refuse_special(path, path)
        return (path,)
    with open_source(path) as source:
        return tuple(path / name for name in source.names)


def _refuse_special(file: Path, path: Path) -> None:
    """Refuse what is not a regular file before it is opened: a FIFO never ends to wait, a device never to give."""
    if kind := describe_special(file):
        what = "is" if file == path else f"{file.name}, which belongs to it, is"
        raise ImageFileError(f"{path}: {what} {kind}, expected a regular file")


def _read(path: Path, *, as_labels: bool, with_palette: bool = True) -> Volume:
    if is_series(path):
        return read_dicom_label_map(path) if as_labels else read_series(path)
    ending = split_ending(path.name)[1]
    if not path.exists():
        what = "is a link to a file that does not exist" if path.is_symlink() else "there is no such file"
        raise ImageFileError(f"{path}: {what}")
    missing = [file.name for file in data_files(path) if not file.exists()]
    if missing and ending in ITK_ENDINGS:
        raise ImageFileError(f"{path}: the file with its voxels, {missing[0]}, does not exist")
    if ending in NIFTI_ENDINGS:
        return read_nifti(path, as_float32=not as_labels)
    if ending in ITK_ENDINGS:
        return read_itk(path)
    if ending in PICTURE_ENDINGS:
        return read_picture(path, with_palette=with_palette)
    raise ImageFileError(
        f"{path}: files ending in {ending or '(nothing)'} are not supported. Convert it to one of "
        f"{' '.join(IMAGE_ENDINGS)}"
    )


def _join_channels(arrays: list[AnyArray]) -> AnyArray:
    """Concatenate, and release each array once it is copied, so that all channels are never held twice."""
    joined = np.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), dtype=np.float32)
    end = len(joined)
    while arrays:
        channels = arrays.pop()
        joined[end - len(channels) : end] = channels
        end -= len(channels)
    return joined


def _as_float32(array: AnyArray) -> AnyArray:
    # Values beyond float32 become infinite, which the checks report.
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)
