"""Slabs of logits give what arrays of the whole volume give, and memory stays within its limit."""

import logging
import re

import blosc2
import nibabel
import numpy as np
import pytest
import torch
from skimage.transform import resize

from autoseg.imaging.arrays.preprocessing import preprocess_case
from autoseg.imaging.arrays.resampling import separate_axis
from autoseg.inference.memory import estimate
from autoseg.inference.models.loading import load_configuration
from autoseg.inference.restoring import restore
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.records.files import write_record
from autoseg.records.prediction import OutputChoices
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.predict import predict_files
from tests.builders import (
    LABELS,
    REGIONS,
    load_exactly,
    make_image,
    make_plan,
    predict_logits,
    write_model,
    write_nifti,
    write_two_configurations,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_two_configurations(tmp_path_factory.mktemp("model"))


def full_array_reference(model, plan, image, spacing):
    """Everything in arrays of the whole volume: network windows, float64 resize, decision, crop, transpose."""
    configuration = plan.configurations["3d_fullres"]
    prepared, _, record = preprocess_case(image, None, spacing, case_id="x", plan=plan, configuration_name="3d_fullres")
    (network,) = load_configuration(Workspace(model), plan, "3d_fullres", (), "final", torch.device("cpu")).networks
    logits = predict_logits(network, torch.from_numpy(prepared), configuration.patch_size, len(plan.encoding.heads))
    shape = [stop - start for start, stop in zip(record.crop_start, record.crop_stop, strict=True)]
    separate = separate_axis(record.spacing, record.original_spacing, configuration.resampling)
    plane = [record.shape[axis] if axis == separate else shape[axis] for axis in range(3)]
    resized = np.stack([resize(head.astype(np.float64), plane, order=1, mode="edge", anti_aliasing=False)
                        for head in logits.numpy()])  # fmt: skip
    if separate is not None:
        old, new = record.shape[separate], shape[separate]
        nearest = np.rint((np.arange(new) + 0.5) * old / new - 0.5 - 1e-9).astype(int)
        resized = np.take(resized, nearest, axis=1 + separate)
    cropped, clear = decide(resized, plan.encoding)
    labels, known = np.zeros(record.original_shape, dtype=int), np.ones(record.original_shape, dtype=bool)
    box = tuple(slice(start, stop) for start, stop in zip(record.crop_start, record.crop_stop, strict=True))
    labels[box], known[box] = cropped, clear
    order = np.argsort(record.transpose)
    return np.array(plan.encoding.values)[labels.transpose(order)], known.transpose(order), separate


def decide(resized, encoding):
    """Label indices, and where float32 cannot change the decision."""
    if encoding.activation == "softmax":
        best = np.sort(resized, axis=0)
        return resized.argmax(axis=0), best[-1] - best[-2] > 1e-4
    painted = np.zeros(resized.shape[1:], dtype=int)
    for head, description in zip(resized, encoding.heads, strict=True):
        painted[head > 0] = description.painted_index
    return painted, (np.abs(resized) > 1e-4).all(axis=0)


MANY = {"background": 0} | {f"part_{value}": value for value in range(1, 105)}


@pytest.mark.parametrize(
    ("labels", "spacing", "planned", "transpose"),
    [
        (LABELS, (2.0, 1.0, 0.8), (1.7, 1.2, 1.2), (0, 1, 2)),
        (MANY, (1.0, 1.0, 1.0), (1.5, 2.1, 2.1), (0, 1, 2)),
        (LABELS, (5.0, 1.0, 0.8), (1.2, 1.1, 1.0), (0, 1, 2)),
        (LABELS, (1.0, 0.8, 5.0), (5.1, 1.2, 1.2), (2, 0, 1)),
        (REGIONS, (2.0, 1.0, 0.8), (1.4, 1.9, 1.2), (1, 2, 0)),
        (REGIONS, (6.0, 1.0, 0.8), (2.0, 1.2, 1.2), (0, 2, 1)),
    ],
)
def test_every_slab_gives_the_label_map_of_full_arrays(tmp_path, monkeypatch, labels, spacing, planned, transpose):
    plan = make_plan({"3d_fullres": planned}, labels=labels, transpose=transpose)
    write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    image = make_image(shape=(19, 31, 28))
    expected, clear, separate = full_array_reference(tmp_path, plan, image[None], spacing)
    assert clear.mean() > 0.99
    assert (separate is None) == (max(spacing) < 3)
    monkeypatch.setattr(restore, "SLAB_VOXELS", 2000)
    found = []
    for storage in estimate.CHOICES:
        monkeypatch.setattr(
            estimate, "CHOICES", (SlabStorage("ram", storage.dtype) if storage.place == "device" else storage,)
        )
        found.append(load_exactly(tmp_path, mirroring=False).predict(image, spacing=spacing).labels)
    exact, in_file, half = found[1:]
    np.testing.assert_array_equal(in_file, exact)
    np.testing.assert_array_equal(exact[clear], expected[clear])
    assert len(np.unique(exact)) > 2
    assert (half == exact).mean() > 0.97


def test_memory_is_said_and_its_limit_kept(tmp_path, model, caplog):
    image = write_nifti(make_image(), tmp_path / "a.nii.gz")
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        assert predict_files(load_exactly(model, max_memory=10**12), image, tmp_path / "out") == []
    (said,) = [message for message in caplog.messages if message.startswith("a: ")]
    assert re.fullmatch(
        r"a: about \d\.\d\d GB of memory at the peak of 1000\.00 GB; sums of windows in RAM, float32", said
    )
    (failure,) = predict_files(load_exactly(model, max_memory=10**7), image, tmp_path / "out")
    assert re.match(r"case a: needs about \d\.\d\d GB of memory.*; 0\.01 GB are allowed", failure.error)


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
@pytest.mark.parametrize("axes", ["LPS", "SRA"])
def test_probabilities_in_a_file_are_those_in_memory(tmp_path, labels, axes):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2), "2d": (1.1, 0.9)}, labels=labels, transpose=(1, 0, 2))
    write_model(tmp_path, plan, {"3d_fullres": ("0",), "2d": ("0",)})
    selection = Selection(
        configurations=("3d_fullres", "2d"), folds=("0",), mean_foreground_dice=None, candidates=(), reasons=()
    )
    write_record(selection, tmp_path / "selection.json")
    image = nibabel.load(write_nifti(make_image(), tmp_path / "a.nii.gz"))
    codes = nibabel.orientations.axcodes2ornt(axes)
    change = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), codes)
    nibabel.save(image.as_reoriented(change), tmp_path / "turned.nii.gz")
    predictor = load_exactly(tmp_path)
    expected = predictor.predict(tmp_path / "turned.nii.gz", probabilities=True)
    assert expected.probabilities is not None
    assert (
        predict_files(predictor, tmp_path / "turned.nii.gz", tmp_path / "out", OutputChoices(probabilities=True)) == []
    )
    stored = blosc2.open(str(tmp_path / "out" / "turned_probabilities.b2nd"), mode="r")
    np.testing.assert_array_equal(stored[:], expected.probabilities)
    values = stored[:].astype(np.float32)
    assert (values.sum(axis=0) < 1 - 2e-3).any() == (labels is REGIONS)
    assert float(values.max()) <= 1
