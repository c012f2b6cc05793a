"""NIfTI files: voxels, spacing, affine, number types, and damage that is refused."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import (
    read_image,
)
from tests.imaging.formats.small_images import AFFINE, INTENSITIES, RNG, SHAPE_XYZ, save_nifti


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


def test_an_extension_of_an_odd_size_does_not_matter(tmp_path):
    path = tmp_path / "x.nii"
    nibabel.Nifti1Image(INTENSITIES, AFFINE).to_filename(path)
    content = bytearray(path.read_bytes())
    extension = b"\x01\0\0\0" + struct.pack("<ii", 20, 6) + bytes(12)  # 20 bytes, of which 12 are its text
    content[108:112] = struct.pack("<f", 348 + 4 + 20)  # where the voxels begin
    path.write_bytes(content[:348] + extension + content[352:])
    np.testing.assert_array_equal(read_image([path]).array[0], INTENSITIES.transpose(2, 1, 0))


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


@pytest.mark.parametrize("size", [1, 60])
@pytest.mark.parametrize("behind", [b"junk", b"<html>\n", b"\x1f", bytes(5) + b"x"])
def test_bytes_behind_the_gzip_stream_are_ignored_with_a_note(tmp_path, behind: bytes, size: int):
    voxels = RNG.integers(0, 900, (size, 61, 62)).astype(np.int16)
    path = save_nifti(tmp_path / "x.nii.gz", voxels)
    path.write_bytes(path.read_bytes() + behind)
    volume = read_image([path])
    np.testing.assert_array_equal(volume.array[0], voxels.T)
    assert [note for note in volume.notes if "goes on behind its compressed stream" in note]


def test_zeros_and_further_streams_behind_the_gzip_stream_are_gzip_itself(tmp_path):
    for name, behind in (("zeros", bytes(512)), ("stream", gzip.compress(b"more"))):
        path = save_nifti(tmp_path / f"{name}.nii.gz", INTENSITIES)
        path.write_bytes(path.read_bytes() + behind)
        assert read_image([path]).notes == ()


def test_a_stream_that_ends_before_the_last_voxel_and_goes_on_as_text_is_refused(tmp_path):
    content = gzip.decompress(save_nifti(tmp_path / "x.nii.gz", INTENSITIES).read_bytes())
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(content[:700]) + b"junk" + gzip.compress(content[700:]))
    with pytest.raises(ImageFileError, match=r"x\.nii\.gz: the file is truncated or damaged: .*before the last voxel"):
        read_image([tmp_path / "x.nii.gz"])


@pytest.mark.parametrize("name", ["x.nii.gz", "x.img.gz"])
def test_a_file_that_is_not_packed_says_how_to_name_it(tmp_path, name: str):
    if name == "x.nii.gz":
        path = tmp_path / name
        nibabel.Nifti1Image(INTENSITIES, AFFINE).to_filename(tmp_path / "x.nii")
        (tmp_path / "x.nii").rename(path)
    else:
        path = tmp_path / "x.hdr"
        nibabel.Nifti1Pair(INTENSITIES, AFFINE).to_filename(path)
        (tmp_path / "x.img").rename(tmp_path / name)
    with pytest.raises(ImageFileError, match=rf"{name} is not packed with gzip.*rename it to {name[:-3]};"):
        read_image([path])


def test_damaged_gzip_is_refused(tmp_path):
    path = save_nifti(tmp_path / "x.nii.gz", INTENSITIES)
    content = bytearray(gzip.decompress(path.read_bytes()))
    packed = bytearray(gzip.compress(bytes(content), compresslevel=0))
    packed[len(packed) // 2] ^= 0xFF  # stored, not compressed: only the checksum can tell
    path.write_bytes(packed)
    with pytest.raises(ImageFileError, match="CRC"):
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
