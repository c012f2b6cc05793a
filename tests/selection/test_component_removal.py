"""Tables of components against maps that are really changed and scored, and the choice of a volume by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from autoseg.metrics.overlap import score_case
from autoseg.records.dataset import LabelValues
from autoseg.records.evaluation import LabelScores
from autoseg.selection.component_removal import (
    CaseComponents,
    ComponentTable,
    Sweep,
    describe_sweep,
    no_components,
    remove_below,
    sweep_volumes,
    tabulate_components,
)
from autoseg.selection.verdicts import Verdict

REGIONS: dict[str, LabelValues] = {"whole": (1, 2, 3), "core": (2, 3), "rim": 1}
IGNORE = 4
SPACING = (2.0, 1.0, 0.5)  # 1 mm³ a voxel

MAPS = arrays(np.int16, (2, 5, 6), elements=st.sampled_from([0, 0, 1, 2, 3]))
TRUTHS = arrays(np.int16, (2, 5, 6), elements=st.sampled_from([0, 0, 1, 2, 3, IGNORE]))


def table_of(prediction, reference, indices, labels):
    components, _ = ndimage.label(np.isin(prediction, indices), structure=np.ones((3, 3, 3)))
    return components, tabulate_components(components, prediction, reference, labels, IGNORE)


def scores_of(prediction, reference):
    return score_case("a", prediction, reference, {**REGIONS, "ignore": IGNORE}).labels


@given(prediction=MAPS, reference=TRUTHS, smallest=st.integers(0, 9), union=st.sampled_from([(1,), (2, 3), (1, 2, 3)]))
@settings(deadline=None, max_examples=100)
def test_what_the_table_says_is_what_removing_gives(prediction, reference, smallest, union):
    groups = [(value,) if isinstance(value, int) else value for value in REGIONS.values()]
    components, table = table_of(prediction, reference, union, groups)
    sizes = np.bincount(components.ravel())
    assert table.sizes.tolist() == sorted(set(sizes[1:].tolist()))
    expected = np.where((components > 0) & (sizes < smallest)[components], 0, prediction)
    case = CaseComponents(table, scores_of(prediction, reference), SPACING)
    removal = remove_below([case], [smallest])
    after = scores_of(expected, reference)
    assert {name: of_label[0] for name, of_label in removal.dice.items()} == {
        name: scores.dice for name, scores in after.items()
    }
    assert removal.is_change == bool((expected != prediction).any())
    assert removal.is_loss == any(
        after[name].true_positives == 0 < before.true_positives for name, before in case.scores.items()
    )


def test_an_empty_map_has_an_empty_table():
    empty = np.zeros((2, 3, 4), dtype=np.int16)
    _, table = table_of(empty, empty, (1,), [(1,), (2,)])
    for given_table in (table, no_components(2)):
        assert given_table.sizes.shape == (0,)
        assert given_table.predicted.shape == given_table.shared.shape == (0, 2)
        assert [one.tolist() for one in given_table.below(5)] == [[0, 0], [0, 0]]


def made_case(components, reference_voxels, spacing=SPACING):
    """One label; `components` are (voxels, of these true)."""
    sizes = sorted({size for size, _ in components})
    predicted = [sum(one for one, _ in components if one == size) for size in sizes]
    shared = [sum(true for one, true in components if one == size) for size in sizes]
    table = ComponentTable(np.array(sizes), np.array([predicted]).T, np.array([shared]).T)
    hits, total = sum(shared), sum(predicted)
    dice = 2 * hits / (total + reference_voxels) if total + reference_voxels else None
    scores = LabelScores(
        dice=dice, iou=None, true_positives=hits, false_positives=total - hits,
        false_negatives=reference_voxels - hits, predicted_voxels=total, reference_voxels=reference_voxels,
    )  # fmt: skip
    return CaseComponents(table, {"lesion": scores}, spacing)


def sweep(*cases):
    means = {"lesion": np.mean([dice for case in cases if (dice := case.scores["lesion"].dice) is not None])}
    calls = []

    def smallest(volume, spacing):
        calls.append(volume)
        return max(1, int(np.ceil(volume / np.prod(spacing))))

    return sweep_volumes(cases, means, "lesion", smallest)


def test_the_volume_lies_between_false_and_true_components():
    found = sweep(*[made_case([(100, 100), (30, 20), (4, 0), (9, 0)], 140) for _ in range(3)])
    # 5 removes the component of 4, 10 that of 9 too, 50 the true one of 30; 7 removes the same as 5.
    assert found.tried == (5.0, 10.0, 50.0)
    assert found.volume_mm3 == found.best_mm3 == 10.0
    assert found.verdict.before == pytest.approx(240 / 283)
    assert found.verdict.after == pytest.approx(240 / 270)
    assert found.verdict.is_accepted


def test_a_volume_of_exactly_a_component_keeps_it():
    found = sweep(made_case([(100, 100), (10, 0)], 100), made_case([(100, 100), (10, 0)], 100))
    assert found.tried == (15.0,)


def test_spacing_makes_the_volume():
    coarse = made_case([(100, 100), (10, 0)], 100, spacing=(4.0, 1.0, 0.5))  # 20 mm³
    fine = made_case([(100, 100), (10, 0)], 100)
    found = sweep(coarse, fine, coarse, fine)
    assert found.tried == (15.0, 30.0)
    assert found.volume_mm3 == 30.0


def test_no_volume_is_above_the_smallest_true_structure():
    # Removing below 20 would be best by far, but a true lesion of 12 mm³ has been seen.
    cases = [made_case([(100, 100), (18, 0)], 100) for _ in range(3)]
    assert sweep(*cases).volume_mm3 == 20.0
    assert sweep(*cases, made_case([(12, 12)], 12)).tried == ()
    assert sweep(*cases, made_case([(12, 12), (3, 0)], 12)).volume_mm3 == 5.0
    assert sweep(*cases, made_case([(12, 12), (3, 0)], 0)).tried != ()


def test_the_smallest_volume_within_noise_of_the_best_is_chosen():
    # Every case has a false component of 4; one case alone has one of 40 as well.
    one = made_case([(200, 200), (4, 0)], 200)
    other = made_case([(200, 200), (4, 0), (40, 0)], 200)
    found = sweep(other, *[one] * 5)
    assert found.best_mm3 == 50.0
    assert found.volume_mm3 == 5.0
    found = sweep(other, other, *[one] * 4)  # two of six: 1/3 of it on average, standard error 0.21
    assert found.volume_mm3 == 50.0


def test_a_structure_that_was_found_must_not_be_lost():
    many = [made_case([(100, 100), (8, 0), (9, 0)], 100) for _ in range(20)]
    barely = made_case([(8, 1)], 200)  # found in part; without its component the mean would rise all the same
    found = sweep(*many, barely)
    assert found.volume_mm3 is None
    assert found.is_loss
    assert found.verdict.after > found.verdict.before


def test_false_alarms_that_vanish_leave_the_mean():
    found = sweep(made_case([(100, 100)], 120), made_case([(5, 0)], 0))
    assert found.verdict.before == pytest.approx(200 / 220 / 2)
    assert found.verdict.after == pytest.approx(200 / 220)
    assert found.volume_mm3 == 7.0


def test_without_any_true_structure_there_is_nothing_to_go_by():
    assert sweep(made_case([(5, 0)], 0)).tried == ()
    assert sweep(made_case([], 10)).tried == ()
    assert sweep_volumes([], {"lesion": None}, "lesion", lambda volume, spacing: 1).tried == ()


def test_a_sweep_is_one_phrase():
    yes, no = Verdict(True, 0.5, 0.75, ()), Verdict(False, 0.5, 0.25, ("a", "b"))
    tried = (1.0, 2.0, 5000.0)
    assert describe_sweep(Sweep(tried, 2.0, 2.0, yes)) == "below 2 mm³ (3 volumes from 1 to 5000 mm³ tried)"
    assert describe_sweep(Sweep(tried, 1.0, 2.0, yes)) == (
        "below 1 mm³ (3 volumes from 1 to 5000 mm³ tried, 2 is better by no more than noise)"
    )
    assert describe_sweep(Sweep((7.0,), None, 7.0, no)) == "below 7 mm³ (the only volume that makes a difference)"
    lost = describe_sweep(Sweep((7.0,), None, 7.0, yes, is_loss=True))
    assert lost == "a structure that was found would be lost, below 7 mm³ (the only volume that makes a difference)"
