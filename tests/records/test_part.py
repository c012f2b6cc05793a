"""Parts of a run over files."""

import pytest

from autoseg.inference.files.run_lists import part_files
from autoseg.records.part import Part


@pytest.mark.parametrize(("number", "expected"), [(1, [0, 3, 6]), (2, [1, 4]), (3, [2, 5])])
def test_every_third_from_its_own_start(number, expected):
    assert list(Part(number, 3).take(range(7))) == expected


def test_more_parts_than_cases_leaves_some_without():
    assert [list(Part(number, 4).take("ab")) for number in (1, 2, 3, 4)] == [["a"], ["b"], [], []]


@pytest.mark.parametrize(("number", "count"), [(0, 3), (4, 3), (1, 0), (-1, 2)])
def test_no_such_part(number, count):
    with pytest.raises(ValueError, match=f"part {number} of {count}"):
        Part(number, count)


def test_lists_of_parts_have_names_of_their_own(tmp_path):
    names = [Part(number, 10).file_name("failures.json") for number in (2, 10)]
    assert names == ["failures_part_2_of_10.json", "failures_part_10_of_10.json"]
    assert Part(1, 1).file_name("failures.json") == "failures.json"
    for name in (*names, "failures.json", "failures_part_x_of_2.json", "statistics_part_1_of_2.csv"):
        (tmp_path / name).touch()
    assert {path.name for path in part_files(tmp_path, "failures.json")} == set(names)
