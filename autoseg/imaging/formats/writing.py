"""Writing of label maps on the grid of the image they belong to, in any format that can be read."""

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
from autoseg.imaging.formats.gzip_files import open_gzip
from autoseg.imaging.formats.itk import geometry_of_grid
from autoseg.imaging.formats.units import DEFAULT_UNIT, MM_PER_UNIT
from autoseg.imaging.formats.volume import (
    IMAGE_ENDINGS,
    ITK_ENDINGS,
    NIFTI_ENDINGS,
    PICTURE_ENDINGS,
    AnyArray,
    ItkGeometry,
    Template,
    reverse_voxel_axes,
    split_ending,
)
from autoseg.records.files import replacing, staged_folder

_SCANNER_COORDINATES = 1
"""NIfTI's code for an affine into the world of the scanner."""


def label_map_ending(ending: str) -> str:
    """The ending of a label map for an image with this ending: 2D images give .png, which is lossless."""
    return ".png" if ending.lower() in PICTURE_ENDINGS else ending.lower()


def write_label_map(labels: NDArray[np.unsignedinteger], template: Template, path: Path) -> Path:
    """Write a label map, atomically, on the template's grid.

    A NIfTI template keeps its header except the fields that describe the voxel type; ITK formats keep spacing, origin,
    direction and their unit. A file of another format gets the grid.

    Args:
        labels: Label values, (Z, Y, X) in stored order, from 0 on; stored in the smallest unsigned type.
        template: Template of the image.
        path: Output file; its ending decides the format. Every ending of a 2D image gives PNG with one channel.

    Returns:
        The path that was written: `path`, with the ending .png for 2D images.

    Raises:
        ImageFileError: If the ending is not supported, or the label map does not fit into the format.
        ValueError: If the shape is not the template's.
    """
    if labels.shape != template.grid.shape:
        raise ValueError(f"{path}: a label map of shape {labels.shape} does not fit the grid {template.grid.shape}")
    smallest = np.ascontiguousarray(labels, dtype=np.min_scalar_type(int(labels.max(initial=0))))
    return _write(smallest, template, path)


def write_share_map(fractions: NDArray[np.floating], template: Template, path: Path) -> Path:
    """Write a map of fractions, such as an uncertainty, atomically, on the template's grid.

    Args:
        fractions: Values in [0, 1], (Z, Y, X) in stored order; stored as float32, in PNG as 16 bits with 65535 for 1.
        template: Template of the image; its header is kept as in `write_label_map`, except the range that viewers show.
        path: Output file; its ending decides the format as in `write_label_map`.

    Returns:
        The path that was written.

    Raises:
        ImageFileError: If the ending is not supported, or the map does not fit into the format.
        ValueError: If the shape is not the template's.
    """
    if fractions.shape != template.grid.shape:
        raise ValueError(f"{path}: a map of shape {fractions.shape} does not fit the grid {template.grid.shape}")
    if split_ending(path.name)[1] in PICTURE_ENDINGS:
        return _write(np.rint(fractions * np.float32(65535)).astype(np.uint16), template, path)
    if template.nifti_header is not None:
        header = template.nifti_header.copy()
        header["cal_min"], header["cal_max"] = 0, 1
        template = replace(template, nifti_header=header)
    return _write(np.ascontiguousarray(fractions, dtype=np.float32), template, path)


def _write(voxels: AnyArray, template: Template, path: Path) -> Path:
    """Write voxels (Z, Y, X) of the type to be stored in the format of the path's ending."""
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
    """The image's own header, or a new one for its grid."""
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
    """A copy of the class for single files; nibabel's image classes convert it to a pair header where needed."""
    single_class = Nifti2Header if int(header["sizeof_hdr"]) == Nifti2Header.sizeof_hdr else Nifti1Header
    single = single_class(header.binaryblock, header.endianness, check=False)
    single["magic"] = single_class.single_magic
    single.extensions.extend(header.extensions)
    return single


def _write_itk(labels: AnyArray, template: Template, path: Path, ending: str) -> None:
    import SimpleITK  # slow to import, and many datasets have only NIfTI files

    geometry = template.itk_geometry or geometry_of_grid(template.grid)
    if ending == ".gipl":
        geometry = _in_millimetres(geometry)
    if ending == ".gipl" and not np.array_equal(geometry.direction, np.eye(len(geometry.spacing)).ravel()):
        raise ImageFileError(f"{path}: GIPL cannot store the direction of this image's axes; use .nrrd")
    image = SimpleITK.GetImageFromArray(labels if len(geometry.spacing) == 3 else labels[0])
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    has_data_file = ending in (".mhd", ".nhdr")
    with _replacing_with_data_file(path) if has_data_file else replacing(path) as temporary:
        SimpleITK.WriteImage(image, str(temporary), useCompression=True)
        if geometry.unit != DEFAULT_UNIT:
            _name_unit(temporary, ending, geometry)


def _in_millimetres(geometry: ItkGeometry) -> ItkGeometry:
    factor = MM_PER_UNIT[geometry.unit]
    return ItkGeometry(
        spacing=tuple(size * factor for size in geometry.spacing),
        origin=tuple(position * factor for position in geometry.origin),
        direction=geometry.direction,
    )


def _name_unit(path: Path, ending: str, geometry: ItkGeometry) -> None:
    """Add the unit to the header of a file that ITK wrote, which never writes one."""
    content = path.read_bytes()
    if ending in (".nrrd", ".nhdr"):
        units = " ".join([f'"{geometry.unit}"'] * len(geometry.spacing))
        start, line = content.index(b"sizes:"), f"space units: {units}\n"
    else:
        start, line = content.index(b"ElementSpacing"), f"DistanceUnits = {geometry.unit}\n"
    path.write_bytes(content[:start] + line.encode() + content[start:])


def _write_png(labels: AnyArray, path: Path) -> None:
    if labels.shape[0] != 1:
        raise ImageFileError(f"{path}: a 2D image has one slice, the label map has {labels.shape[0]}; use .nii.gz")
    if labels.dtype.itemsize > 2:
        raise ImageFileError(f"{path}: PNG holds values up to 65535, the label map has {labels.max()}; use .nii.gz")
    with replacing(path) as temporary:
        Image.fromarray(labels[0]).save(temporary)


@contextmanager
def _replacing_with_data_file(path: Path) -> Iterator[Path]:
    """Like `replacing`, for formats of a header file and a data file that it names: the header is renamed last."""
    with staged_folder(path) as folder:
        yield folder / path.name
        for written in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            written.replace(path.with_name(written.name))
