import pytest

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.budget import Budget, Overrides
from autoseg.records.dataset import LabelValues
from autoseg.testing import synthetic_fingerprint
from planners.rules.sides import choose_side_pairs, find_sides, find_unpaired
from planners.unet import plan

KIDNEYS: dict[str, LabelValues] = {"background": 0, "liver": 1, "kidney_left": 2, "kidney_right": 5}
PAIR = (("kidney_left", "kidney_right"),)
ASKED = Budget(overrides=Overrides(side_pairs=(("liver", "kidney_left"),)))
NONE = Budget(overrides=Overrides(side_pairs=()))


def fingerprint_of(labels, shape=(40, 50, 60), *, spacing=(1.0, 1.0, 1.0), paint=None, **changes):
    made = synthetic_fingerprint([spacing], [shape])
    return made.model_copy(update={"labels": labels, "encoding": make_encoding(labels, paint), **changes})


def pairs_of(fingerprint, budget):
    decided = choose_side_pairs(fingerprint, budget)
    assert decided is not None
    return decided


def test_without_sides_there_is_nothing_to_decide():
    fingerprint = fingerprint_of({"background": 0, "LV": 1, "RV": 2})
    assert choose_side_pairs(fingerprint, Budget()) is None
    assert find_sides(3, fingerprint, Budget(), (0, 1, 2)) is None
    made = plan(fingerprint, Budget())
    assert all(decision.what != "side_pairs" for decision in made.decisions)
    assert "sides" not in made.model_dump_json()


def test_pairs_are_found_by_name_and_told():
    pairs, reason = pairs_of(fingerprint_of(KIDNEYS), Budget())
    assert pairs == PAIR
    assert "differ by the side alone" in reason
    assert "--side-pairs overrides" in reason
    lobes = {**KIDNEYS, "lung_middle_lobe_right": 7}
    pairs, reason = pairs_of(fingerprint_of(lobes), Budget())
    assert pairs == PAIR
    assert "Without a partner: lung_middle_lobe_right" in reason
    assert find_unpaired(fingerprint_of(lobes), PAIR) == ("lung_middle_lobe_right",)


@pytest.mark.parametrize(("budget", "pairs"), [(ASKED, ASKED.overrides.side_pairs), (NONE, ())])
def test_what_the_user_says_is_kept(budget, pairs):
    assert pairs_of(fingerprint_of(KIDNEYS), budget) == (pairs, "Requested.")


@pytest.mark.parametrize(
    ("changes", "words"), [({"orientation": "as_stored"}, "as stored"), ({"shape": (1, 50, 60)}, "single slice")]
)
def test_where_no_axis_is_known_nothing_changes_places(changes, words):
    fingerprint = fingerprint_of(KIDNEYS, **changes)
    pairs, reason = pairs_of(fingerprint, Budget())
    assert pairs == ()
    assert words in reason
    assert find_sides(2, fingerprint, Budget(), (0, 1, 2)) is None


def test_of_images_of_a_single_slice_x_is_taken_when_pairs_are_given():
    sides = find_sides(2, fingerprint_of(KIDNEYS, (1, 50, 60)), ASKED, (0, 1, 2))
    assert sides is not None
    assert (sides.axis, sides.pairs) == (1, ASKED.overrides.side_pairs)


def test_regions_that_hold_one_of_a_pair_keep_their_places():
    labels: dict[str, LabelValues] = {"background": 0, "abdomen": (1, 2), "kidney_left": 2, "kidney_right": 3}
    pairs, reason = pairs_of(fingerprint_of(labels, paint=(1, 2, 3)), Budget())
    assert pairs == ()
    assert "other regions hold one label" in reason


@pytest.mark.parametrize(("spacing", "axes"), [((4.0, 1.0, 1.0), (2, 1)), ((1.0, 1.0, 4.0), (0, None))])
def test_a_plan_names_the_axis_of_each_patch(spacing, axes):
    made = plan(fingerprint_of(KIDNEYS, spacing=spacing), Budget())
    for name, axis in zip(("3d_fullres", "2d"), axes, strict=True):
        training = made.configurations[name].training
        assert (training.sides and training.sides.axis) == axis
        assert training.mirror_axes == tuple(range(3 if name == "3d_fullres" else 2))
    (decision,) = (decision for decision in made.decisions if decision.what == "side_pairs")
    assert decision.value == PAIR
    limited = plan(fingerprint_of(KIDNEYS), Budget(device="cpu", time_per_fold_seconds=3600))
    training = limited.configurations["3d_fullres"].training
    assert training.sides is not None
    assert (training.sides.pairs, training.mirror_axes) == (PAIR, (2,))
