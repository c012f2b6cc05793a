"""Plans of real datasets against the plans that nnU-Net itself made of them, in stored axis order.

The numbers of its plans and what they were made from are in tests/golden/nnunet/real.json, so that the comparison runs
without the data; where the data is at hand, the file is held against data and plans.
"""

import json
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.stages.plan import make_plan
from autoseg.testing import synthetic_fingerprint
from tests.planners.nnunet_values import (
    PLANNERS,
    Values,
    expected_values,
    list_differences,
    make_fingerprint,
    planned_values,
    read_values,
    write_levels,
)

DATASETS = read_values("real.json")
NUM_CASES = {
    "Task04_Hippocampus": 200,
    "Dataset027_ACDC": 40,
    "lung_protonMR": 5,
    "isbi2012_membrane": 20,
    "kvasir_small": 200,
}
PLAN_FILES = {"unet": "", "resenc-m": "M", "resenc-l": "L", "resenc-xl": "XL"}
SCHEMES = {"ZScoreNormalization": "zscore"}
PICTURE_SPACING = (999.0, 1.0, 1.0)


def volume_fingerprint(files: list[Path], num_labels: int) -> Fingerprint:
    """From headers and crop boxes; axes reversed, as nnU-Net reads them."""
    spacings, shapes, fractions = [], [], []
    for file in files:
        image = nibabel.load(file)
        z, y, x = (float(value) for value in image.header.get_zooms()[:3][::-1])
        filled = np.asarray(image.dataobj).transpose(2, 1, 0) != 0  # a box does not need its holes filled
        edges = [np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        depth, height, width = (int(edge[-1] - edge[0]) + 1 for edge in edges)
        spacings.append((z, y, x))
        shapes.append((depth, height, width))
        fractions.append(depth * height * width / filled.size)
    fingerprint = synthetic_fingerprint(spacings, shapes, label_values=range(num_labels))
    return fingerprint.model_copy(update={"median_cropped_fraction": float(np.median(fractions))})


def picture_fingerprint(files: list[Path], channels: tuple[str, ...]) -> Fingerprint:
    sizes = []
    for file in files:
        with Image.open(file) as picture:
            sizes.append(picture.size)
    return synthetic_fingerprint(
        [PICTURE_SPACING] * len(sizes), [(1, height, width) for width, height in sizes], channel_names=channels
    )


def fingerprint_of(name: str, data: Path) -> Fingerprint:
    match name:
        case "Task04_Hippocampus":
            return volume_fingerprint(sorted((data / "msd" / name / "imagesTr").glob("*.nii.gz")), 3)
        case "Dataset027_ACDC":
            return volume_fingerprint(sorted((data / "nnunet_raw" / name / "imagesTr").glob("*.nii.gz")), 4)
        case "lung_protonMR":
            return volume_fingerprint(sorted((data / "plain" / name / "images").glob("*.nii.gz")), 6)
        case "isbi2012_membrane":
            return picture_fingerprint(sorted((data / "png" / name / "images").iterdir()), ("zscore",))
        case _:
            return picture_fingerprint(sorted((data / "png" / name / "images").iterdir()), ("R", "G", "B"))


@pytest.fixture(scope="module", params=NUM_CASES)
def measured(request, shared) -> tuple[str, Fingerprint]:
    """Name and fingerprint of a real dataset, read once for all tests."""
    return request.param, fingerprint_of(request.param, shared / "data")


def values_of_nnunets_plan(theirs: Values) -> Values:
    """Its plan as the flat dictionary of `nnunet_values`, the feature-map size left out: it is not in the plan."""
    configurations = theirs["configurations"]
    (normalization,) = {tuple(made["normalization_schemes"]) for made in configurations.values()}
    (use_mask,) = {tuple(made["use_mask_for_norm"]) for made in configurations.values()}
    values = {
        "configurations": sorted(configurations),
        "transpose": theirs["transpose_forward"],
        "normalization": [SCHEMES[scheme] for scheme in normalization],
        "use_mask": list(use_mask),
    }
    for name, made in configurations.items():
        network = made["architecture"]["arch_kwargs"]
        row = {
            "patch": made["patch_size"],
            "batch": made["batch_size"],
            "spacing": made["spacing"],
            "shape": made["median_image_size_in_voxels"],
            "strides": write_levels("".join(map(str, stride)) for stride in network["strides"]),
            "kernels": write_levels("".join(map(str, kernel)) for kernel in network["kernel_sizes"]),
            "features": write_levels(network["features_per_stage"]),
            "encoder": write_levels(network.get("n_conv_per_stage") or network["n_blocks_per_stage"]),
            "decoder": write_levels(network["n_conv_per_stage_decoder"]),
            "batch_dice": made["batch_dice"],
        }
        values |= {f"{name}.{key}": value for key, value in row.items()}
    return values


def test_no_dataset_is_missing():
    assert set(DATASETS) == set(NUM_CASES)
    assert all(tuple(dataset["planners"]) == PLANNERS for dataset in DATASETS.values())


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("name", NUM_CASES)
def test_plan_has_nnunets_values(name, planner):
    dataset = DATASETS[name]
    made = make_plan(make_fingerprint(dataset["input"]), Budget(), planner)
    assert list_differences(expected_values(dataset, planner), planned_values(made)) == []


@pytest.mark.parametrize("planner", PLANNERS)
def test_plan_of_the_data_itself_has_nnunets_values(measured, planner):
    name, fingerprint = measured
    made = make_plan(fingerprint, Budget(), planner)
    assert list_differences(expected_values(DATASETS[name], planner), planned_values(made)) == []


def test_recorded_input_is_that_of_the_data(measured):
    name, fingerprint = measured
    assert len(fingerprint.cases) == NUM_CASES[name]
    recorded = make_fingerprint(DATASETS[name]["input"])
    assert cases_of(recorded) == cases_of(fingerprint)
    assert recorded.channel_names == fingerprint.channel_names
    assert recorded.labels == fingerprint.labels


def cases_of(fingerprint: Fingerprint) -> Counter[tuple[object, object]]:
    return Counter((case.spacing, case.cropped_shape) for case in fingerprint.cases)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("name", NUM_CASES)
def test_recorded_numbers_are_those_of_nnunets_plan(shared, name, planner):
    file = shared / "peer_oracles" / "plans" / f"{name}__{PLAN_FILES[planner]}.json"
    recorded = expected_values(DATASETS[name], planner)
    elements = [recorded.pop(key) for key in list(recorded) if key.endswith(".elements")]
    assert list_differences(values_of_nnunets_plan(json.loads(file.read_text(encoding="utf-8"))), recorded) == []
    assert len(elements) == len(recorded["configurations"])
