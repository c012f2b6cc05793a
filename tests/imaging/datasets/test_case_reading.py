import nibabel
import numpy as np
import pytest

from autoseg.errors import ImageFileError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.datasets.cases import choose_orientation, content_hash, read_case
from autoseg.imaging.formats.reading import read_label_map
from autoseg.imaging.formats.volume import grid_difference, make_grid, orient_array
from autoseg.records.case import Orientation
from autoseg.records.dataset import CaseFiles

ENCODING = make_encoding({"background": 0, "Anterior": 1, "Posterior": 2})


def files(image: str, label: str = "label_ok.nii.gz") -> CaseFiles:
    return CaseFiles(case="x", images=(image,), label=label)


def test_canonical_case_against_nibabels_reorientation(shared):
    made = shared / "data" / "odd_files" / "made"
    names = files("image_permuted_SRA.nii.gz", "label_permuted_SRA.nii.gz")
    case = read_case(made, names, ENCODING, "canonical")
    assert case.labels is not None
    source = nibabel.load(made / "image_permuted_SRA.nii.gz")
    to_lps = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(source.affine), nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    )
    expected = source.as_reoriented(to_lps)
    np.testing.assert_array_equal(case.image[0], np.asarray(expected.dataobj).T.astype(np.float32))
    np.testing.assert_allclose(np.array(case.grid.affine)[:, [2, 1, 0, 3]], expected.affine, atol=1e-6)
    assert case.labels.shape == case.image.shape[1:] == case.grid.shape
    assert case.labels.dtype == np.int16


def test_labels_are_written_back_on_the_images_own_grid(shared, tmp_path):
    made = shared / "data" / "odd_files" / "made"
    case = read_case(made, files("image_permuted_SRA.nii.gz", "label_permuted_SRA.nii.gz"), ENCODING, "canonical")
    assert case.labels is not None
    values = case.write_labels(case.labels, ENCODING, tmp_path / "written.nii.gz")
    written, source = read_label_map(tmp_path / "written.nii.gz"), read_label_map(made / "label_permuted_SRA.nii.gz")
    np.testing.assert_array_equal(written.array, source.array)
    np.testing.assert_array_equal(values, source.array[0])
    assert grid_difference(written.grid, source.grid) is None


def test_as_stored_leaves_axes_alone(shared):
    made = shared / "data" / "odd_files" / "made"
    case = read_case(made, files("image_ok.nii.gz", ""), ENCODING, "as_stored")
    assert case.orientation == Orientation()
    assert case.labels is None
    np.testing.assert_array_equal(case.image[0], np.asarray(nibabel.load(made / "image_ok.nii.gz").dataobj).T)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("label_value_7.nii.gz", r"label_value_7\.nii\.gz: undeclared values: 7 in 12 voxels"),
        ("label_one_slice_less.nii.gz", r"label_one_slice_less\.nii\.gz: not on the same grid .*shapes differ"),
        ("label_shifted_5mm.nii.gz", "5 mm apart"),
        ("label_float_half.nii.gz", "not whole numbers: 0.5, 1.5"),
    ],
)
def test_faulty_label_maps_are_refused(shared, label: str, message: str):
    with pytest.raises(ImageFileError, match=message):
        read_case(shared / "data" / "odd_files" / "made", files("image_ok.nii.gz", label), ENCODING, "canonical")


def test_content_hash_sees_every_file(tmp_path):
    for name in ("a.png", "b.png", "l.png"):
        (tmp_path / name).write_bytes(name.encode())
    case = CaseFiles(case="x", images=("a.png", "b.png"), label="l.png")
    before = content_hash(tmp_path, case)
    assert before == content_hash(tmp_path, case)
    assert len(before) == 32
    for name in ("a.png", "b.png", "l.png"):
        (tmp_path / name).write_bytes(b"changed")
        assert content_hash(tmp_path, case) != before
        (tmp_path / name).write_bytes(name.encode())
    assert content_hash(tmp_path, case) == before
    with pytest.raises(ImageFileError, match="gone"):
        content_hash(tmp_path, CaseFiles(case="x", images=("gone.png",), label=""))


def test_content_hash_sees_the_voxels_of_pairs(tmp_path):
    nibabel.Nifti1Pair(np.zeros((5, 4, 3), np.uint8), np.eye(4)).to_filename(tmp_path / "a.hdr")
    before = content_hash(tmp_path, files("a.hdr", ""))
    nibabel.Nifti1Pair(np.ones((5, 4, 3), np.uint8), np.eye(4)).to_filename(tmp_path / "a.hdr")
    assert content_hash(tmp_path, files("a.hdr", "")) != before


@pytest.mark.parametrize("axes", ["LPS", "SRA", "PIR"])
def test_canonical_ras_against_nibabels_reorientation(axes):
    stored = nibabel.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.diag([1.5, 2.0, 3.0, 1.0]))
    change = nibabel.orientations.axcodes2ornt(tuple(axes))
    turned = stored.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(stored.affine), change))
    grid = make_grid(turned.shape[::-1], turned.header.get_zooms()[::-1], turned.affine[:, [2, 1, 0, 3]])
    orientation = choose_orientation(grid, "canonical_ras")
    expected = np.asarray(nibabel.as_closest_canonical(turned).dataobj).T
    np.testing.assert_array_equal(orient_array(np.asarray(turned.dataobj).T, orientation), expected)
