"""Damage of cases: any flipped bit, a cut file and an array of another case are found; older cases are accepted."""

import hashlib
import json

import numpy as np
import pytest

from autoseg.imaging.arrays.damage import find_case_damage, find_damaged_cases
from autoseg.imaging.arrays.storage import save_case
from tests.builders import make_record

SHAPE = (9, 17, 23)


def save(folder, case="a", seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(1, *SHAPE)).astype(np.float32)
    labels = rng.integers(-1, 3, size=SHAPE).astype(np.int16)
    locations = {1: rng.integers(0, 9, size=(20, 3)).astype(np.int32)}
    save_case(folder, make_record(SHAPE, case=case), image, labels, (locations, None), (8, 16, 16))


def test_the_checksum_of_a_record_is_that_of_the_file_and_nothing_is_wrong_with_it(tmp_path):
    save(tmp_path)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["checksum"] == hashlib.sha256((tmp_path / "a.b2nd").read_bytes()).hexdigest()
    assert find_case_damage(tmp_path, "a") == ""


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_anywhere_is_found(tmp_path, seed):
    save(tmp_path)
    content = bytearray((tmp_path / "a.b2nd").read_bytes())
    rng = np.random.default_rng(seed)
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    (tmp_path / "a.b2nd").write_bytes(content)
    assert find_case_damage(tmp_path, "a") == "has another array than was written (its checksum differs)"


@pytest.mark.parametrize("has_checksum", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_array_is_found_without_a_checksum_too(tmp_path, keep, has_checksum):
    save(tmp_path)
    if not has_checksum:
        record = json.loads((tmp_path / "a.json").read_text())
        del record["checksum"]
        (tmp_path / "a.json").write_text(json.dumps(record))
        assert find_case_damage(tmp_path, "a") == ""
    content = (tmp_path / "a.b2nd").read_bytes()
    (tmp_path / "a.b2nd").write_bytes(content[: int(keep * len(content))])
    assert find_case_damage(tmp_path, "a")


def test_missing_and_exchanged_files_are_found(tmp_path):
    save(tmp_path, "a", seed=0)
    save(tmp_path, "b", seed=1)
    save(tmp_path, "c", seed=2)
    (tmp_path / "a.b2nd").write_bytes((tmp_path / "b.b2nd").read_bytes())
    (tmp_path / "b.json").write_text('{"case": "b"')
    (tmp_path / "c.b2nd").unlink()
    found, checked = find_damaged_cases(tmp_path, ["a", "b", "c", "d"], seconds=60)
    assert checked == 4
    assert found == {
        "a": "has another array than was written (its checksum differs)",
        "b": "has no record, or a damaged one",
        "c": "has no array",
        "d": "has no array",
    }


def test_no_further_case_is_begun_when_the_time_is_over(tmp_path):
    assert find_damaged_cases(tmp_path, ["a", "b"], seconds=-1.0) == ({}, 0)
