"""NRRD, MetaImage and GIPL files through SimpleITK.

ITK's world is left-posterior-superior; autoseg's is right-anterior-superior.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.units import DEFAULT_UNIT, MM_PER_UNIT, refuse_absurd_spacing, text_header_unit
from autoseg.imaging.formats.volume import (
    FLAT_SLICE_FACTOR,
    SHEAR_NOTE,
    AnyArray,
    ItkGeometry,
    Template,
    Volume,
    is_sheared,
    make_grid,
    reverse_voxel_axes,
    split_ending,
)
from autoseg.records.case import Grid

if TYPE_CHECKING:
    import SimpleITK

_GIPL_HEADER_BYTES = 256

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_itk(path: Path) -> Volume:
    """Read a file through SimpleITK; vector pixels and a fourth axis become channels.

    Raises:
        ImageFileError: If the file is missing, truncated, damaged or not an image in space.
    """
    import SimpleITK  # slow to import, and many datasets have only NIfTI files

    if not path.is_file():
        raise ImageFileError(f"{path}: the file does not exist")
    try:
        with silent():
            image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise ImageFileError(f"{path}: cannot be read: it is damaged, truncated or has another format") from error
    ending = split_ending(path.name)[1]
    try:
        if ending == ".gipl":
            _refuse_truncated_gipl(image, path)
        notes: list[str] = []
        unit = DEFAULT_UNIT if ending == ".gipl" else text_header_unit(path, notes)
        return _volume(image, ending=ending, path=path, unit=unit, notes=notes)
    except ValueError as error:
        raise ImageFileError(f"{path}: {error}") from error


def volume_from_simpleitk(image: "SimpleITK.Image") -> Volume:
    """A volume from an ITK image in memory, 2D to 4D (vector pixels or the fourth axis become channels).

    Raises:
        ImageFileError: If the image cannot be used: complex voxels, more axes, vectors over time.
    """
    try:
        return _volume(image, ending=".nrrd", path=None, unit=DEFAULT_UNIT, notes=[])
    except ValueError as error:
        raise ImageFileError(f"SimpleITK image: {error}") from error


def geometry_of_grid(grid: Grid) -> ItkGeometry:
    """The 3D ITK geometry of a grid."""
    affine = reverse_voxel_axes(np.array(grid.affine))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = _LPS_TO_RAS @ (affine[:3, :3] / spacing)
    return ItkGeometry(
        spacing=tuple(spacing.tolist()),
        origin=tuple((_LPS_TO_RAS @ affine[:3, 3]).tolist()),
        direction=tuple(direction.ravel().tolist()),
    )


@contextmanager
def silent() -> Iterator[None]:
    """Suppress ITK's warnings on the terminal."""
    import SimpleITK

    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)


def _refuse_truncated_gipl(image: "SimpleITK.Image", path: Path) -> None:
    """ITK returns uninitialised memory for the missing part of a GIPL file; it detects truncation in other formats."""
    import SimpleITK

    expected_bytes = _GIPL_HEADER_BYTES + SimpleITK.GetArrayViewFromImage(image).nbytes
    if path.stat().st_size < expected_bytes:
        raise ValueError(f"the file is truncated: {path.stat().st_size} bytes, expected {expected_bytes}")


def _volume(image: "SimpleITK.Image", *, ending: str, path: Path | None, unit: str, notes: list[str]) -> Volume:
    import SimpleITK

    dimensions = image.GetDimension()
    array = _channels_first(SimpleITK.GetArrayFromImage(image), dimensions, image.GetNumberOfComponentsPerPixel())
    if array.dtype.kind == "c":
        raise ValueError("the voxels are complex numbers; save magnitude or phase instead")
    kept = min(dimensions, 3)
    direction = np.array(image.GetDirection()).reshape(dimensions, dimensions)[:kept, :kept]
    geometry = ItkGeometry(
        spacing=tuple(image.GetSpacing()[:kept]),
        origin=tuple(image.GetOrigin()[:kept]),
        direction=tuple(direction.ravel().tolist()),
        unit=unit,
    )
    grid = _grid(array, geometry)
    if is_sheared(grid):
        notes.append(SHEAR_NOTE)
    template = Template(ending=ending, grid=grid, file_dimensions=kept, itk_geometry=geometry)
    return Volume(array=array, grid=grid, template=template, notes=tuple(notes), path=path)


def _channels_first(array: AnyArray, dimensions: int, components: int) -> AnyArray:
    """([T,] [Z,] Y, X[, C]) -> (C, Z, Y, X)."""
    if dimensions == 4 and components > 1 and array.shape[0] > 1:
        raise ValueError("vector pixels in a 4D image; autoseg reads either channels or a fourth axis")
    if dimensions not in (2, 3, 4):
        raise ValueError(f"the image has {dimensions} axes; autoseg reads 2D, 3D and 4D")
    if components > 1:
        array = np.moveaxis(array, -1, 0)
        if dimensions == 4:
            array = array[:, 0]
    elif dimensions < 4:
        array = array[np.newaxis]
    return array[:, np.newaxis] if dimensions == 2 else array


def _grid(array: AnyArray, geometry: ItkGeometry) -> Grid:
    axes = len(geometry.spacing)
    spacing, origin, direction = np.empty(3), np.zeros(3), np.eye(3)
    spacing[:axes] = np.array(geometry.spacing) * MM_PER_UNIT[geometry.unit]
    spacing[axes:] = FLAT_SLICE_FACTOR * max(spacing[:axes])
    origin[:axes] = np.array(geometry.origin) * MM_PER_UNIT[geometry.unit]
    direction[:axes, :axes] = np.array(geometry.direction).reshape(axes, axes)
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ direction * spacing
    affine[:3, 3] = _LPS_TO_RAS @ origin
    if not np.isfinite(affine).all() or abs(np.linalg.det(direction)) < 1e-6 or not (spacing > 0).all():
        raise ValueError(f"the header gives no usable geometry: spacing {geometry.spacing} {geometry.unit} (x, y, z)")
    refuse_absurd_spacing(spacing[:axes].tolist(), array.shape[:0:-1][:axes])
    return make_grid(array.shape[1:], spacing[::-1].tolist(), reverse_voxel_axes(affine))
