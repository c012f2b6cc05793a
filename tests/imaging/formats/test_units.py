"""Units of length in headers: the same object in every unit has the same grid, and label maps keep the unit."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import read_image, read_label_map, volume_from_array
from autoseg.imaging.formats.units import text_header_unit
from autoseg.imaging.formats.volume import grid_difference
from autoseg.imaging.formats.writing import write_label_map

VOXELS = np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float32)
"""(x, y, z)."""
AFFINE = np.array([[0, 0, 3.0, -20], [-0.4, 0, 0, 7], [0, 0.5, 0, 90], [0, 0, 0, 1]])
"""(x, y, z) to mm."""
PER_MM = {"mm": 1.0, "micron": 1000.0, "meter": 0.001}


def save_in_unit(path: Path, unit: str, *, forms: str = "both", factor: float | None = None) -> Path:
    affine = AFFINE.copy()
    affine[:3] *= PER_MM.get(unit, 1.0) if factor is None else factor
    image = (nibabel.Nifti1Pair if path.suffix == ".hdr" else nibabel.Nifti1Image)(VOXELS, affine)
    image.header.set_xyzt_units(unit, "sec")
    image.set_qform(affine, 1 if forms != "sform" else 0)
    image.set_sform(affine, 1 if forms != "qform" else 0)
    image.to_filename(path)
    return path


@pytest.mark.parametrize("forms", ["both", "qform", "sform"])
@pytest.mark.parametrize("unit", list(PER_MM))
@pytest.mark.parametrize("ending", [".nii.gz", ".hdr"])
def test_nifti_in_every_unit_has_the_same_grid(tmp_path, unit: str, forms: str, ending: str):
    volume = read_image([save_in_unit(tmp_path / f"x{ending}", unit, forms=forms)])
    np.testing.assert_allclose(volume.grid.spacing, (3.0, 0.5, 0.4), rtol=1e-6)
    np.testing.assert_allclose(np.array(volume.grid.affine) @ (2, 1, 5, 1), AFFINE @ (5, 1, 2, 1), rtol=1e-5)
    itk = SimpleITK.ReadImage(str(tmp_path / f"x{ending}"))
    np.testing.assert_allclose(volume.grid.spacing[::-1], itk.GetSpacing(), rtol=1e-5)


@pytest.mark.parametrize("unit", list(PER_MM))
def test_a_thousandth_of_a_metre_is_exactly_a_millimetre(tmp_path, unit: str):
    image = nibabel.Nifti1Image(VOXELS, np.diag([PER_MM[unit]] * 3 + [1]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "x.nii")
    assert read_image([tmp_path / "x.nii"]).grid.spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("unit", list(PER_MM))
def test_a_nifti_label_map_keeps_the_unit_and_the_place(tmp_path, unit: str):
    volume = read_image([save_in_unit(tmp_path / "x.nii.gz", unit)])
    write_label_map(np.ones(volume.grid.shape, np.uint8), volume.template, tmp_path / "y.nii.gz")
    given, written = nibabel.load(tmp_path / "x.nii.gz"), nibabel.load(tmp_path / "y.nii.gz")
    assert written.header.get_xyzt_units() == (unit, "sec")
    np.testing.assert_array_equal(written.affine, given.affine)
    np.testing.assert_array_equal(written.header["pixdim"][:4], given.header["pixdim"][:4])
    assert read_label_map(tmp_path / "y.nii.gz").grid == volume.grid


def test_formats_without_units_get_millimetres(tmp_path):
    volume = read_image([save_in_unit(tmp_path / "x.nii.gz", "micron")])
    write_label_map(np.ones(volume.grid.shape, np.uint8), volume.template, tmp_path / "y.mha")
    np.testing.assert_allclose(SimpleITK.ReadImage(str(tmp_path / "y.mha")).GetSpacing(), (0.4, 0.5, 3.0), rtol=1e-6)


@pytest.mark.parametrize(("unit", "noted"), [(0, False), (5, True), (7 + 8, True)])
def test_a_unit_that_is_not_known_is_millimetres(tmp_path, unit: int, noted: bool):
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header["xyzt_units"] = unit
    image.to_filename(tmp_path / "x.nii")
    volume = read_image([tmp_path / "x.nii"])
    np.testing.assert_allclose(volume.grid.spacing, (3.0, 0.5, 0.4), rtol=1e-6)
    assert any("xyzt_units" in note for note in volume.notes) == noted


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("unit_field", ["mm", "um", "µm", "microns", "Micrometers", "nm", "cm", "m"])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr"])
def test_nrrd_space_units(tmp_path, unit_field: str, ending: str, dimensions: int):
    per_mm = {"mm": 1, "nm": 1e6, "cm": 0.1, "m": 0.001}.get(unit_field, 1000)
    image = SimpleITK.GetImageFromArray(VOXELS.T if dimensions == 3 else VOXELS.T[0])
    image.SetSpacing([size * per_mm for size in (0.4, 0.5, 3.0)[:dimensions]])
    image.SetOrigin([place * per_mm for place in (-20, 7, 90)[:dimensions]])
    SimpleITK.WriteImage(image, str(tmp_path / f"x{ending}"))
    content = (tmp_path / f"x{ending}").read_bytes()
    units = " ".join([f'"{unit_field}"'] * dimensions).encode()
    (tmp_path / f"x{ending}").write_bytes(content.replace(b"sizes:", b"space units: " + units + b"\nsizes:", 1))
    volume = read_image([tmp_path / f"x{ending}"])
    np.testing.assert_allclose(volume.grid.spacing[::-1][:dimensions], (0.4, 0.5, 3.0)[:dimensions])
    np.testing.assert_allclose(np.array(volume.grid.affine)[:2, 3], (20, -7))

    write_label_map(np.ones(volume.grid.shape, np.uint8), volume.template, tmp_path / f"y{ending}")
    written = SimpleITK.ReadImage(str(tmp_path / f"y{ending}"))
    assert written.GetSpacing() == SimpleITK.ReadImage(str(tmp_path / f"x{ending}")).GetSpacing()
    assert read_label_map(tmp_path / f"y{ending}").grid == volume.grid
    assert SimpleITK.GetArrayFromImage(written).all()
    write_label_map(np.ones(volume.grid.shape, np.uint8), volume.template, tmp_path / "z.mha")
    assert grid_difference(read_label_map(tmp_path / "z.mha").grid, volume.grid) is None


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ('units: "um" "um" "um"', "um"),
        ('units: "" "um" "um" "ms"', "um"),
        ('space units: "furlong" "furlong"', "mm"),
        ("units: none", "mm"),
        ("DistanceUnits = um", "um"),
        ("DistanceUnits = ?", "mm"),
    ],
)
def test_units_of_text_headers(tmp_path, field: str, expected: str):
    (tmp_path / "x").write_text(f"NRRD0004\n{field}\n\nspace units: no header any more\n")
    notes: list[str] = []
    assert text_header_unit(tmp_path / "x", notes) == expected
    assert bool(notes) == ("furlong" in field)


def test_axes_in_different_units_are_refused(tmp_path):
    (tmp_path / "x").write_text('NRRD0004\nspace units: "um" "um" "mm"\n\n')
    with pytest.raises(ValueError, match=r"different units \(um, um, mm\); store all of them in mm"):
        text_header_unit(tmp_path / "x", [])


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1e-6), ("micron", 1e-3), ("meter", 1.0), ("mm", 1e4)])
def test_absurd_voxel_sizes_are_refused_by_nifti(tmp_path, unit: str, factor: float):
    path = save_in_unit(tmp_path / "x.nii", unit, factor=factor)
    with pytest.raises(ImageFileError, match=r"x\.nii.*gives voxels of .* mm, expected .*Correct the voxel sizes"):
        read_image([path])


@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_absurd_voxel_sizes_are_refused_by_itk_and_arrays(tmp_path, factor: float):
    image = SimpleITK.GetImageFromArray(VOXELS.T)
    image.SetSpacing([size * factor for size in (0.4, 0.5, 3.0)])
    SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    with pytest.raises(ImageFileError, match=r"x\.nrrd.*gives voxels of"):
        read_image([tmp_path / "x.nrrd"])
    with pytest.raises(ValueError, match="gives voxels of"):
        volume_from_array(VOXELS.T, [size * factor for size in (3.0, 0.5, 0.4)])


def test_a_single_slice_may_have_any_thickness(tmp_path):
    assert volume_from_array(VOXELS.T[:1], (1998.0, 2.0, 0.5)).grid.spacing == (1998.0, 2.0, 0.5)
