"""A recipe in words."""

from typing import Any

from autoseg.records.files import Record
from autoseg.records.postprocessing import KeepLargestComponent
from autoseg.records.selection import Selection
from autoseg.report.recipe import say_recipe, say_step


class RemoveSmall(Record):
    operation: str = "remove_small_components"
    labels: tuple[str, ...] = ("a",)
    min_volume_mm3: float = 12.5


class ByLabel(Record):
    operation: str
    label: str = "b"


def make_selection(**changes):
    values: dict[str, Any] = {
        "configurations": ("2d", "3d_fullres"),
        "folds": ("0", "1"),
        "mean_foreground_dice": 0.9,
        "candidates": (),
        "reasons": (),
    }
    return Selection(**(values | changes))


def test_every_step_is_said_in_order():
    steps = (KeepLargestComponent(labels=("a", "b")), KeepLargestComponent(labels=("a",)))
    assert say_recipe(make_selection(postprocessing=steps, region_thresholds={"core": 0.35})) == [
        "predict with 2d and 3d_fullres, folds 0, 1, and average their probabilities",
        "core: from probability 0.35",
        "keep the largest component of a, b",
        "keep the largest component of a",
    ]


def test_a_single_network_averages_nothing():
    assert say_recipe(make_selection(configurations=("2d",), folds=("3",))) == [
        "predict with 2d, fold 3",
        "no post-processing: none helped",
    ]


def test_steps_of_other_kinds():
    assert say_step(RemoveSmall()) == "remove components of a below 12.5 mm³"
    assert say_step(ByLabel(operation="fill_holes")) == "fill holes in b"
    assert say_step(ByLabel(operation="turn_over")) == "turn over of b"
