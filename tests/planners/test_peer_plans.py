"""Plans of real datasets against the plans that nnU-Net itself made of them, in stored axis order."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.testing import synthetic_fingerprint
from planners.unet import plan

PICTURE_SPACING = (999.0, 1.0, 1.0)


def volume_fingerprint(files: list[Path], num_labels: int) -> Fingerprint:
    """From headers and crop boxes; axes reversed, as nnU-Net reads them."""
    spacings, shapes = [], []
    for file in files:
        image = nibabel.load(file)
        z, y, x = (float(value) for value in image.header.get_zooms()[:3][::-1])
        filled = np.asarray(image.dataobj).transpose(2, 1, 0) != 0  # a box does not need its holes filled
        edges = [np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        depth, height, width = (int(edge[-1] - edge[0]) + 1 for edge in edges)
        spacings.append((z, y, x))
        shapes.append((depth, height, width))
    return synthetic_fingerprint(spacings, shapes, num_labels=num_labels)


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


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Task04_Hippocampus", 200),
        ("Dataset027_ACDC", 40),
        ("lung_protonMR", 5),
        ("isbi2012_membrane", 20),
        ("kvasir_small", 200),
    ],
)
def test_plan_equals_nnunets_own(shared, name, count):
    theirs = json.loads((shared / "peer_oracles" / "plans" / f"{name}__.json").read_text())
    fingerprint = fingerprint_of(name, shared / "data")
    assert len(fingerprint.cases) == count
    ours = plan(fingerprint, Budget())
    assert ours.transpose == tuple(theirs["transpose_forward"])
    assert set(ours.configurations) == set(theirs["configurations"])
    for key, expected in theirs["configurations"].items():
        made = ours.configurations[key]
        network = expected["architecture"]["arch_kwargs"]
        assert made.spacing == tuple(expected["spacing"])
        assert made.median_shape == tuple(expected["median_image_size_in_voxels"])
        assert made.patch_size == tuple(expected["patch_size"])
        assert made.batch_size == expected["batch_size"]
        assert made.training.batch_dice == expected["batch_dice"]
        assert made.network.features == tuple(network["features_per_stage"])
        assert made.network.strides == tuple(map(tuple, network["strides"]))
        assert made.network.kernel_sizes == tuple(map(tuple, network["kernel_sizes"]))
        assert made.network.encoder_convolutions == tuple(network["n_conv_per_stage"])
        assert made.network.decoder_convolutions == tuple(network["n_conv_per_stage_decoder"])
        assert {spec.scheme for spec in made.normalization} == {"zscore"}
        assert expected["normalization_schemes"] == ["ZScoreNormalization"] * len(made.normalization)
        assert [spec.use_mask for spec in made.normalization] == expected["use_mask_for_norm"]
