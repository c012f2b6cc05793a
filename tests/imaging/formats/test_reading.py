import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image
from scipy.spatial.transform import Rotation

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.geometry import canonical_orientation, grid_difference
from autoseg.imaging.formats.reading import (
    IMAGE_ENDINGS,
    data_files,
    read_image,
    read_label_map,
    split_ending,
    volume_from_array,
    volume_from_nibabel,
    volume_from_simpleitk,
)
from autoseg.records.case import Orientation

SHAPE_XYZ = (11, 7, 5)
AFFINE = np.array([[0, 0, 3.9, -20], [-1.25, 0, 0, 7], [0, 0.5, 0, 90], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)
INTENSITIES = RNG.normal(100, 50, SHAPE_XYZ).astype(np.float32)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.nii.gz", ("a", ".nii.gz")),
        ("A.NII.GZ", ("A", ".nii.gz")),
        ("case.1.2_0000.nrrd", ("case.1.2_0000", ".nrrd")),
        ("Größe é 海馬 01.png", ("Größe é 海馬 01", ".png")),
        ("x.mnc", ("x", ".mnc")),
        ("noending", ("noending", "")),
    ],
)
def test_split_ending(name: str, parts: tuple[str, str]):
    assert split_ending(name) == parts


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".hdr"])
def test_nifti(tmp_path, ending: str):
    path = tmp_path / f"x{ending}"
    image_class = nibabel.Nifti1Pair if ending == ".hdr" else nibabel.Nifti1Image
    image_class(INTENSITIES, AFFINE).to_filename(path)
    volume = read_image([path])
    np.testing.assert_array_equal(volume.array[0], INTENSITIES.transpose(2, 1, 0))
    assert volume.array.dtype == np.float32
    assert volume.grid.spacing == (float(np.float32(3.9)), 0.5, 1.25)
    np.testing.assert_allclose(np.array(volume.grid.affine) @ (4, 6, 10, 1), AFFINE @ (10, 6, 4, 1), rtol=1e-6)
    assert volume.template.ending == ending


def test_header_spacing_is_kept_to_the_last_bit(tmp_path):
    affine = np.diag([3.90625, 3.90625, 3.9000000953674316, 1])
    volume = read_image([save_nifti(tmp_path / "x.nii.gz", INTENSITIES, affine)])
    assert volume.grid.spacing == (3.9000000953674316, 3.90625, 3.90625)
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix() * (0.7, 3.90625, 3.9)
    volume = read_image([save_nifti(tmp_path / "y.nii.gz", INTENSITIES, turned)])
    header_spacing = nibabel.load(tmp_path / "y.nii.gz").header["pixdim"][1:4]
    assert volume.grid.spacing == tuple(header_spacing[::-1].astype(float))
    assert volume.notes == ()


def test_4d_and_5d_nifti_become_channels(tmp_path):
    array = RNG.normal(size=(*SHAPE_XYZ, 3)).astype(np.float32)
    volume = read_image([save_nifti(tmp_path / "x.nii.gz", array)])
    np.testing.assert_array_equal(volume.array, array.transpose(3, 2, 1, 0))
    volume = read_image([save_nifti(tmp_path / "y.nii.gz", array[:, :, :, None])])
    np.testing.assert_array_equal(volume.array, array.transpose(3, 2, 1, 0))
    with pytest.raises(ImageFileError, match="too many axes"):
        read_image([save_nifti(tmp_path / "z.nii.gz", np.zeros((5, 4, 3, 2, 2), np.float32))])


def test_2d_nifti_gets_a_coarse_slice_axis(tmp_path):
    volume = read_image([save_nifti(tmp_path / "x.nii.gz", INTENSITIES[:, :, 0], np.diag([2.0, 0.5, 1.0, 1.0]))])
    assert volume.grid.shape == (1, 7, 11)
    assert volume.grid.spacing == (1998.0, 0.5, 2.0)


def test_rgb_nifti_becomes_three_channels(tmp_path):
    colours = RNG.integers(0, 256, (*SHAPE_XYZ, 3)).astype(np.uint8)
    rgb = np.ascontiguousarray(colours).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    volume = read_image([save_nifti(tmp_path / "x.nii.gz", rgb)])
    np.testing.assert_array_equal(volume.array, colours.transpose(3, 2, 1, 0))


def test_complex_nifti_is_refused(tmp_path):
    path = save_nifti(tmp_path / "x.nii.gz", INTENSITIES.astype(np.complex64))
    with pytest.raises(ImageFileError, match=r"x\.nii\.gz: .*complex"):
        read_image([path])


def test_scale_factors_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(385, dtype=np.int16).reshape(SHAPE_XYZ), AFFINE)
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "x.nii.gz")
    stored = np.asarray(nibabel.load(tmp_path / "x.nii.gz").dataobj.get_unscaled())
    volume = read_image([tmp_path / "x.nii.gz"])
    np.testing.assert_allclose(volume.array[0], (stored * 0.5 + 10).transpose(2, 1, 0))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_truncated_nifti_is_refused(tmp_path, ending: str, kept: float):
    path = save_nifti(tmp_path / f"x{ending}", INTENSITIES)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ImageFileError, match=r"x\.nii"):
        read_image([path])


def test_sizes_are_compared_before_memory_is_taken(tmp_path):
    path = save_nifti(tmp_path / "x.nii", INTENSITIES)
    content = bytearray(path.read_bytes())
    content[42:48] = struct.pack("<3h", 32767, 32767, 32767)  # dim[1], dim[2], dim[3]
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match="1892 bytes found, 140724603847004 expected"):
        read_image([path])


def test_a_header_with_any_damage_never_crashes(tmp_path):
    path = save_nifti(tmp_path / "x.nii", INTENSITIES)
    content = path.read_bytes()
    num_refused = 0
    for offset in range(352):
        for value in (0x00, 0x7F, 0xFF):
            path.write_bytes(content[:offset] + bytes([value]) + content[offset + 1 :])
            try:
                assert read_image([path]).array.size
            except ImageFileError:
                num_refused += 1
    assert 30 < num_refused < 352


def test_damaged_gzip_is_refused(tmp_path):
    path = save_nifti(tmp_path / "x.nii.gz", INTENSITIES)
    content = bytearray(gzip.decompress(path.read_bytes()))
    packed = bytearray(gzip.compress(bytes(content), compresslevel=0))
    packed[len(packed) // 2] ^= 0xFF  # stored, not compressed: only the checksum can tell
    path.write_bytes(packed)
    with pytest.raises(ImageFileError, match="CRC"):
        read_image([path])


def test_missing_file_is_named(tmp_path):
    for ending in IMAGE_ENDINGS:
        path = tmp_path / f"gone{ending}"
        with pytest.raises(ImageFileError, match="gone"):
            read_image([path])


def test_sform_wins_and_disagreement_is_noted(tmp_path):
    image = nibabel.Nifti1Image(INTENSITIES, AFFINE)
    image.set_sform(AFFINE, 1)
    other = AFFINE.copy()
    other[:3, 3] += 30
    image.set_qform(other, 1)
    nibabel.save(image, tmp_path / "x.nii.gz")
    volume = read_image([tmp_path / "x.nii.gz"])
    assert np.array(volume.grid.affine)[0, 3] == -20
    assert any("sform and qform" in note for note in volume.notes)


def test_qform_alone_and_no_form_at_all(tmp_path):
    image = nibabel.Nifti1Image(INTENSITIES, None)
    image.set_qform(AFFINE, 1)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "q.nii.gz")
    volume = read_image([tmp_path / "q.nii.gz"])
    np.testing.assert_allclose(np.array(volume.grid.affine)[:, [2, 1, 0, 3]], AFFINE, atol=1e-5)
    assert volume.notes == ()
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "n.nii.gz")
    volume = read_image([tmp_path / "n.nii.gz"])
    assert any("neither sform nor qform" in note for note in volume.notes)
    assert volume.grid.spacing == pytest.approx((3.9, 0.5, 1.25))


def test_flat_sform_is_not_believed(tmp_path):
    path = save_nifti(tmp_path / "x.nii", INTENSITIES, np.diag([1.25, 0.5, 3.9, 1]))
    content = bytearray(path.read_bytes())
    content[280:328] = struct.pack("<12f", *([0.0] * 12))  # srow_x, srow_y, srow_z
    path.write_bytes(content)
    volume = read_image([path])
    assert any("sform of the header is not usable" in note for note in volume.notes)
    assert volume.grid.spacing == pytest.approx((3.9, 0.5, 1.25))


@pytest.mark.parametrize(
    ("name", "header", "expected"),
    [
        ("x.mhd", "NDims = 3\nElementDataFile = other name.raw\n", ["other name.raw"]),
        ("x.mhd", "NDims = 3\n\nElementDataFile=sub/v.zraw", ["sub/v.zraw"]),
        ("x.mhd", "ElementDataFile = LOCAL\nElementDataFile = no.raw\n", []),
        ("x.mhd", "ElementDataFile = LIST 2\ns2.raw\ns1.raw\n", ["s2.raw", "s1.raw"]),
        ("x.mhd", "ElementDataFile = s%d.raw 1 2 1\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\r\n# a comment\r\ndata file: other name.raw\r\n", ["other name.raw"]),
        ("x.nhdr", "NRRD0005\ndatafile: ./s%01d.raw 1 2 1 2\n\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\ndata file: LIST\ns1.raw\ns2.raw\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\ntype: uint8\n\ndata file: no.raw\n", []),
    ],
)
def test_headers_name_their_data_files(tmp_path, name: str, header: str, expected: list[str]):
    for neighbour in ("x.raw", "s1.raw", "s2.raw"):
        (tmp_path / neighbour).touch()
    (tmp_path / name).write_bytes(header.encode())
    assert data_files(tmp_path / name) == (tmp_path / name, *(tmp_path / file for file in expected))


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_data_files_are_those_that_itk_writes(tmp_path, ending: str):
    for compressed in (False, True):
        folder = tmp_path / str(compressed)
        folder.mkdir()
        image = SimpleITK.GetImageFromArray(INTENSITIES)
        SimpleITK.WriteImage(image, str(folder / f"x{ending}"), useCompression=compressed)
        assert sorted(data_files(folder / f"x{ending}")) == sorted(folder.iterdir())
    with pytest.raises(ImageFileError, match=r"gone.*cannot be read"):
        data_files(tmp_path / f"gone{ending}")


def itk_image(array: np.ndarray, *, is_vector: bool = False) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(array, isVector=is_vector)
    image.SetSpacing((1.25, 0.5, 3.75))
    image.SetOrigin((-20, 7, 90))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    return image


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_itk_formats_agree_with_itk_on_where_voxels_are(tmp_path, ending: str):
    image = itk_image(INTENSITIES.transpose(2, 1, 0))
    SimpleITK.WriteImage(image, str(tmp_path / f"x{ending}"))
    volume = read_image([tmp_path / f"x{ending}"])
    np.testing.assert_array_equal(volume.array[0], INTENSITIES.transpose(2, 1, 0))
    assert volume.grid.spacing == (3.75, 0.5, 1.25)
    left, posterior, superior = image.TransformIndexToPhysicalPoint((10, 2, 3))
    np.testing.assert_allclose(
        np.array(volume.grid.affine) @ (3, 2, 10, 1), (-left, -posterior, superior, 1), atol=1e-9
    )


def test_itk_and_nifti_readers_agree_on_one_image(tmp_path):
    image = itk_image(INTENSITIES.transpose(2, 1, 0))
    SimpleITK.WriteImage(image, str(tmp_path / "x.nii.gz"))
    SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    nifti, nrrd = read_image([tmp_path / "x.nii.gz"]), read_image([tmp_path / "x.nrrd"])
    assert grid_difference(nifti.grid, nrrd.grid) is None
    assert grid_difference(volume_from_simpleitk(image).grid, nrrd.grid) is None
    np.testing.assert_array_equal(nifti.array, nrrd.array)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vector_pixels_become_channels(tmp_path, ending: str):
    array = RNG.normal(size=(5, 7, 11, 2)).astype(np.float32)
    SimpleITK.WriteImage(itk_image(array, is_vector=True), str(tmp_path / f"x{ending}"))
    volume = read_image([tmp_path / f"x{ending}"])
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))
    assert volume.grid.spacing == (3.75, 0.5, 1.25)


def test_4d_itk_image_becomes_channels(tmp_path):
    array = RNG.normal(size=(3, 5, 7, 11)).astype(np.float32)
    image = SimpleITK.GetImageFromArray(array, isVector=False)
    image.SetSpacing((1.25, 0.5, 3.75, 2.0))
    SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    volume = read_image([tmp_path / "x.nrrd"])
    np.testing.assert_array_equal(volume.array, array)
    assert volume.grid.spacing == (3.75, 0.5, 1.25)


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".gipl"])
@pytest.mark.parametrize("compressed", [True, False])
def test_truncated_itk_files_are_refused(tmp_path, ending: str, compressed: bool):
    path = tmp_path / f"x{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(INTENSITIES), str(path), useCompression=compressed)
    largest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: int(0.9 * largest.stat().st_size)])
    with pytest.raises(ImageFileError, match=rf"x\{ending}: .*truncated"):
        read_image([path])


@pytest.mark.parametrize(
    ("mode", "name", "num_channels"),
    [("L", "x.png", 1), ("RGB", "x.png", 3), ("RGB", "x.bmp", 3), ("RGBA", "x.png", 3), ("LA", "x.png", 1),
     ("1", "x.png", 1), ("L", "x.tif", 1), ("I;16", "x.tiff", 1), ("I;16", "x.png", 1), ("F", "x.tif", 1)],
)  # fmt: skip
def test_pictures(tmp_path, mode: str, name: str, num_channels: int):
    bands = len(Image.new(mode, (1, 1)).getbands())
    high, dtype = {"1": (2, bool), "I;16": (60000, np.uint16), "F": (9, np.float32)}.get(mode, (256, np.uint8))
    pixels = RNG.integers(0, high, (7, 11, bands)).astype(dtype)
    Image.fromarray(pixels if bands > 1 else pixels[..., 0]).save(tmp_path / name)
    volume = read_image([tmp_path / name])
    assert volume.array.shape == (num_channels, 1, 7, 11)
    np.testing.assert_array_equal(volume.array[:, 0], np.moveaxis(pixels, -1, 0)[:num_channels])
    assert volume.grid.spacing == (999.0, 1.0, 1.0)
    assert canonical_orientation(volume.grid) == Orientation()
    assert any("alpha" in note for note in volume.notes) == (mode in ("RGBA", "LA"))


@pytest.mark.parametrize("name", ["x.png", "x.tif", "planar.tif"])
@pytest.mark.parametrize("num_channels", [3, 4])
def test_deep_colours_are_refused_not_cut(tmp_path, name: str, num_channels: int):
    pixels = RNG.integers(0, 60000, (7, 11, num_channels)).astype(np.uint16)
    if name == "planar.tif":
        planes = np.moveaxis(pixels, -1, 0)
        tifffile.imwrite(tmp_path / name, planes, photometric="rgb", planarconfig="separate")
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=True), str(tmp_path / name))
    for read in (lambda path: read_image([path]), read_label_map):
        with pytest.raises(ImageFileError, match=rf"{name}: 16 bits per colour .* 8 bits per colour"):
            read(tmp_path / name)


def test_16_bits_for_all_colours_together_are_read(tmp_path):
    """A BMP with 5 + 6 + 5 bits per pixel, bottom row first: red, green, blue, white."""
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    pixels = struct.pack("<4H", 0xF800, 0x07E0, 0x001F, 0xFFFF)
    (tmp_path / "x.bmp").write_bytes(struct.pack("<2sIHHI", b"BM", 74, 0, 0, 66) + info + masks + pixels)
    colours = np.moveaxis(read_image([tmp_path / "x.bmp"]).array[:, 0], 0, -1)
    np.testing.assert_array_equal(colours, [[[0, 0, 255], [255, 255, 255]], [[255, 0, 0], [0, 255, 0]]])


def test_palette_pictures_are_colours_as_image_and_indices_as_label_map(tmp_path):
    indices = RNG.integers(0, 3, (7, 11)).astype(np.uint8)
    palette = [[10, 20, 30], [200, 0, 50], [0, 90, 255]]
    picture = Image.fromarray(indices)
    picture.putpalette(np.array(palette).ravel().tolist())
    picture.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "x.png").array[0, 0], indices)
    np.testing.assert_array_equal(
        read_image([tmp_path / "x.png"]).array[:, 0], np.array(palette)[indices].transpose(2, 0, 1)
    )


def test_colour_label_maps_need_equal_channels(tmp_path):
    grey = RNG.integers(0, 3, (7, 11)).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "grey.png").array[0, 0], grey)
    Image.fromarray(np.stack([grey, grey, grey + 1], axis=-1)).save(tmp_path / "colour.png")
    with pytest.raises(ImageFileError, match=r"colour\.png: .*label map has colours"):
        read_label_map(tmp_path / "colour.png")


def test_faulty_pictures_are_refused(tmp_path):
    pixels = RNG.integers(0, 256, (70, 110)).astype(np.uint8)
    for name in ("x.png", "x.jpg", "x.tif", "x.bmp"):
        path = tmp_path / name
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageFileError, match=name):
            read_image([path])
    pages = [Image.fromarray(pixels), Image.fromarray(pixels)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageFileError, match="2 pages"):
        read_image([tmp_path / "pages.tif"])


def test_one_file_per_channel(tmp_path):
    first = save_nifti(tmp_path / "c_0000.nii.gz", INTENSITIES)
    second = save_nifti(tmp_path / "c_0001.nii.gz", INTENSITIES + 1)
    volume = read_image([first, second])
    np.testing.assert_array_equal(volume.array[1], volume.array[0] + 1)
    shifted = save_nifti(tmp_path / "s_0001.nii.gz", INTENSITIES, AFFINE + shift(4))
    with pytest.raises(ImageFileError, match=r"s_0001\.nii\.gz: not on the same grid as .*c_0000\.nii\.gz.*4 mm apart"):
        read_image([first, shifted])


def shift(distance_mm: float) -> np.ndarray:
    matrix = np.zeros((4, 4))
    matrix[1, 3] = distance_mm
    return matrix


@pytest.mark.parametrize(
    ("dtype", "expected_kind"), [(np.uint8, "u"), (np.int16, "i"), (">i2", "i"), (np.float32, "i"), (np.float64, "i")]
)
def test_whole_label_values_become_integers(tmp_path, dtype, expected_kind: str):
    labels = RNG.integers(0, 4, SHAPE_XYZ)
    path = save_nifti(tmp_path / "x.nii.gz", labels.astype(dtype))
    array = read_label_map(path).array
    assert array.dtype.kind == expected_kind
    assert array.dtype.isnative
    np.testing.assert_array_equal(array[0], labels.transpose(2, 1, 0))


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf, 1e20])
def test_other_label_values_stay_as_they_are(tmp_path, wrong: float):
    labels = np.zeros(SHAPE_XYZ, np.float32)
    labels[3, 2, 1] = wrong
    array = read_label_map(save_nifti(tmp_path / "x.nii.gz", labels)).array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0, 1, 2, 3], np.float32(wrong))


def test_label_map_has_one_channel(tmp_path):
    path = save_nifti(tmp_path / "x.nii.gz", np.zeros((*SHAPE_XYZ, 2), np.uint8))
    with pytest.raises(ImageFileError, match="one value per voxel, found 2 channels"):
        read_label_map(path)


def test_volumes_from_memory_have_the_grid_of_the_file(tmp_path):
    path = save_nifti(tmp_path / "x.nii.gz", INTENSITIES)
    from_file = read_image([path])
    from_image = volume_from_nibabel(nibabel.Nifti1Image(INTENSITIES, AFFINE))
    assert grid_difference(from_file.grid, from_image.grid) is None
    np.testing.assert_array_equal(from_image.array, from_file.array)
    from_array = volume_from_array(from_file.array[0], from_file.grid.spacing, from_file.grid.affine)
    assert from_array.grid == from_file.grid
    assert from_array.array.shape == (1, 5, 7, 11)


def test_array_without_affine_is_canonical():
    volume = volume_from_array(np.zeros((2, 5, 7, 11)), (4.0, 0.5, 1.25))
    assert volume.array.dtype == np.float32
    assert canonical_orientation(volume.grid) == Orientation()
    with pytest.raises(ValueError, match=r"expected an array \(C, Z, Y, X\)"):
        volume_from_array(np.zeros((7, 11)), (4.0, 0.5, 1.25))
    with pytest.raises(ValueError, match="columns are not"):
        volume_from_array(np.zeros((5, 7, 11)), (4.0, 0.5, 1.25), np.eye(4))


def test_in_memory_affine_wins_over_a_stale_header():
    image = nibabel.Nifti1Image(INTENSITIES, AFFINE)
    moved = nibabel.Nifti1Image(INTENSITIES, AFFINE + shift(4), image.header)
    assert np.array(volume_from_nibabel(moved).grid.affine)[1, 3] == 11
