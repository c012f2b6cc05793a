"""What the sentences beside an ONNX network say depends on the plan."""

import pytest

from autoseg.inference.refinement.patches import plan_refiner
from autoseg.interop.onnx_steps import list_steps
from autoseg.records.selection import (
    FillHoles,
    KeepLargestComponent,
    PatchSettings,
    Refinement,
    RefinementScores,
    RemoveSmallComponents,
    Selection,
)
from tests.builders import CASCADE, LABELS, REGIONS, make_cascade_plan


def steps_of(plan_changes=None, postprocessing=(), *, labels=LABELS, thresholds=None, **changes):
    plan = make_cascade_plan((4.0, 2.4, 2.4), (2.0, 1.2, 1.2), labels=labels).model_copy(update=plan_changes or {})
    configuration = plan.configurations[CASCADE].model_copy(update=changes)
    selection = Selection(
        configurations=(CASCADE,), folds=("0",), region_thresholds=thresholds or {}, postprocessing=postprocessing,
        mean_foreground_dice=None,
        candidates=(), reasons=(),
    )  # fmt: skip
    return list_steps(plan, configuration, selection)


@pytest.mark.parametrize(
    ("orientation", "words"), [("canonical", "y towards posterior"), ("canonical_ras", "y towards anterior")]
)
def test_the_axes_are_those_of_the_plan(orientation, words):
    assert sum(words in step for step in steps_of({"orientation": orientation})) == 1
    assert not any(words in step for step in steps_of({"orientation": "as_stored"}))


def test_refiners_are_said_to_be_missing():
    patches = PatchSettings(size=(1, 48, 48), training_distance=(1, 24, 24), prediction_distance=(1, 18, 18))
    scores = RefinementScores(mean_foreground_dice=None, surface_dice=None, hausdorff_95_mm=None)
    refinement = Refinement(
        patches=patches, network=plan_refiner(patches, 1), refiners=("0" * 64,), tolerance_mm=1.0, before=scores,
        after=scores,
    )  # fmt: skip
    plan = make_cascade_plan((4.0, 2.4, 2.4), (2.0, 1.2, 1.2))
    selection = Selection(
        configurations=(CASCADE,), folds=("0",), mean_foreground_dice=None, candidates=(), reasons=(),
        refinement=refinement,
    )  # fmt: skip
    steps = list_steps(plan, plan.configurations[CASCADE], selection)
    assert sum("refines boundaries here with networks that are not exported" in step for step in steps) == 1
    assert not any("refines" in step for step in steps_of())


def test_a_cascade_names_its_rule():
    assert any("resample their logits to this grid" in step for step in steps_of())
    imported = steps_of(previous_labels="label_map", logits_precision="float16")
    assert any("Predict the label map of the whole image" in step for step in imported)
    assert not any("resample their logits to this grid" in step for step in imported)
    assert "Round the blended logits to float16." in imported
    assert "Round the blended logits to float16." not in steps_of()


def test_every_kind_of_post_processing_is_said_in_order():
    recipe = (
        FillHoles(label="anterior"),
        RemoveSmallComponents(labels=("anterior", "posterior"), min_volume_mm3=12.5),
        KeepLargestComponent(labels=("posterior",)),
    )
    *_, filled, removed, kept, last = steps_of(postprocessing=recipe)
    assert filled.startswith("Give anterior (its head's painted_index) the background that it encloses")
    assert "of the union of anterior, posterior whose volume is below 12.5 mm³; equal ones stay" in removed
    assert kept.startswith("Keep only the largest connected component (26 neighbours) of the union of posterior")
    assert last == "Write encoding.values[index] for each label index."


def test_thresholds_of_regions_are_said_where_there_are_any():
    words = "where its probability is above that value p instead: its logit above log(p / (1 - p))"
    assert sum(words in step for step in steps_of(labels=REGIONS, thresholds={"core": 0.4})) == 1
    assert not any(words in step for step in steps_of(labels=REGIONS))
