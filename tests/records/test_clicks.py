"""Clicks as files hold them: a place in voxels or in mm, and which files are refused."""

import json

import pytest

from autoseg.errors import RecordError
from autoseg.records.clicks import CaseClicks, Click
from autoseg.records.files import read_record


def test_a_file_holds_clicks_by_case_in_voxels_and_in_mm(tmp_path):
    path = tmp_path / "clicks.json"
    path.write_text(
        '{"cases": {"a": [{"label": "liver", "x": 3, "y": 4, "z": 5}, '
        '{"label": 0, "x_mm": -1.5, "y_mm": 2, "z_mm": 7.25}], "b": [{"label": "liver", "x": 1, "y": 2}]}}'
    )
    cases = read_record(CaseClicks, path).cases
    assert cases["a"] == (Click(label="liver", x=3, y=4, z=5), Click(label=0, x_mm=-1.5, y_mm=2, z_mm=7.25))
    assert cases["b"][0].z is None


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ({}, "nothing"),
        ({"x": 1, "z": 2}, "x, z"),
        ({"x_mm": 1.0, "y_mm": 2.0}, "x_mm, y_mm"),
        ({"x": 1, "y": 2, "z": 3, "z_mm": 2.0}, "x, y, z, z_mm"),
        ({"z": 3}, "z"),
    ],
)
def test_half_a_place_or_two_are_refused(tmp_path, place, found):
    path = tmp_path / "clicks.json"
    path.write_text(json.dumps({"cases": {"a": [{"label": "liver", **place}]}}))
    with pytest.raises(RecordError, match=rf"cases\.a\.0.*given by {found}, expected x, y, z \(voxels\) or x_mm"):
        read_record(CaseClicks, path)


def test_a_file_without_cases_is_refused(tmp_path):
    path = tmp_path / "clicks.json"
    path.write_text('{"cases": {}}')
    with pytest.raises(RecordError, match="cases"):
        read_record(CaseClicks, path)


def test_a_broken_file_is_to_be_fixed_by_its_author_and_no_command_writes_it_again(tmp_path):
    path = tmp_path / "clicks.json"
    path.write_text('{"cases": {"a": [{"label": "liver", "x": "left", "y": 4, "z": 5}]}}')
    with pytest.raises(
        RecordError, match=r"cases\.a\.0\.x: .*(?s:.)Fix the fields listed above in the file of clicks"
    ) as found:
        read_record(CaseClicks, path)
    assert "delete" not in str(found.value)
