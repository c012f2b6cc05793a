"""Recipes of post-processing and tables of predictions that are wrong."""

import json
import os

import numpy as np
import pytest

from tests.faults.battery import DONE, SOME_FAILED, UNUSABLE, Place, Row, check, draw, save

POSTPROCESS = "postprocess -i {labels} -o {out} --recipe {root}/recipe.json -j 1"
EVALUATE = "evaluate {root}/predictions {labels} -j 1"
NAMED = {"background": 0, "liver": 1, "lesion": 2}


def recipe(labels=NAMED, *steps, **changes):
    """A recipe file with these labels and steps."""
    content = json.dumps({"schema_version": 1, "labels": labels, "steps": steps} | changes)
    return lambda place: (place.root / "recipe.json").write_text(content)


def text(content):
    return lambda place: (place.root / "recipe.json").write_text(content)


def predicted(change):
    """Predictions of all cases, one of which is changed."""

    def spoil(place: Place):
        for case in range(4):
            save(place.root / "predictions" / f"case_{case}.nii.gz", draw(case)[1])
        save(place.root / "predictions" / "case_1.nii.gz", change(draw(1)[1]))

    return spoil


def a_fifo_beside(place):
    predicted(lambda array: array)(place)
    (place.root / "predictions" / "case_2.nii.gz").unlink()
    os.mkfifo(place.root / "predictions" / "case_2.nii.gz")


FAULTS: list[Row] = [
    ("empty", text(""), POSTPROCESS, UNUSABLE, "recipe.json: not a valid PostprocessingRecipe"),
    ("a list", text("[]"), POSTPROCESS, UNUSABLE, "Input should be an object"),
    ("deep", text("[" * 100_000), POSTPROCESS, UNUSABLE, "recipe.json: not a valid PostprocessingRecipe"),
    ("newer", recipe(schema_version=9), POSTPROCESS, UNUSABLE, "written by a newer version of autoseg"),
    ("a FIFO", lambda place: os.mkfifo(place.root / "recipe.json"), POSTPROCESS, UNUSABLE, "it is a FIFO"),
    ("missing", lambda _: None, POSTPROCESS, UNUSABLE, "recipe.json"),
    ("unknown operation", recipe(NAMED, {"operation": "os.system", "label": "x"}), POSTPROCESS, UNUSABLE, "os.system"),
    ("unknown label", recipe(NAMED, {"operation": "fill_holes", "label": "bone"}), POSTPROCESS, UNUSABLE, "bone"),
    ("negative label", recipe({"background": 0, "liver": -1}), POSTPROCESS, UNUSABLE, "'liver' has the value [-1]"),
    ("huge label", recipe({"background": 0, "liver": 10**11}), POSTPROCESS, UNUSABLE, "expected 0 to 65535"),
    ("no labels", recipe({}), POSTPROCESS, UNUSABLE, "there is no label besides the background"),
    ("regions without their order", recipe({"background": 0, "a": [1, 2]}), POSTPROCESS, UNUSABLE,
     "regions_class_order"),
    ("volume of zero", recipe(NAMED, {"operation": "remove_small_components", "labels": ["liver"],
     "min_volume_mm3": 0}), POSTPROCESS, UNUSABLE, "min_volume_mm3"),
    ("every volume too small", recipe(NAMED, {"operation": "remove_small_components", "labels": ["liver"],
     "min_volume_mm3": 1e300}), POSTPROCESS, DONE, "Output:"),
    ("prediction of another shape", predicted(lambda array: array[:-1]), EVALUATE, SOME_FAILED, "case_1"),
    ("prediction with fractions", predicted(lambda array: array + 0.3), EVALUATE, SOME_FAILED, "case_1"),
    ("prediction with NaN", predicted(lambda array: array * np.float32(np.nan)), EVALUATE, SOME_FAILED, "case_1"),
    ("prediction a FIFO", a_fifo_beside, EVALUATE, SOME_FAILED, "case_2.nii.gz: is a FIFO"),
    ("no predictions", lambda place: (place.root / "predictions").mkdir(), EVALUATE, UNUSABLE,
     "no case is in both folders"),
    ("comparison with nothing", predicted(lambda array: array), EVALUATE + " --compare {root}/nowhere", UNUSABLE,
     "no such folder or file"),
]  # fmt: skip


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row[0])
def test_recipes(place, row, capsys):
    check(place, row, capsys)
