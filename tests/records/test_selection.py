"""Recipes as JSON: what an earlier version wrote, and what a person may get wrong."""

import json

import pytest

from autoseg.errors import RecordError
from autoseg.records.files import read_record, write_record
from autoseg.records.selection import (
    FillHoles,
    KeepLargestComponent,
    PostprocessingRecipe,
    RemoveSmallComponents,
    Selection,
)

EARLIER_SELECTION = """{
 "schema_version": 1, "configurations": ["3d_fullres"], "folds": ["0", "1"],
 "postprocessing": [{"operation": "keep_largest_component", "labels": ["anterior", "posterior"]}],
 "mean_foreground_dice": 0.875, "candidates": [], "reasons": []
}"""


def test_a_selection_of_an_earlier_version_reads_as_before(tmp_path):
    path = tmp_path / "selection.json"
    path.write_text(EARLIER_SELECTION)
    selection = read_record(Selection, path)
    assert selection.postprocessing == (KeepLargestComponent(labels=("anterior", "posterior")),)
    assert selection.decision == "argmax"
    write_record(selection, path)
    assert read_record(Selection, path) == selection
    assert not {"decision", "member_weights"} & json.loads(path.read_text()).keys()


def test_thresholds_contradict_a_decision_that_finds_its_own(tmp_path):
    path = tmp_path / "selection.json"
    changed = json.loads(EARLIER_SELECTION) | {"decision": "expected-dice", "region_thresholds": {"core": 0.3}}
    path.write_text(json.dumps(changed))
    with pytest.raises(RecordError, match=r"region_thresholds\.core: .*leave out one of them"):
        read_record(Selection, path)
    path.write_text(json.dumps(changed | {"region_thresholds": {}}))
    assert read_record(Selection, path).decision == "expected-dice"
    path.write_text(json.dumps(changed | {"decision": "dice"}))
    with pytest.raises(RecordError, match=r"decision: .*'argmax' or 'expected-dice'"):
        read_record(Selection, path)


def test_every_step_survives_json(tmp_path):
    recipe = PostprocessingRecipe(
        labels={"background": 0, "whole": (1, 2), "core": 2},
        regions_class_order=(1, 2),
        steps=(
            KeepLargestComponent(labels=("whole",)),
            RemoveSmallComponents(labels=("whole", "core"), min_volume_mm3=12.5),
            FillHoles(label="core"),
        ),
    )
    write_record(recipe, tmp_path / "recipe.json")
    assert read_record(PostprocessingRecipe, tmp_path / "recipe.json") == recipe
    operations = [step["operation"] for step in json.loads((tmp_path / "recipe.json").read_text())["steps"]]
    assert operations == ["keep_largest_component", "remove_small_components", "fill_holes"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"operation": "dilate", "labels": ["a"]}, r"steps\.0: .*dilate.*keep_largest_component"),
        ({"operation": "remove_small_components", "labels": ["a"]}, r"steps\.0\.min_volume_mm3: Field required"),
        ({"operation": "remove_small_components", "labels": ["a"], "min_volume_mm3": 0}, "greater than 0, found 0"),
        ({"operation": "keep_largest_component", "labels": []}, r"steps\.0\.labels: .*at least 1"),
        ({"operation": "fill_holes", "label": "a", "connectivity": 6}, r"steps\.0\.connectivity: Extra inputs"),
        ({"labels": ["a"]}, r"steps\.0: .*operation"),
    ],
)
def test_a_wrong_step_is_named_by_its_place(tmp_path, step, message):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"labels": {"a": 1}, "steps": [step]}))
    with pytest.raises(RecordError, match=message):
        read_record(PostprocessingRecipe, path)
