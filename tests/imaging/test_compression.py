"""gzip, by the standard library and by ISA-L."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest

from autoseg.imaging import compression
from autoseg.imaging.reading import read_label_map, volume_from_array
from autoseg.imaging.writing import write_label_map


@pytest.fixture(params=["standard library", "isal"])
def library(request, monkeypatch):
    """Each test once with either library, whichever is installed."""
    if request.param == "isal":
        pytest.importorskip("isal", reason="isal is not installed (extra `fast`)")
    else:
        monkeypatch.setattr(compression, "igzip", None)
    return request.param


CONTENT = np.random.default_rng(3).integers(0, 4, 100_000, dtype=np.uint8).tobytes()


def test_what_one_library_packs_the_other_unpacks(library, tmp_path):
    with compression.open_gzip(tmp_path / "a.gz") as stream:
        stream.write(CONTENT[:70_001])
        stream.write(CONTENT[70_001:])
    packed = (tmp_path / "a.gz").read_bytes()
    assert gzip.decompress(packed) == CONTENT
    assert compression.decompress_gzip(gzip.compress(CONTENT)) == CONTENT
    assert compression.decompress_gzip(packed + packed) == 2 * CONTENT
    assert len(packed) < len(CONTENT) / 2


def test_equal_content_gives_equal_bytes(library, tmp_path):
    for name in ("a.gz", "b.gz"):
        with compression.open_gzip(tmp_path / name) as stream:
            stream.write(CONTENT)
    packed = (tmp_path / "a.gz").read_bytes()
    assert packed == (tmp_path / "b.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # no time (RFC 1952)


@pytest.mark.parametrize("damage", ["truncated", "checksum", "text", "middle"])
def test_damage_is_met_with_the_standard_librarys_error(library, damage):
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
    with pytest.raises((EOFError, OSError, zlib.error)) as expected:
        gzip.decompress(packed)
    with pytest.raises(expected.type, match=str(expected.value)[:20].replace("(", r"\(")):
        compression.decompress_gzip(bytes(packed))


def test_label_map_is_read_back(library, tmp_path):
    labels = np.random.default_rng(4).integers(0, 300, (5, 7, 9)).astype(np.uint16)
    template = volume_from_array(labels, (3.0, 1.0, 2.0), ending=".nii.gz").template
    path = write_label_map(labels, template, tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_label_map(path).array[0], labels)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj).T, labels)
