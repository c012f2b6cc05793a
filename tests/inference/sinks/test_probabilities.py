"""Probabilities on the image's own grid, in memory and in a file."""

import blosc2
import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.formats.volume import orient_array, restore_array
from autoseg.inference.sinks import probabilities
from autoseg.inference.sinks.probabilities import ProbabilityVolume, probability_file
from autoseg.records.case import Orientation, Triple
from tests.builders import make_record

LABELS = make_encoding({"background": 0, "a": 5, "b": 9})
REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2}, (1, 2))
STORED = (4, 5, 7)
ORDERS: list[Triple] = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
ORIENTATIONS = [
    (Orientation(axes=axes, flips=(bool(number & 1), bool(number & 2), bool(number & 4))), transpose)
    for number, (axes, transpose) in enumerate(zip(ORDERS, ORDERS[::-1], strict=True), start=1)
]


def record_of(orientation, transpose, margin=1):
    """A crop that leaves `margin` at the low end and twice as much at the high end, where there is room."""
    working = orient_array(np.zeros(STORED), orientation).shape
    shape = tuple(working[axis] for axis in transpose)
    stop = tuple(size - 2 * margin if size > 3 * margin else size for size in shape)
    cropped = tuple(end - margin for end in stop)
    return make_record(cropped, original_shape=shape, crop_start=(margin,) * 3, crop_stop=stop, transpose=transpose)


def write_in_slabs(volume, record, values, thickness=2):
    for start in range(0, values.shape[1], thickness):
        part = torch.from_numpy(values[:, start : start + thickness].copy())
        volume.write(record, start, start + part.shape[1], part)


def expected_volume(record, orientation, values, outside):
    """All axes by moving arrays: crop box, the plan's axes, working axes, stored axes."""
    planned = np.zeros((len(values), *record.original_shape), dtype=np.float32)
    planned[0] = outside
    box = tuple(slice(a, b) for a, b in zip(record.crop_start, record.crop_stop, strict=True))
    planned[:, *box] = values
    working = planned.transpose(0, *(1 + axis for axis in np.argsort(record.transpose)))
    return restore_array(working, orientation)


@pytest.mark.parametrize(("orientation", "transpose"), ORIENTATIONS)
@pytest.mark.parametrize(("encoding", "outside"), [(LABELS, 1), (REGIONS, 0)])
def test_every_orientation(tmp_path, monkeypatch, orientation, transpose, encoding, outside):
    monkeypatch.setattr(probabilities, "CHUNK_BYTES", 100)  # several chunks
    record = record_of(orientation, transpose)
    shape = (len(encoding.heads), *STORED)
    values = np.random.default_rng(0).random((shape[0], *record.shape)).astype(np.float32)
    expected = expected_volume(record, orientation, values, outside)
    array = np.zeros(shape, dtype=np.float16)
    write_in_slabs(ProbabilityVolume(array, encoding, orientation), record, values)
    np.testing.assert_array_equal(array, expected.astype(np.float16))
    path = tmp_path / "p.b2nd"
    with probability_file(path, shape, orientation.axes[transpose[0]]) as file:
        write_in_slabs(ProbabilityVolume(file, encoding, orientation), record, values)
        assert not path.exists()
    stored = blosc2.open(str(path), mode="r")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored[:], array)


def test_chunks_are_thin_along_the_slabs(monkeypatch):
    with_chunks = [probabilities._chunk((600, 512, 512), axis) for axis in range(3)]
    assert with_chunks == [(8, 512, 512), (600, 6, 512), (600, 512, 6)]
    assert probabilities._chunk((3, 20, 20), 0) == (3, 20, 20)
    assert probabilities._chunk((3, 9000, 9000), 0) == (1, 9000, 9000)


def test_a_failed_file_is_gone(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), probability_file(tmp_path / "p.b2nd", (2, 3, 4, 5), 0):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
