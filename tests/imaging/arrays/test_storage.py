"""Storage: what is written comes back, patch by patch, and a damaged case says so."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import DatasetError, RecordError
from autoseg.imaging.arrays import stored_arrays
from autoseg.imaging.arrays.storage import (
    label_map_origin,
    open_case,
    open_label_map,
    remove_other_cases,
    save_case,
    save_label_map,
    stored_cases,
)
from autoseg.imaging.arrays.stored_arrays import MAX_BLOCK_BYTES, MAX_CHUNK_BYTES, chunk_layout, keep_open, open_array
from tests.builders import make_record

SHAPE = (9, 17, 23)


def record_of(case, shape=SHAPE, content_hash="abc"):
    return make_record(
        shape, (2.0, 1.0, 0.5), case=case, original_shape=(11, 17, 23), crop_start=(1, 0, 0), crop_stop=(10, 17, 23),
        content_hash=content_hash,
    )  # fmt: skip


def arrays(seed=0, channels=2):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(channels, *SHAPE)).astype(np.float32)
    labels = rng.integers(-1, 300, size=SHAPE).astype(np.int16)
    return image, labels


def voxels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 9, size=(count, 3)).astype(np.int32)


def save(folder, case="a", patch_size=(8, 16, 16), locations=None, annotated=None, seed=0):
    image, labels = arrays(seed)
    save_case(folder, record_of(case), image, labels, (locations or {}, annotated), patch_size)
    return image, labels


@pytest.mark.parametrize("case", ["case_001", "Fälle 7 · 症例", "a.b"])
def test_everything_comes_back(tmp_path, case):
    locations = {head: voxels(head % 5, seed=head) for head in range(1, 41)}
    image, labels = save(tmp_path / "c", case, locations=locations, annotated=voxels(7))
    stored = open_case(tmp_path / "c", case)
    assert stored.record.model_copy(update={"checksum": ""}) == record_of(case)
    assert stored.array.shape == (3, *SHAPE)
    np.testing.assert_array_equal(stored.array[:-1], image)
    np.testing.assert_array_equal(stored.array[-1], labels)
    np.testing.assert_array_equal(
        stored.array[:, 3:7, 5:16, 2:20], np.concatenate([image, labels[None]])[:, 3:7, 5:16, 2:20]
    )
    assert list(stored.locations) == list(locations)
    for head, expected in locations.items():
        np.testing.assert_array_equal(stored.locations[head], expected)
        assert stored.locations[head].dtype == np.int32
    np.testing.assert_array_equal(stored.annotated, voxels(7))
    assert stored_cases(tmp_path / "c") == (case,)


def count_open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_opened_cases_do_not_keep_their_files_open(tmp_path):
    images = {f"c{number}": save(tmp_path, f"c{number}", seed=number)[0] for number in range(5)}
    before = count_open_files()
    stored = {case: open_case(tmp_path, case) for case in images}
    for case, image in images.items():
        np.testing.assert_array_equal(stored[case].array[:-1, 2:5], image[:, 2:5])
    assert count_open_files() == before


def test_only_the_arrays_that_were_read_last_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_arrays, "MAX_OPEN_ARRAYS", 2)
    images = {f"c{number}": save(tmp_path, f"c{number}", seed=number)[0] for number in range(5)}
    before = count_open_files()
    opener = keep_open()
    stored = {case: open_case(tmp_path, case, opener) for case in images}
    for case, image in [*images.items(), *images.items()]:
        np.testing.assert_array_equal(stored[case].array[:-1, 2:5], image[:, 2:5])
    assert count_open_files() - before == 2


def test_label_maps_do_not_stay_open_and_still_tell_their_origin(tmp_path):
    labels = arrays()[1]
    save_label_map(tmp_path / "a.b2nd", labels, (8, 16, 16), "weights of Monday")
    before = count_open_files()
    array, _ = open_label_map(tmp_path / "a.b2nd")
    np.testing.assert_array_equal(array[2:5], labels[2:5])
    assert label_map_origin(array) == "weights of Monday"
    assert count_open_files() == before


@pytest.mark.parametrize("opener", [open_array, keep_open()])
def test_an_array_that_is_written_again_with_the_same_shape_while_in_use_is_an_error(tmp_path, opener):
    """It may be of another plan, with other intensities."""
    save(tmp_path)
    stored = open_case(tmp_path, "a", opener)
    assert stored.array[0].shape == SHAPE
    save(tmp_path)
    os.utime(tmp_path / "a.b2nd", (2e9, 2e9))
    with pytest.raises(DatasetError, match=r"a\.b2nd: was written again while it was in use"):
        stored.array[0]


def test_an_array_that_is_replaced_by_another_shape_while_in_use_is_an_error(tmp_path):
    save(tmp_path)
    stored = open_case(tmp_path, "a")
    image, labels = arrays()
    save_case(tmp_path, record_of("a"), image[:, 1:], labels[1:], ({}, None), (8, 16, 16))
    with pytest.raises(DatasetError, match=r"a\.b2nd: has the shape .* replaced while it was in use"):
        stored.array[:, 2:5]


def test_planes_of_a_2d_configuration(tmp_path):
    image, _ = save(tmp_path, patch_size=(16, 16))
    stored = open_case(tmp_path, "a")
    assert open_array(tmp_path / "a.b2nd").blocks[:2] == (1, 1)
    assert stored.annotated is None
    np.testing.assert_array_equal(stored.array[:-1, 4:5], image[:, 4:5])


def test_saving_again_replaces(tmp_path):
    save(tmp_path, seed=0)
    image, _ = save(tmp_path, seed=1)
    np.testing.assert_array_equal(open_case(tmp_path, "a").array[:-1], image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b2nd", "a.json"]


def test_an_interrupted_write_leaves_no_complete_case(tmp_path):
    save(tmp_path)
    image, labels = arrays()
    with pytest.raises(ValueError, match=r"must match|broadcast"):
        save_case(tmp_path, record_of("a"), image[:, 1:], labels, ({}, None), (8, 8, 8))
    assert stored_cases(tmp_path) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["a.b2nd"]
    with pytest.raises(RecordError, match=r"a\.json"):
        open_case(tmp_path, "a")


def test_missing_case_and_missing_array(tmp_path):
    with pytest.raises(RecordError, match=r"nobody\.json"):
        open_case(tmp_path, "nobody")
    save(tmp_path)
    (tmp_path / "a.b2nd").unlink()
    assert stored_cases(tmp_path) == ()
    with pytest.raises(DatasetError, match=r"a\.b2nd: case a: missing or damaged"):
        open_case(tmp_path, "a")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_array_is_reported(tmp_path, keep):
    save(tmp_path, locations={1: voxels(50)})
    content = (tmp_path / "a.b2nd").read_bytes()
    (tmp_path / "a.b2nd").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DatasetError, match=r"a\.b2nd: case a: missing or damaged .* run autoseg-plan again"):
        open_case(tmp_path, "a")


def test_array_of_another_case_is_reported(tmp_path):
    image, labels = arrays()
    save_case(tmp_path, record_of("a", shape=(1, 2, 3)), image, labels, ({}, None), (8, 8, 8))
    with pytest.raises(DatasetError, match=r"the array has the shape \(9, 17, 23\), its record \(1, 2, 3\)"):
        open_case(tmp_path, "a")


def test_other_cases_and_killed_writes_are_removed(tmp_path):
    save(tmp_path, "keep")
    save(tmp_path, "old")
    (tmp_path / ".1a2b3c4d.keep.b2nd").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    remove_other_cases(tmp_path, frozenset(["keep", "new"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep.b2nd", "keep.json", "notes.txt"]
    remove_other_cases(tmp_path / "nowhere", frozenset())


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 700), st.integers(1, 700), st.integers(1, 700)),
    st.tuples(st.integers(1, 300), st.integers(1, 512), st.integers(1, 512)),
    st.booleans(),
)
def test_layout_fits(shape, patch_size, flat):
    chunks, blocks = chunk_layout(shape, patch_size[1:] if flat else patch_size)
    assert math.prod(blocks) * 4 <= MAX_BLOCK_BYTES
    assert math.prod(chunks) * 4 <= MAX_CHUNK_BYTES
    for size, chunk, block in zip(shape, chunks, blocks, strict=True):
        assert 1 <= block <= chunk <= size
    if flat:
        assert blocks[0] == 1


def test_layout_by_hand():
    # 128^3 of 4 bytes is 8 MiB; halved axis by axis to 32^3 = 128 KiB. 48 blocks make 6 MiB.
    chunks, blocks = chunk_layout((300, 512, 512), (128, 128, 128))
    assert blocks == (32, 32, 32)
    assert math.prod(chunks) == 48 * 32**3


def test_a_label_map_comes_back_with_its_origin(tmp_path):
    labels = arrays()[1]
    path = tmp_path / "next" / "Fälle 7.b2nd"
    save_label_map(path, labels.transpose(2, 0, 1), (8, 16, 16), "weights of Monday")
    array, origin = open_label_map(path)
    assert origin == "weights of Monday"
    assert array.dtype == np.int16
    assert array.shape == (23, 9, 17)
    np.testing.assert_array_equal(array[3:9, :, 5:], labels.transpose(2, 0, 1)[3:9, :, 5:])
    assert [entry.name for entry in path.parent.iterdir()] == ["Fälle 7.b2nd"]
    save_label_map(path, labels, (16, 16), "weights of Tuesday")
    assert open_label_map(path)[1] == "weights of Tuesday"


@pytest.mark.parametrize("content", [None, b"", b"not an array"])
def test_a_damaged_label_map_says_so(tmp_path, content):
    path = tmp_path / "a.b2nd"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.b2nd: this label map is missing or damaged"):
        open_label_map(path)


def test_an_array_of_another_kind_is_no_label_map(tmp_path):
    save(tmp_path)
    with pytest.raises(DatasetError, match="missing or damaged"):
        open_label_map(tmp_path / "a.b2nd")
