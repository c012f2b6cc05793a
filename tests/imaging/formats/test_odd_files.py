"""Every odd file is read rightly or refused with one message that names it."""

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import Volume, read_image, read_label_map

ROOT = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "odd_files"
FILES = sorted(path for path in ROOT.rglob("*") if path.is_file() and path.name != "LIST.md")

REFUSED = {
    "image_is_text.nii.gz": "gzip",
    "image_truncated.nii.gz": "truncated",
    "image_zero_bytes.nii.gz": "empty",
    "analyze.hdr": "magic",
    "nifti1.hdr": "nifti1.img",
    "nifti2.hdr": "nifti2.img",
    "row_major.dconn.nii": "CIFTI",
}
UNSUPPORTED = (".mnc", ".HEAD", ".BRIK", ".BRIK.gz")


def attempt(read, path: Path) -> tuple[Volume | None, str]:
    try:
        return read(path), ""
    except ImageFileError as error:
        return None, str(error)


def test_all_odd_files_are_here(shared):
    assert len(FILES) == 61


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("read", [lambda path: read_image([path]), read_label_map], ids=["image", "label map"])
def test_file_is_read_or_refused(path: Path, read, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    volume, message = attempt(read, path)
    if volume is None:
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        is_label_in_4d = read is read_label_map and "channels" in message
        assert path.name in REFUSED or path.name.endswith(UNSUPPORTED) or is_label_in_4d
    else:
        assert path.name not in REFUSED
        assert volume.array.shape[1:] == volume.grid.shape
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_says_why(shared, name: str):
    (path,) = (path for path in FILES if path.name == name)
    with pytest.raises(ImageFileError, match=REFUSED[name]):
        read_image([path])


def test_unsupported_ending_lists_the_supported_ones(shared):
    with pytest.raises(ImageFileError, match=r"\.mnc are not supported.*\.nii\.gz.*\.nrrd.*\.png"):
        read_image([ROOT / "nibabel_tests" / "tiny.mnc"])


READABLE_NIFTI = [path for path in FILES if path.name.endswith((".nii", ".nii.gz")) and path.name not in REFUSED]


@pytest.mark.parametrize("path", READABLE_NIFTI, ids=lambda path: path.name)
@pytest.mark.filterwarnings("default")
def test_voxels_and_affine_are_nibabels(path: Path):
    volume = read_image([path])
    image = nibabel.load(path)
    expected = np.asarray(image.dataobj, dtype=np.float64)
    expected = expected.reshape((*expected.shape, 1)) if expected.ndim == 3 else expected
    np.testing.assert_array_equal(volume.array, expected.T.astype(np.float32))
    voxel = np.array([volume.grid.shape[0] - 1, 2, 1, 1])
    np.testing.assert_allclose(np.array(volume.grid.affine) @ voxel, image.affine @ voxel[[2, 1, 0, 3]], atol=1e-9)
    np.testing.assert_allclose(volume.grid.spacing[::-1], image.header.get_zooms()[:3], rtol=1e-6)


def test_negative_pixdim_is_noted_and_changes_nothing(shared):
    odd = read_image([ROOT / "made" / "image_negative_pixdim.nii.gz"])
    good = read_image([ROOT / "made" / "image_ok.nii.gz"])
    assert odd.grid == good.grid
    np.testing.assert_array_equal(odd.array, good.array)
    assert any("pixdim[1,2,3] should be positive" in note for note in odd.notes)
    assert good.notes == ()
