"""From voxels and a NIfTI header to a volume: channels first, and the grid in millimetres.

Tested in tests/imaging/formats/test_nifti.py.
"""

from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError

from autoseg.imaging.formats.units import DEFAULT_UNIT, MM_PER_UNIT, nifti_unit, refuse_absurd_spacing
from autoseg.imaging.formats.volume import (
    CORNER_TOLERANCE,
    FLAT_SLICE_FACTOR,
    SHEAR_NOTE,
    SPACING_TOLERANCE,
    AnyArray,
    Template,
    Volume,
    corner_distance_mm,
    is_sheared,
    make_grid,
    reverse_voxel_axes,
)

_MIN_VOLUME_RATIO = 1e-6
"""An affine whose determinant is below this fraction of the product of its column lengths has axes in one plane."""


def make_volume(array: AnyArray, header: Nifti1Header, *, ending: str, notes: list[str], path: Path | None) -> Volume:
    """A volume from voxels and their header.

    Args:
        array: Scaled voxels, (X, Y[, Z[, further axes, one of them longer than 1]]).
        header: Header of the file.
        ending: Ending of files that are written like it.
        notes: What was noticed before; gets more of it.
        path: The file; None: the image is in memory.

    Raises:
        ValueError: If voxels or header cannot be used.
    """
    file_dimensions = min(3, max(2, array.ndim))
    array = _channels_first(array, notes)
    shape = array.shape[1:]
    affine, spacing = _in_millimetres(*_geometry(header, (shape[2], shape[1], shape[0]), notes), header, notes)
    refuse_absurd_spacing(spacing[:file_dimensions].tolist(), shape[::-1][:file_dimensions])
    if file_dimensions == 2:
        slice_mm = FLAT_SLICE_FACTOR * float(spacing[:2].max())
        affine[:3, 2] *= slice_mm / np.linalg.norm(affine[:3, 2])
        spacing[2] = slice_mm
    grid = make_grid(shape, spacing[::-1].tolist(), reverse_voxel_axes(affine))
    if is_sheared(grid):
        notes.append(SHEAR_NOTE)
    template = Template(ending=ending, grid=grid, file_dimensions=file_dimensions, nifti_header=header)
    return Volume(array=array, grid=grid, template=template, notes=tuple(notes), path=path)


def _channels_first(array: AnyArray, notes: list[str]) -> AnyArray:
    """(X, Y[, Z[, further axes, one of them longer than 1]]) -> (C, Z, Y, X)."""
    if array.size == 0 or array.ndim == 0:
        raise ValueError(f"the image has no voxels: its shape is {array.shape}")
    if array.dtype.kind == "c":
        raise ValueError("the voxels are complex numbers; save magnitude or phase instead")
    further = [size for size in array.shape[3:] if size > 1]
    if len(further) > 1 or (further and array.dtype.names):
        raise ValueError(f"the shape {array.shape} has too many axes; autoseg reads 2D, 3D, 4D, and colours in 3D")
    spatial = array.shape[:3] + (1,) * (3 - array.ndim)
    if array.dtype.names is None:
        return array.reshape((*spatial, *(further or [1])), order="F").T
    if len(array.dtype.names) > 3:
        notes.append("the alpha channel was ignored")
    return np.stack([array[name].reshape(spatial, order="F").T for name in array.dtype.names[:3]])


def _geometry(header: Nifti1Header, shape_xyz: tuple[int, int, int], notes: list[str]) -> tuple[AnyArray, AnyArray]:
    """Affine from (x, y, z, 1) to the world, and spacing (x, y, z), in the header's unit."""
    affine = _best_affine(header, shape_xyz, notes)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if np.allclose(pixdim, lengths, rtol=SPACING_TOLERANCE, atol=0):
        return affine, pixdim
    if header.get_data_shape()[2:]:
        notes.append("the voxel sizes in the header (pixdim) disagree with its affine; the affine was used")
    return affine, lengths


def _in_millimetres(
    affine: AnyArray, spacing: AnyArray, header: Nifti1Header, notes: list[str]
) -> tuple[AnyArray, AnyArray]:
    """Affine and spacing in mm; rounded like the header's numbers, so that 0.001 m are 1 mm."""
    unit = nifti_unit(int(header["xyzt_units"]), notes)
    if unit == DEFAULT_UNIT:
        return affine, spacing
    affine = affine.copy()
    affine[:3] = (affine[:3] * MM_PER_UNIT[unit]).astype(np.float32)
    return affine, (spacing * MM_PER_UNIT[unit]).astype(np.float32).astype(np.float64)


def _best_affine(header: Nifti1Header, shape_xyz: tuple[int, int, int], notes: list[str]) -> AnyArray:
    """The sform if it is set, else the qform, else one made from the voxel sizes."""
    sform = _usable(header.get_sform(coded=True)[0])
    qform = _usable(_qform(header))
    if int(header["sform_code"]) > 0 and sform is None:
        notes.append("the sform of the header is not usable and was ignored")
    if sform is not None and qform is not None:
        tolerance_mm = CORNER_TOLERANCE * float(np.linalg.norm(sform[:3, :3], axis=0).min())
        if corner_distance_mm(sform, qform, shape_xyz) > tolerance_mm:
            notes.append("sform and qform of the header disagree about the position of the voxels; the sform was used")
    affine = sform if sform is not None else qform
    if affine is None:
        notes.append("the header has no orientation (neither sform nor qform); left and right are assumed")
        affine = _usable(header.get_base_affine())
    if affine is None:
        raise ValueError(f"the header gives no usable voxel sizes: pixdim {header['pixdim'][1:4].tolist()}")
    return affine


def _qform(header: Nifti1Header) -> AnyArray | None:
    try:
        affine: AnyArray | None = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):
        return None
    return affine


def _usable(affine: AnyArray | None) -> AnyArray | None:
    """The affine in double precision; None when it is not finite or flattens space."""
    if affine is None or not np.isfinite(affine).all():
        return None
    affine = np.array(affine, dtype=np.float64)
    volume = float(np.prod(np.linalg.norm(affine[:3, :3], axis=0)))
    if abs(float(np.linalg.det(affine[:3, :3]))) <= _MIN_VOLUME_RATIO * volume:
        return None
    return affine
