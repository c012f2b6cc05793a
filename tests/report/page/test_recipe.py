"""A recipe in words."""

from typing import Any

from autoseg.records.postprocessing import KeepLargestComponent
from autoseg.records.selection import Selection
from autoseg.report.page.recipe import describe_recipe


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
    assert describe_recipe(make_selection(postprocessing=steps, region_thresholds={"core": 0.35})) == [
        "predict with 2d and 3d_fullres, folds 0, 1, and average their probabilities",
        "core: probability at least 0.35",
        "keep the largest component of a, b",
        "keep the largest component of a",
    ]


def test_a_single_network_averages_nothing():
    assert describe_recipe(make_selection(configurations=("2d",), folds=("3",))) == [
        "predict with 2d, fold 3",
        "no post-processing: no step improved the score",
    ]


def test_refined_boundaries_come_before_post_processing(make_refinement):
    steps = (KeepLargestComponent(labels=("a",)),)
    said = describe_recipe(make_selection(refinement=make_refinement(3), postprocessing=steps))
    assert said[1:] == ["refine boundaries with 3 small networks, averaged", "keep the largest component of a"]
