"""Unusual cases: against values whose deviation is known."""

import pytest

from autoseg.records.dataset import LabelEncoding
from autoseg.records.fingerprint import LabelFacts
from autoseg.report.page.outliers import find_outliers, flagged_cases, group_outliers
from tests.builders import make_case_fingerprint, make_fingerprint, make_plan
from tests.report.conftest import ENCODING, LABELS


def fingerprint_of(volumes, spacing=None, maxima=None, components=None, encoding: LabelEncoding = ENCODING):
    """A case per volume, mm3; other values are alike unless given by position."""
    cases = []
    for number, volume in enumerate(volumes):
        depth = (spacing or {}).get(number, 3.0)
        parts = (components or {}).get(number, 1)
        lesion = LabelFacts(voxels=round(volume), volume_mm3=float(volume), components=parts if volume else 0)
        cases.append(
            make_case_fingerprint(
                f"case {number}",
                spacing=(depth, 0.9, 0.7),
                channel_ranges=((0.0, (maxima or {}).get(number, 100.0)),),
                labels={"lesion": lesion},
            )
        )
    return make_fingerprint(cases, make_plan(labels=LABELS, encoding=encoding, channel_names=("CT",)))


USUAL = [1000, 1100, 900, 1050, 950, 1000, 1020, 980]


def test_alike_cases_are_not_reported():
    assert find_outliers(fingerprint_of(USUAL)) == ()


def test_a_volume_far_from_the_rest_is_named_with_what_is_usual():
    (outlier,) = find_outliers(fingerprint_of([*USUAL, 9000]))
    assert (outlier.case, outlier.what) == ("case 8", "lesion, volume")
    assert (outlier.found, outlier.usual) == ("9 ml", "1 ml")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"spacing": {2: 9.0}}, "spacing along z"),
        ({"maxima": {2: 4000.0}}, "CT, largest intensity"),
        ({"components": {2: 12}}, "lesion, connected components"),
    ],
)
def test_other_quantities_are_looked_at_even_when_the_rest_is_equal(changes, what):
    (outlier,) = find_outliers(fingerprint_of(USUAL, **changes))
    assert (outlier.case, outlier.what) == ("case 2", what)


def test_small_deviations_are_not_reported_however_alike_the_rest_is():
    assert find_outliers(fingerprint_of(USUAL, spacing={2: 3.6}, components={3: 2})) == ()


def test_a_label_that_nearly_all_cases_have_is_missed():
    (outlier,) = find_outliers(fingerprint_of([*USUAL, 0]))
    assert (outlier.case, outlier.found, outlier.usual) == ("case 8", "absent", "present in 89% of cases")


def test_a_label_that_many_cases_lack_is_no_surprise():
    assert find_outliers(fingerprint_of([*USUAL, 0, 0, 0])) == ()


def test_few_cases_have_no_outliers():
    assert find_outliers(fingerprint_of([1000, 1000, 1000, 90000])) == ()


def test_cases_are_grouped_and_flagged_in_turns():
    outliers = find_outliers(fingerprint_of([*USUAL, 9000, 90000], spacing={0: 9.0}))
    groups = group_outliers(outliers)
    assert {group[0].what: [outlier.case for outlier in group] for group in groups} == {
        "spacing along z": ["case 0"],
        "lesion, volume": ["case 9", "case 8"],
    }
    assert sorted(flagged_cases(groups)[:2]) == ["case 0", "case 9"]
    assert flagged_cases(groups)[2] == "case 8"
