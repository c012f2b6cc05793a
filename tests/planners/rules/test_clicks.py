"""How far a click reaches, by hand."""

import pytest

from autoseg.records.fingerprint import LabelFacts
from planners.rules.clicks import choose_clicks
from tests.builders import make_case_fingerprint, make_configuration, make_fingerprint


def fingerprint_of(*volumes, shape=(9, 21, 26), spacing=(1.0, 1.0, 1.0)):
    cases = [
        make_case_fingerprint(
            f"case{index}", shape, spacing=spacing,
            labels={"a": LabelFacts(voxels=int(volume > 0), volume_mm3=volume, components=1)},
        )
        for index, volume in enumerate(volumes)
    ]  # fmt: skip
    return make_fingerprint(cases)


@pytest.mark.parametrize(
    ("volumes", "patch_size", "expected"),
    [
        ((1000.0, 0.0, 8000.0, 27000.0), (96, 80, 80), 20.0),  # the median label has an edge of 20 mm; absent ones
        ((10**6,), (40, 56, 40), 14.0),  # a quarter of the longest edge
        ((1.0,), (40, 56, 40), 4.0),  # four voxels
        ((0.0,), (40, 56, 40), 14.0),  # nothing is known
    ],
)
def test_a_click_reaches_as_far_as_labels_are_wide_within_limits(volumes, patch_size, expected):
    configuration = make_configuration((1.0, 1.0, 1.0), patch_size=patch_size)
    decided = choose_clicks(fingerprint_of(*volumes), configuration)
    assert decided.value.reach_mm == expected
    assert "quarter of the patch" in decided.reason


def test_single_slices_have_areas():
    configuration = make_configuration((0.5, 0.5), patch_size=(128, 128))
    found = fingerprint_of(500.0, shape=(1, 200, 200), spacing=(5.0, 0.5, 0.5))
    assert choose_clicks(found, configuration).value.reach_mm == 10.0
