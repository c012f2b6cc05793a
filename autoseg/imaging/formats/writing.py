"""Label maps into files on the grid of the image they belong to, in any format that can be read."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from nibabel.filebasedimages import ImageFileError as NibabelError
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Header, Nifti2Image, Nifti2Pair
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from PIL import Image

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.compression import open_gzip
from autoseg.imaging.formats.itk import geometry_of_grid
from autoseg.imaging.formats.volume import (
    IMAGE_ENDINGS,
    ITK_ENDINGS,
    NIFTI_ENDINGS,
    PICTURE_ENDINGS,
    AnyArray,
    Template,
    reverse_voxel_axes,
    split_ending,
)
from autoseg.records.files import replacing

_SCANNER_COORDINATES = 1
"""NIfTI's code for an affine into the world of the scanner."""


def label_map_ending(ending: str) -> str:
    """The ending of a label map for an image with this ending: pictures give .png (one that loses nothing)."""
    return ".png" if ending.lower() in PICTURE_ENDINGS else ending.lower()


def write_label_map(labels: NDArray[np.unsignedinteger], template: Template, path: Path) -> Path:
    """Write a label map, atomically, on the template's grid.

    A NIfTI template keeps its header but for what voxels of another type require; ITK formats keep spacing, origin
    and direction. Written to another format, the grid is carried over.

    Args:
        labels: (Z, Y, X) in stored order, whole numbers from 0 on; stored in the smallest unsigned type.
        template: Of the image.
        path: Its ending chooses the format. Pictures are written as PNG with one channel, whatever picture ending
            is asked for.

    Returns:
        The path written: `path`, but for pictures the ending is .png.

    Raises:
        ImageFileError: If the ending is not supported, or the label map does not fit into the format.
        ValueError: If the shape is not the template's.
    """
    if labels.shape != template.grid.shape:
        raise ValueError(f"{path}: a label map of shape {labels.shape} does not fit the grid {template.grid.shape}")
    smallest = np.ascontiguousarray(labels, dtype=np.min_scalar_type(int(labels.max(initial=0))))
    return _write(smallest, template, path)


def write_share_map(shares: NDArray[np.floating], template: Template, path: Path) -> Path:
    """Write a map of shares, such as an uncertainty, atomically, on the template's grid.

    Args:
        shares: (Z, Y, X) in stored order, in [0, 1]; stored as float32. PNG has no fractions: 16 bits, 65535 for 1.
        template: Of the image; its header is kept as for `write_label_map`, but for the range that viewers show.
        path: As for `write_label_map`.

    Returns:
        The path written.

    Raises:
        ImageFileError: If the ending is not supported, or the map does not fit into the format.
        ValueError: If the shape is not the template's.
    """
    if shares.shape != template.grid.shape:
        raise ValueError(f"{path}: a map of shape {shares.shape} does not fit the grid {template.grid.shape}")
    if split_ending(path.name)[1] in PICTURE_ENDINGS:
        return _write(np.rint(shares * np.float32(65535)).astype(np.uint16), template, path)
    if template.nifti_header is not None:
        header = template.nifti_header.copy()
        header["cal_min"], header["cal_max"] = 0, 1
        template = replace(template, nifti_header=header)
    return _write(np.ascontiguousarray(shares, dtype=np.float32), template, path)


def _write(voxels: AnyArray, template: Template, path: Path) -> Path:
    """Choose the format by the path's ending; voxels are (Z, Y, X), of the type to be stored."""
    stem, ending = split_ending(path.name)
    try:
        if ending in NIFTI_ENDINGS:
            _write_nifti(voxels, template, path, ending)
        elif ending in ITK_ENDINGS:
            _write_itk(voxels, template, path, ending)
        elif ending in PICTURE_ENDINGS:
            path = path.with_name(stem + label_map_ending(ending))
            _write_png(voxels, path)
        else:
            raise ImageFileError(f"{path}: cannot write files ending in {ending}; use one of {' '.join(IMAGE_ENDINGS)}")
    except (OSError, RuntimeError, HeaderDataError, NibabelError) as error:
        raise ImageFileError(f"{path}: cannot be written: {error}") from error
    return path


def _write_nifti(labels: AnyArray, template: Template, path: Path, ending: str) -> None:
    header = _nifti_header(template)
    axes = template.file_dimensions
    voxels = labels.T if axes == 3 else labels[0].T
    header.set_data_dtype(labels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_data_offset(0)
    is_pair = ending == ".hdr"
    if isinstance(header, Nifti2Header):
        image = (Nifti2Pair if is_pair else Nifti2Image)(voxels, None, header)
    else:
        image = (Nifti1Pair if is_pair else Nifti1Image)(voxels, None, header)
    with _replacing_with_data_file(path) if is_pair else replacing(path) as temporary:
        if ending == ".nii.gz":
            with open_gzip(temporary) as stream:
                image.to_stream(stream)
        else:
            image.to_filename(temporary)


def _nifti_header(template: Template) -> Nifti1Header:
    """The image's own header, or one made from its grid."""
    if template.nifti_header is not None:
        return _single_file_header(template.nifti_header)
    affine = reverse_voxel_axes(np.array(template.grid.affine))
    header = Nifti1Header()
    header.set_data_shape(template.grid.shape[::-1])
    header.set_zooms(template.grid.spacing[::-1])
    header.set_qform(affine, _SCANNER_COORDINATES)
    header.set_sform(affine, _SCANNER_COORDINATES)
    header.set_xyzt_units("mm")
    return header


def _single_file_header(header: Nifti1Header) -> Nifti1Header:
    """A copy whose class is the one of single files; images make pair headers of it where they need them."""
    single_class = Nifti2Header if int(header["sizeof_hdr"]) == Nifti2Header.sizeof_hdr else Nifti1Header
    single = single_class(header.binaryblock, header.endianness, check=False)
    single["magic"] = single_class.single_magic
    single.extensions.extend(header.extensions)
    return single


def _write_itk(labels: AnyArray, template: Template, path: Path, ending: str) -> None:
    import SimpleITK  # slow to import, and many data sets are NIfTI alone

    geometry = template.itk_geometry or geometry_of_grid(template.grid)
    if ending == ".gipl" and not np.array_equal(geometry.direction, np.eye(len(geometry.spacing)).ravel()):
        raise ImageFileError(f"{path}: GIPL cannot store the direction of this image's axes; use .nrrd")
    image = SimpleITK.GetImageFromArray(labels if len(geometry.spacing) == 3 else labels[0])
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    has_data_file = ending in (".mhd", ".nhdr")
    with _replacing_with_data_file(path) if has_data_file else replacing(path) as temporary:
        SimpleITK.WriteImage(image, str(temporary), useCompression=True)


def _write_png(labels: AnyArray, path: Path) -> None:
    if labels.shape[0] != 1:
        raise ImageFileError(f"{path}: a picture has one slice, the label map has {labels.shape[0]}; use .nii.gz")
    if labels.dtype.itemsize > 2:
        raise ImageFileError(f"{path}: PNG holds values up to 65535, the label map has {labels.max()}; use .nii.gz")
    with replacing(path) as temporary:
        Image.fromarray(labels[0]).save(temporary)


@contextmanager
def _replacing_with_data_file(path: Path) -> Iterator[Path]:
    """Like `replacing`, for formats of a header file and a data file that it names: the header is renamed last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    folder.mkdir()
    try:
        yield folder / path.name
        for written in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            written.replace(path.with_name(written.name))
    finally:
        shutil.rmtree(folder)
