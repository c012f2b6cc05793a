"""Which range of intensities slices show."""

import pytest

from autoseg.records.network import NormalizationSpec
from autoseg.report.page.windows import choose_window, describe_window
from tests.builders import make_plan


def make_ct_plan(**changes):
    plan = make_plan({"3d_fullres": (1.0, 1.0, 1.0)})
    configuration = plan.configurations["3d_fullres"].model_copy(
        update={"normalization": (NormalizationSpec(scheme="ct", std=30.0, **changes),)}
    )
    return plan.model_copy(update={"configurations": {"3d_fullres": configuration}})


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"mean": 100.0, "lower": -20.0, "upper": 220.0}, (-100.0, 300.0)),  # liver
        ({"mean": 400.0, "lower": 90.0, "upper": 1500.0}, (90.0, 1500.0)),  # bone
        ({"mean": -700.0, "lower": -1000.0, "upper": -100.0}, (-1000.0, -100.0)),  # lung
        ({"mean": 0.4, "lower": 0.1, "upper": 0.9}, None),  # not in Hounsfield units
    ],
)
def test_ct_has_a_window_around_its_labels(changes, window):
    assert choose_window(make_ct_plan(**changes)) == window


def test_other_channels_have_none():
    assert choose_window(make_plan({"3d_fullres": (1.0, 1.0, 1.0)})) is None
    assert choose_window(make_plan()) is None
    assert choose_window(None) is None
    assert "percentile" in describe_window(None)
    assert "from -100 to 300 HU" in describe_window((-100.0, 300.0))
