"""gzip, by the standard library and by ISA-L."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from autoseg.imaging.formats import gzip_files
from autoseg.imaging.formats.reading import read_label_map, volume_from_array
from autoseg.imaging.formats.writing import write_label_map


@pytest.fixture(params=["standard library", "isal"])
def library(request, monkeypatch):
    """Each test once with either library, whichever is installed."""
    if request.param == "isal":
        pytest.importorskip("isal", reason="isal is not installed (extra `fast`)")
    else:
        monkeypatch.setattr(gzip_files, "igzip", None)
    return request.param


CONTENT = np.random.default_rng(3).integers(0, 4, 100_000, dtype=np.uint8).tobytes()


def test_what_one_library_packs_the_other_unpacks(library, tmp_path):
    with gzip_files.open_gzip(tmp_path / "a.gz") as stream:
        stream.write(CONTENT[:70_001])
        stream.write(CONTENT[70_001:])
    packed = (tmp_path / "a.gz").read_bytes()
    assert gzip.decompress(packed) == CONTENT
    for stored, expected in ((gzip.compress(CONTENT), CONTENT), (packed + packed, 2 * CONTENT)):
        (tmp_path / "b.gz").write_bytes(stored)
        with gzip_files.read_gzip(tmp_path / "b.gz") as stream:
            assert stream.read() == expected
    assert len(packed) < len(CONTENT) / 2


def test_equal_content_gives_equal_bytes(library, tmp_path):
    for name in ("a.gz", "b.gz"):
        with gzip_files.open_gzip(tmp_path / name) as stream:
            stream.write(CONTENT)
    packed = (tmp_path / "a.gz").read_bytes()
    assert packed == (tmp_path / "b.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # no time (RFC 1952)


@pytest.mark.parametrize("damage", ["truncated", "checksum", "text", "middle"])
def test_damage_is_noticed(library, damage, tmp_path):
    packed = bytearray(gzip.compress(CONTENT))
    match damage:
        case "truncated":
            packed = packed[: len(packed) // 2]
        case "checksum":
            packed[-6] ^= 1
        case "text":
            packed = bytearray(b"no gzip stream")
        case "middle":
            packed[100:120] = bytes(20)
    (tmp_path / "a.gz").write_bytes(packed)
    with gzip_files.read_gzip(tmp_path / "a.gz") as stream, pytest.raises((*gzip_files.GZIP_DAMAGES, OSError)):
        stream.read()


def test_label_map_is_read_back(library, tmp_path):
    labels = np.random.default_rng(4).integers(0, 300, (5, 7, 9)).astype(np.uint16)
    template = volume_from_array(labels, (3.0, 1.0, 2.0), ending=".nii.gz").template
    path = write_label_map(labels, template, tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_label_map(path).array[0], labels)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj).T, labels)
