"""Plans of made-up datasets against the plans that nnU-Net 2.8.1 made of the same fingerprints.

Its own planners (ExperimentPlanner, nnUNetPlannerResEncM, -L, -XL) ran on a `dataset_fingerprint.json` and a
`dataset.json` written for the purpose; what they decided is in tests/golden/nnunet/synthetic.json, every number exact.

Left out, because autoseg differs on purpose; what nnU-Net 2.8.1 does was seen with the same set-up:

- One slice along an axis that is not the coarsest: 30 images of 1 x 400 x 420 voxels at 0.5 x 1.2 x 1.2 mm become a
  3D network with patches of 192 x 1 x 192 and a 2D network across the slice with patches of 1 x 448. autoseg puts the
  single slice first and plans 2D alone.
- Images too small to be pooled once: 7 x 7 x 7 voxels become a network of one level, which gives no output in training
  and raises IndexError in prediction. autoseg pads the patch until there are two levels.
- A target spacing so coarse that an axis is left with no voxel (20 slices of 1 mm at 50 mm): OverflowError. autoseg
  counts one voxel, and plans 2D alone.
"""

import pytest

from autoseg.plugins import find_planner
from tests.planners.nnunet_values import (
    PLANNERS,
    expected_values,
    list_differences,
    make_budget,
    make_fingerprint,
    planned_values,
    read_values,
)

DATASETS = read_values("synthetic.json")
WITH_CASCADE = sorted(name for name, dataset in DATASETS.items() if "3d_lowres" in dataset["planners"]["unet"])


@pytest.fixture(scope="module", params=PLANNERS)
def planner(request):
    """Name and function; looking it up each time would take longer than to plan."""
    return request.param, find_planner(request.param)


@pytest.mark.parametrize("name", DATASETS)
def test_plan_has_nnunets_values(name, planner):
    dataset = DATASETS[name]
    planner_name, plan = planner
    made = plan(make_fingerprint(dataset["input"]), make_budget(dataset["input"]))
    assert list_differences(expected_values(dataset, planner_name), planned_values(made)) == []


@pytest.mark.parametrize("name", ["liver", "memory_4_ct"])
def test_cascade_is_the_full_resolution_but_for_label_channels(name, planner):
    source = DATASETS[name]["input"]
    configurations = planner[1](make_fingerprint(source), make_budget(source)).configurations
    full, cascade = configurations["3d_fullres"], configurations["3d_cascade_fullres"]
    changed = {"network", "estimates", "previous_configuration"}
    assert cascade.model_dump(exclude=changed) == full.model_dump(exclude=changed)
    inputs = {"input_channels"}
    assert cascade.network.model_dump(exclude=inputs) == full.network.model_dump(exclude=inputs)
    label_channels = source.get("labels", 2) - 1
    assert cascade.network.input_channels == full.network.input_channels + label_channels


def test_datasets_reach_every_branch_of_the_rules():
    assert len(DATASETS) >= 90
    transposes = {tuple(dataset["transpose"]) for dataset in DATASETS.values()}
    assert transposes == {(0, 1, 2), (1, 0, 2), (2, 0, 1)}
    schemes = {scheme for dataset in DATASETS.values() for scheme in dataset["normalization"]}
    assert schemes == {"zscore", "ct", "none", "rescale_0_1", "rgb_0_1"}
    plain = {name: dataset["planners"]["unet"] for name, dataset in DATASETS.items()}
    assert len(WITH_CASCADE) >= 20
    assert sum(set(rows) == {"2d"} for rows in plain.values()) >= 4
    lowered = {name: rows["3d_fullres"]["spacing"][0] for name, rows in plain.items() if "3d_fullres" in rows}
    assert lowered["thin_slices_below_plane"] == 1.5 + 1e-5  # the margin above the largest other spacing
    assert 5.0 < lowered["thick_slices"] < 8.0  # between the 10th percentile's neighbours
    assert lowered["far_apart_but_many_slices"] == 5.0
    dropped = plain["low_resolution_dropped"]["3d_fullres"]
    assert 128**3 / 210**3 < 0.25
    assert (dropped["patch"], dropped["batch_dice"]) == ([128] * 3, False)
    halves = [rows["3d_fullres"]["shape"] for rows in plain.values() if "3d_fullres" in rows]
    assert any(edge % 1 == 0.5 for shape in halves for edge in shape)
