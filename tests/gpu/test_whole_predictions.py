"""Whole predictions on the pretended GPU: recipes of every kind, with every output, give what the CPU gives."""

import csv
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from autoseg.networks.refiner import RefinerNetwork
from autoseg.records.files import hash_file, write_record
from autoseg.records.plan import Plan
from autoseg.records.prediction import OutputChoices
from autoseg.records.selection import PatchSettings, Refinement, RefinementScores, RemoveSmallComponents, Selection
from autoseg.stages.predict import PredictionOptions, Predictor, predict_files
from autoseg.training.refinement import save_refiner
from tests.builders import (
    CASCADE,
    LABELS,
    REGIONS,
    SPACING,
    make_cascade_plan,
    make_image,
    make_network_spec,
    make_plan,
    write_model,
    write_nifti,
)
from tests.gpu.pretended_gpu import PretendedGpu

EVERYTHING = OutputChoices(
    probabilities=True, uncertainty=True, statistics=True, instances=True, colors=True, overlay=True, provenance=True
)
ROUNDING = 2e-3
"""Largest difference of a probability or an entropy, which are kept in float16: one unit there, and sums in another
order."""


def write_ensemble(folder: Path, labels=LABELS, **recipe):
    """A model of two configurations, one of two folds, and the recipe that averages them."""
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2), "2d": (1.1, 0.9)}, labels=labels, transpose=(1, 0, 2))
    workspace = write_model(folder, plan, {"3d_fullres": ("0", "1"), "2d": ("0", "1")})
    names = ("2d", "3d_fullres")
    values = {"mean_foreground_dice": None, "candidates": (), "reasons": ()} | recipe
    write_record(Selection(configurations=names, folds=("0", "1"), **values), workspace.selection)


def write_labels(folder):
    write_ensemble(folder, postprocessing=(RemoveSmallComponents(labels=("anterior",), min_volume_mm3=20.0),))


def write_regions(folder):
    write_ensemble(folder, REGIONS, region_thresholds={"whole": 0.4, "core": 0.55})


def write_cascade(folder, previous_labels):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2))
    last = plan.configurations[CASCADE].model_copy(update={"previous_labels": previous_labels})
    plan = Plan.model_validate(plan.model_copy(update={"configurations": {**plan.configurations, CASCADE: last}}))
    write_model(folder, plan, {"3d_lowres": ("0", "1"), CASCADE: ("0", "1")})


def write_cubic(folder):
    """Logits resized by cubic splines along all axes, and rounded to float16 before."""
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)})
    configuration = plan.configurations["3d_fullres"]
    resampling = configuration.resampling.model_copy(update={"logits_order": 3})
    changed = configuration.model_copy(update={"resampling": resampling, "logits_precision": "float16"})
    plan = plan.model_copy(update={"configurations": {"3d_fullres": changed}})
    write_model(folder, plan, {"3d_fullres": ("0", "1")})


def write_refined(folder):
    """Boundaries are predicted again by two untrained refiners."""
    size = (1, 16, 16)
    network = make_network_spec(2, input_channels=2, output_channels=1, deep_supervision=False)
    paths = [folder / "models" / "refinement" / f"refiner_{index}.safetensors" for index in range(2)]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        refiner = RefinerNetwork(network)
        with torch.no_grad():  # it begins as the identity
            refiner.state_dict()["network.decoder.heads.0.weight"].normal_()
        save_refiner(refiner, path)
    scores = RefinementScores(mean_foreground_dice=None, surface_dice=None, hausdorff_95_mm=None)
    refinement = Refinement(
        patches=PatchSettings(size=size, training_distance=size, prediction_distance=(1, 8, 8)), network=network,
        refiners=tuple(map(hash_file, paths)), tolerance_mm=1.0, before=scores, after=scores,
    )  # fmt: skip
    write_ensemble(folder, refinement=refinement)


MODELS = {
    "labels": write_labels,
    "regions": write_regions,
    "refined": write_refined,
    "cascade": lambda folder: write_cascade(folder, "label_map"),
    "cascade by logits": lambda folder: write_cascade(folder, "logits"),
    "cubic": write_cubic,
}


READERS = {
    ".b2nd": lambda path: np.asarray(blosc2.open(path)[:]),
    ".gz": lambda path: np.asarray(nibabel.load(path).dataobj),
    ".png": lambda path: np.asarray(Image.open(path)),
}


def predictor_of(model, device, **options):
    return Predictor(model, PredictionOptions(device=device, precision="fp32", **options))


def on_both(work):
    """What `work` gives for the CPU, and for the automatic device of a machine with a GPU."""
    expected = work("cpu")
    with PretendedGpu() as gpu:
        found = work("auto")
    assert gpu.bytes_to_device, "the networks never were on the device"
    return expected, found


@pytest.mark.parametrize("write", MODELS.values(), ids=MODELS)
def test_files_with_every_output_are_those_of_the_cpu(tmp_path, write):
    write(tmp_path / "model")
    for seed in (1, 2):
        write_nifti(make_image(seed), tmp_path / "images" / f"case{seed}_0000.nii.gz")

    def predict(device):
        folder = tmp_path / device
        assert predict_files(predictor_of(tmp_path / "model", device), tmp_path / "images", folder, EVERYTHING) == []
        return folder

    expected, found = on_both(predict)
    names = sorted(path.name for path in expected.iterdir())
    assert names == sorted(path.name for path in found.iterdir())
    assert {"case1.nii.gz", "case2_probabilities.b2nd", "case1_uncertainty.nii.gz", "instances.csv"} <= set(names)
    for name in names:
        compare_files(expected / name, found / name)


def compare_files(expected, found):
    kind = expected.name.partition("_")[2].partition(".")[0]
    if expected.suffix == ".csv":
        compare_tables(*(list(csv.reader(path.read_text().splitlines())) for path in (expected, found)))
    if expected.suffix not in READERS:
        return
    read = READERS[expected.suffix]
    first, second = read(expected), read(found)
    if kind in ("probabilities", "uncertainty"):
        np.testing.assert_allclose(second, first, atol=ROUNDING)
    else:
        np.testing.assert_array_equal(second, first)
        assert kind in ("disagreement", "instances") or len(np.unique(first)) > 1


def compare_tables(expected, found):
    assert len(expected) == len(found) > 1
    for first, second in zip(expected, found, strict=True):
        for word, other in zip(first, second, strict=True):
            try:
                assert float(other) == pytest.approx(float(word), abs=ROUNDING)
            except ValueError:
                assert word == other


@pytest.mark.parametrize("has_low_resolution", [False, True])
def test_the_region_of_interest_is_that_of_the_cpu(tmp_path, has_low_resolution):
    plan = make_plan({"3d_lowres": (3.0, 2.0, 1.9), "3d_fullres": (2.0, 1.2, 1.2)})
    names = ("3d_fullres", "3d_lowres") if has_low_resolution else ("3d_fullres",)
    write_model(tmp_path, plan, dict.fromkeys(names, ("0",)))

    def predict(device):
        predictor = predictor_of(tmp_path, device, region_of_interest=True, configuration="3d_fullres")
        return predictor.predict(make_image(3), spacing=SPACING, probabilities=True, instances=True)

    expected, found = on_both(predict)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert len(np.unique(expected.labels)) > 1
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=ROUNDING)


@pytest.mark.parametrize("mirror_axes", [None, "all"])
def test_several_channels_mirrored_or_not_are_those_of_the_cpu(tmp_path, mirror_axes):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, channel_names=("T1", "T2"))
    write_model(tmp_path, plan, {"3d_fullres": ("0", "1")}, mirror_axes=())
    image = np.stack([make_image(1), make_image(2)])

    def predict(device):
        predictor = predictor_of(tmp_path, device, mirror_axes=mirror_axes, overlap=0.25)
        return predictor.predict(image, spacing=SPACING).labels

    expected, found = on_both(predict)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("precision", ["auto", "tf32", "bf16", "fp16"])
def test_fewer_bits_give_almost_the_label_map_of_the_cpu(tmp_path, precision):
    write_model(tmp_path, make_plan({"3d_fullres": (2.0, 1.2, 1.2)}), {"3d_fullres": ("0", "1")})
    expected = predictor_of(tmp_path, "cpu").predict(make_image(5), spacing=SPACING).labels
    with PretendedGpu():
        predictor = Predictor(tmp_path, PredictionOptions(device="auto", precision=precision))
        found = predictor.predict(make_image(5), spacing=SPACING).labels
    assert len(np.unique(expected)) > 1
    assert np.mean(found != expected) < 0.05


def test_a_limit_of_memory_holds_for_a_device_too(tmp_path):
    """One case at a time, read, predicted and written by one thread."""
    write_labels(tmp_path / "model")
    write_nifti(make_image(1), tmp_path / "images" / "a_0000.nii.gz")

    def predict(device):
        predictor = predictor_of(tmp_path / "model", device, max_memory=10**11)
        assert predict_files(predictor, tmp_path / "images", tmp_path / device) == []
        return np.asarray(nibabel.load(tmp_path / device / "a.nii.gz").dataobj)

    expected, found = on_both(predict)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("free_bytes", "place"), [(2**20, "in RAM"), (2**36, "on the device")])
def test_sums_lie_on_the_device_where_it_has_room(tmp_path, caplog, free_bytes, place):
    write_labels(tmp_path)
    expected = predictor_of(tmp_path, "cpu").predict(make_image(4), spacing=SPACING).labels
    caplog.clear()
    with PretendedGpu(free_bytes=free_bytes), caplog.at_level("INFO", "autoseg"):
        found = predictor_of(tmp_path, "auto").predict(make_image(4), spacing=SPACING).labels
    assert place in "".join(caplog.messages)
    np.testing.assert_array_equal(found, expected)


def test_the_bus_carries_image_and_labels_of_a_whole_body_with_105_classes(tmp_path):
    """Proportions of a CT of 512 x 512 x 600 voxels planned at 1.5 mm, an edge a twentieth of that long."""
    labels = {"background": 0, **{f"part {number}": number for number in range(1, 105)}}
    plan = make_plan({"3d_fullres": (1.5, 1.5, 1.5)}, labels=labels)
    write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    image = np.random.default_rng(0).standard_normal((30, 26, 26), dtype=np.float32)

    def predict(device):
        return predictor_of(tmp_path, device).predict(image, spacing=(1.0, 0.8, 0.8)).labels

    expected = predict("cpu")
    with PretendedGpu() as gpu:
        predictor = predictor_of(tmp_path, "auto")
        gpu.bytes_to_device = gpu.bytes_to_host = 0
        found = predictor.predict(image, spacing=(1.0, 0.8, 0.8)).labels
    assert np.mean(found == expected) > 0.9999
    voxels = 512 * 512 * 600
    weights_of_a_window = 4 * 12 * 16 * 20
    carried = gpu.bytes_to_device + gpu.bytes_to_host - weights_of_a_window
    assert carried * voxels / image.size < 0.5e9
