import io
import logging

import numpy as np
import pytest

from autoseg.errors import AutosegError
from autoseg.imaging.formats.dicom.segments import write_segmentation
from autoseg.imaging.formats.reading import read_image, read_label_map
from tests.dicom_builders import IDENTITY, Series, make_segments

pytest.importorskip("highdicom", reason="highdicom is not installed (extra `dicom`)")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A slice, a multi-frame image and a segmentation, as bytes."""
    folder = tmp_path_factory.mktemp("whole")
    series = Series("MR", stored=np.full((2, 4, 5), 7, np.uint16))
    volume = read_image([series.write(folder / "a")])
    assert volume.template.series is not None
    segments, algorithm = make_segments({"liver": (1,)})
    labels = np.ones(volume.grid.shape, np.uint8)
    paths = [
        min((folder / "a").iterdir()),
        series.write_enhanced(folder / "b.dcm"),
        write_segmentation(labels, volume.template.series, segments, algorithm, folder / "c.dcm"),
    ]
    return [path.read_bytes() for path in paths]


@pytest.fixture
def root_log():
    """What reaches the root logger, as that of a program that logs everything."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def describe_outcome(read, path) -> str:
    """The message of a file that is refused; empty for one that is read."""
    try:
        read(path)
    except AutosegError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_read_or_refused_without_naming_the_patient(tmp_path, files, kind, seed, root_log, capfd):
    read = read_label_map if kind == 2 else lambda file: read_image([file])
    rng, path = np.random.default_rng([kind, seed]), tmp_path / "x.dcm"
    for _ in range(12):
        content = bytearray(files[kind])
        for place in rng.integers(132, len(content), 4):
            content[place] = rng.integers(256)
        path.write_bytes(content[: rng.integers(132, len(content))] if rng.random() < 0.2 else content)
        assert IDENTITY not in describe_outcome(read, path)
    assert "Secret" not in root_log.getvalue()
    assert "".join(capfd.readouterr()) == ""
