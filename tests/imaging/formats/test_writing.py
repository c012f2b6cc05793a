from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import read_image, read_label_map, volume_from_array, volume_from_simpleitk
from autoseg.imaging.formats.volume import IMAGE_ENDINGS, PICTURE_ENDINGS, grid_difference
from autoseg.imaging.formats.writing import label_map_ending, write_label_map, write_share_map

RNG = np.random.default_rng(0)
MEDICAL_ENDINGS = tuple(sorted(set(IMAGE_ENDINGS) - set(PICTURE_ENDINGS)))
OBLIQUE = np.array([[1.2, 0.1, 0.3, -20], [-0.1, 0.5, 0.1, 7], [-0.3, -0.05, 3.9, 90], [0, 0, 0, 1]])


def oblique_affine() -> np.ndarray:
    """Orthogonal columns 1.25, 0.5 and 3.9 mm long, turned by QR of an arbitrary matrix."""
    rotation, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = OBLIQUE.copy()
    affine[:3, :3] = rotation * (1.25, 0.5, 3.9)
    return affine


def labels_like(shape: tuple[int, int, int], largest: int = 3) -> np.ndarray:
    labels = RNG.integers(0, largest + 1, shape)
    labels.flat[0] = largest
    return labels


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    image = nibabel.Nifti1Image(RNG.normal(size=(11, 7, 5, 2)).astype(np.float32), None)
    image.set_qform(oblique_affine(), 2)
    image.set_sform(oblique_affine(), 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"keep me"
    image.header["scl_slope"], image.header["scl_inter"] = 2.0, 5.0
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"an extension"))
    nibabel.save(image, tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


def test_nifti_header_is_kept(nifti: Path, tmp_path):
    volume = read_image([nifti])
    labels = labels_like(volume.grid.shape)
    assert (
        write_label_map(labels, volume.template, tmp_path / "out" / "label.nii.gz") == tmp_path / "out" / "label.nii.gz"
    )
    written, image = nibabel.load(tmp_path / "out" / "label.nii.gz"), nibabel.load(nifti)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels.transpose(2, 1, 0))
    assert written.get_data_dtype() == np.uint8
    assert written.shape == (11, 7, 5)
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y",
                  "srow_z", "xyzt_units", "descrip"):  # fmt: skip
        np.testing.assert_array_equal(written.header[field], image.header[field])
    np.testing.assert_array_equal(written.header["pixdim"][:4], image.header["pixdim"][:4])
    assert len(written.header.extensions) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["label.nii.gz"]


@pytest.mark.parametrize("ending", MEDICAL_ENDINGS)
@pytest.mark.parametrize("from_ending", [".nii.gz", ".nrrd", "array"])
def test_every_format_keeps_voxels_and_grid(nifti: Path, tmp_path, ending: str, from_ending: str):
    volume = read_image([nifti])
    if from_ending == "array":
        volume = volume_from_array(volume.array, volume.grid.spacing, volume.grid.affine)
    elif from_ending == ".nrrd":
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(nifti))[..., 0], str(tmp_path / "image.nrrd"))
        volume = read_image([tmp_path / "image.nrrd"])
    labels = labels_like(volume.grid.shape, largest=300)
    path = tmp_path / "a b é" / f"label{ending}"
    if ending == ".gipl":
        with pytest.raises(ImageFileError, match="GIPL cannot store the direction"):
            write_label_map(labels, volume.template, path)
        return
    write_label_map(labels, volume.template, path)
    written = read_label_map(path)
    np.testing.assert_array_equal(written.array[0], labels)
    assert grid_difference(written.grid, volume.grid) is None
    assert not [left for left in path.parent.iterdir() if left.name.startswith(".")]


def test_itk_reads_the_same_geometry_from_what_we_wrote(nifti: Path, tmp_path):
    volume = read_image([nifti])
    write_label_map(labels_like(volume.grid.shape), volume.template, tmp_path / "x.nii.gz")
    write_label_map(labels_like(volume.grid.shape), volume.template, tmp_path / "x.mha")
    ours, theirs = SimpleITK.ReadImage(str(tmp_path / "x.mha")), SimpleITK.ReadImage(str(nifti))[..., 0]
    for image in (ours, SimpleITK.ReadImage(str(tmp_path / "x.nii.gz"))):
        np.testing.assert_allclose(image.GetSpacing(), theirs.GetSpacing(), rtol=1e-5)
        np.testing.assert_allclose(image.GetOrigin(), theirs.GetOrigin(), rtol=1e-5)
        np.testing.assert_allclose(image.GetDirection(), theirs.GetDirection(), atol=1e-5)


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".gipl"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_itk_geometry_is_kept_exactly(tmp_path, ending: str, dimensions: int):
    if ending == ".gipl" and dimensions == 2:
        pytest.skip("ITK writes GIPL in 3D only")
    image = SimpleITK.GetImageFromArray(RNG.normal(size=(5, 7, 11)[3 - dimensions :]).astype(np.float32))
    image.SetSpacing((1.25, 0.5, 3.75)[:dimensions])
    image.SetOrigin((-20, 7, 90)[:dimensions])
    if dimensions == 3 and ending != ".gipl":
        image.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    SimpleITK.WriteImage(image, str(tmp_path / f"x{ending}"))
    volume = read_image([tmp_path / f"x{ending}"])
    write_label_map(labels_like(volume.grid.shape), volume.template, tmp_path / f"y{ending}")
    written = SimpleITK.ReadImage(str(tmp_path / f"y{ending}"))
    assert written.GetSpacing() == image.GetSpacing()
    assert written.GetOrigin() == image.GetOrigin()
    assert written.GetDirection() == image.GetDirection()
    assert written.GetSize() == image.GetSize()
    assert written.GetPixelID() == SimpleITK.sitkUInt8


@pytest.mark.parametrize("path_ending", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("largest", [255, 256])
def test_pictures_give_png(tmp_path, path_ending: str, largest: int):
    Image.fromarray(RNG.integers(0, 256, (7, 11, 3)).astype(np.uint8)).save(tmp_path / "image.jpg")
    template = read_image([tmp_path / "image.jpg"]).template
    labels = labels_like((1, 7, 11), largest)
    assert write_label_map(labels, template, tmp_path / f"x{path_ending}") == tmp_path / "x.png"
    assert label_map_ending(path_ending) == ".png"
    picture = Image.open(tmp_path / "x.png")
    assert picture.mode == ("L" if largest == 255 else "I;16")
    np.testing.assert_array_equal(np.asarray(picture), labels[0])


@pytest.mark.parametrize(("largest", "dtype"), [(0, "u1"), (255, "u1"), (256, "u2"), (65536, "u4")])
def test_smallest_type_is_stored(nifti: Path, tmp_path, largest: int, dtype: str):
    volume = read_image([nifti])
    write_label_map(labels_like(volume.grid.shape, largest), volume.template, tmp_path / "x.nii.gz")
    written = nibabel.load(tmp_path / "x.nii.gz")
    assert written.get_data_dtype() == np.dtype(dtype)
    assert np.asanyarray(written.dataobj).max() == largest


def test_2d_nifti_stays_2d(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((11, 7), np.float32), np.eye(4)), tmp_path / "x.nii")
    volume = read_image([tmp_path / "x.nii"])
    labels = labels_like((1, 7, 11))
    write_label_map(labels, volume.template, tmp_path / "y.nii")
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(tmp_path / "y.nii").dataobj), labels[0].T)


def test_every_readable_odd_nifti_gets_its_grid_back(shared, tmp_path):
    odd = shared / "data" / "odd_files"
    names = [
        "nibabel_tests/anatomical.nii",
        "nibabel_tests/example_nifti2.nii.gz",
        "nibabel_tests/example4d.nii.gz",
        "sct_testing/dmri_4d.nii.gz",
        "made/image_shear_1e-3.nii.gz",
        "made/image_permuted_flipped_PIR.nii.gz",
    ]
    for name in names:
        volume = read_image([odd / name])
        labels = labels_like(volume.grid.shape)
        path = write_label_map(labels, volume.template, tmp_path / Path(name).name)
        written, source = nibabel.load(path), nibabel.load(odd / name)
        np.testing.assert_array_equal(written.affine, source.affine)
        assert type(written) is type(source)
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels.T)


def test_a_failed_write_leaves_nothing_behind(nifti: Path, tmp_path):
    volume = read_image([nifti])
    labels = labels_like(volume.grid.shape)
    (tmp_path / "out").mkdir()
    with pytest.raises(ImageFileError, match="one slice"):
        write_label_map(labels, volume.template, tmp_path / "out" / "x.png")
    with pytest.raises(ImageFileError, match=r"cannot write files ending in \.mnc"):
        write_label_map(labels, volume.template, tmp_path / "out" / "x.mnc")
    with pytest.raises(ValueError, match="does not fit the grid"):
        write_label_map(labels[1:], volume.template, tmp_path / "out" / "x.nii.gz")
    (tmp_path / "out" / "x.nrrd").mkdir()
    with pytest.raises(ImageFileError, match=r"x\.nrrd: cannot be written"):
        write_label_map(labels, volume.template, tmp_path / "out" / "x.nrrd")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.nrrd"]


def shares_like(shape: tuple[int, int, int]) -> np.ndarray:
    shares = RNG.random(shape).astype(np.float16)
    shares.flat[:2] = 0, 1
    return shares


def test_shares_on_the_grid_of_a_nifti_image(nifti: Path, tmp_path):
    template = read_image([nifti]).template
    shares = shares_like(template.grid.shape)
    written = nibabel.load(write_share_map(shares, template, tmp_path / "shares.nii.gz"))
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), shares.transpose(2, 1, 0).astype(np.float32))
    assert written.get_data_dtype() == np.float32
    assert (written.header["cal_min"], written.header["cal_max"]) == (0, 1)
    np.testing.assert_array_equal(written.affine, nibabel.load(nifti).affine)
    assert template.nifti_header is not None
    assert template.nifti_header["cal_max"] == 0, "the template serves the label map too"


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".nii", ".hdr", ".gipl"])
def test_shares_in_other_formats(tmp_path, ending):
    volume = volume_from_array(RNG.normal(size=(5, 7, 11)), (3.9, 0.5, 1.25), ending=ending)
    if ending == ".gipl":  # which has no directions
        volume = read_image([write_label_map(labels_like((5, 7, 11)), identity_template(), tmp_path / "image.gipl")])
    shares = shares_like((5, 7, 11))
    written = read_image([write_share_map(shares, volume.template, tmp_path / f"shares{ending}")])
    np.testing.assert_allclose(written.array[0], shares, atol=1e-6)
    assert grid_difference(written.grid, volume.grid) is None


def identity_template():
    image = SimpleITK.GetImageFromArray(np.zeros((5, 7, 11), dtype=np.uint8))
    return volume_from_simpleitk(image).template


def test_shares_of_a_picture_have_sixteen_bits(tmp_path):
    Image.fromarray(np.zeros((7, 11), dtype=np.uint8)).save(tmp_path / "image.jpg")
    template = read_image([tmp_path / "image.jpg"]).template
    shares = shares_like((1, 7, 11))
    path = write_share_map(shares, template, tmp_path / "shares.jpg")
    assert path == tmp_path / "shares.png"
    found = np.asarray(Image.open(path))
    assert (found.flat[0], found.flat[1]) == (0, 65535)
    np.testing.assert_allclose(found / 65535, shares[0], atol=1e-5)


def test_shares_of_another_shape_are_refused(nifti: Path, tmp_path):
    template = read_image([nifti]).template
    with pytest.raises(ValueError, match="does not fit the grid"):
        write_share_map(shares_like((5, 7, 10)), template, tmp_path / "shares.nii.gz")
