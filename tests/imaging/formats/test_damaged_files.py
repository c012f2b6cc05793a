"""Whatever the bytes of a file are: it is read, or refused by an error of autoseg's own that names it."""

import gzip
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autoseg.errors import AutosegError
from autoseg.imaging.formats.reading import read_image, read_label_map

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
NIFTI = nibabel.Nifti1Image(ARRAY, np.diag([0.7, 0.8, 2.5, 1.0])).to_bytes()


def sound_file(ending):
    if ending.startswith(".nii"):
        return gzip.compress(NIFTI) if ending.endswith(".gz") else NIFTI
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sound{ending}"
        if ending in (".png", ".tif", ".bmp"):
            Image.fromarray(ARRAY[0].astype(np.uint8)).save(path)
        else:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ARRAY), str(path))
        return path.read_bytes()


ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".bmp")
SOUND = {ending: sound_file(ending) for ending in ENDINGS}


@st.composite
def damaged_files(draw):
    """An ending, and a sound file of it with other bytes here and there, perhaps cut, perhaps with more at its end."""
    ending = draw(st.sampled_from(ENDINGS))
    content = bytearray(SOUND[ending])
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, min(len(content), 400) - 1))] = draw(st.integers(0, 255))
    del content[draw(st.integers(len(content) // 2, len(content))) :]
    return ending, bytes(content) + draw(st.binary(max_size=8))


@settings(max_examples=150, deadline=None)
@given(damaged_files())
def test_damaged_files_are_read_or_refused_by_name(file):
    ending, content = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged{ending}"
        path.write_bytes(content)
        for read in (lambda path: read_image([path]), read_label_map):
            assert str(path) in (refusal(read, path) or str(path))


def refusal(read, path):
    """Message of the error; None if the file is read."""
    try:
        read(path)
    except AutosegError as error:
        return str(error)
    return None


@pytest.mark.parametrize("ending", ENDINGS)
def test_sound_files_are_read(tmp_path, ending):
    path = tmp_path / f"sound{ending}"
    path.write_bytes(SOUND[ending])
    assert read_image([path]).array.shape[0] == 1
