"""Prediction from files and objects in memory, with an untrained network."""

import json
import logging
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from scipy.ndimage import label as components
from skimage.transform import resize
from typing_extensions import override

from autoseg.errors import PredictionError, UsageError
from autoseg.imaging.arrays.preprocessing import preprocess_case
from autoseg.imaging.arrays.resampling import separate_axis
from autoseg.inference.memory import estimate
from autoseg.inference.models.loading import load_configuration
from autoseg.inference.models.stream import stream_case_logits
from autoseg.inference.predictor import case_predictor
from autoseg.inference.restoring import restore
from autoseg.inference.restoring.restore import LogitStream, restore_labels, restore_on_grid
from autoseg.inference.sinks.probabilities import ProbabilityVolume
from autoseg.inference.windows import sliding_window
from autoseg.inference.windows.logit_slab import LogitSlab, SlabStorage
from autoseg.records.files import write_record
from autoseg.records.network import ResamplingSpec
from autoseg.records.prediction import OutputChoices
from autoseg.records.selection import KeepLargestComponent, Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.predict import PredictionOptions, Predictor, RunOptions, predict_files
from tests.builders import (
    CASCADE,
    LABELS,
    REGIONS,
    SHAPE,
    SPACING,
    make_cascade_plan,
    make_image,
    make_plan,
    predict_logits,
    write_model,
    write_nifti,
)

TIMES = ("read", "preprocess", "network", "export")


def load(model, **options):
    """Exact arithmetic, so that label maps can be compared voxel by voxel."""
    return Predictor(model, PredictionOptions(device="cpu", precision="fp32", **options))


def float_probabilities(prediction):
    return prediction.probabilities.astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2), "2d": (1.1, 0.9)})
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, plan, {"3d_fullres": ("0", "1"), "2d": ("0",)})
    return folder


@pytest.fixture(scope="module")
def predictor(model):
    return load(model)


def test_steps_by_hand_give_the_same(model, predictor):
    image = make_image()
    plan = predictor.plan
    prepared, _, record = preprocess_case(
        image[None], None, SPACING, case="x", plan=plan, configuration="3d_fullres"
    )  # fmt: skip
    members = load_configuration(Workspace(model), plan, "3d_fullres", (), "final", torch.device("cpu")).networks
    logits = torch.stack([
        predict_logits(network, torch.from_numpy(prepared), (12, 16, 20), 3, (0, 1, 2)) for network in members
    ]).mean(dim=0)  # fmt: skip
    answer = LogitStream(logits.unbind(1), record, plan.configurations["3d_fullres"].resampling)
    indices = restore_labels([answer], plan.encoding)
    prediction = predictor.predict(image, spacing=SPACING)
    assert prediction.labels.shape == SHAPE
    assert prediction.labels.dtype == np.uint16
    expected = np.array([0, 3, 300])[indices]
    assert (prediction.labels == expected).mean() > 0.9999  # the order of sums differs
    assert len(np.unique(prediction.labels)) == 3
    assert set(prediction.seconds) == {"read", "preprocess", "network", "export"}
    assert min(prediction.seconds.values()) >= 0
    assert prediction.grid.shape == SHAPE


def test_all_kinds_of_input_agree(tmp_path, predictor):
    image = make_image()
    expected = predictor.predict(image, spacing=SPACING).labels
    path = write_nifti(image, tmp_path / "image.nii.gz")
    itk = SimpleITK.GetImageFromArray(image)
    itk.SetSpacing(SPACING[::-1])
    for given in (path, str(path), [path], nibabel.load(path), itk):
        np.testing.assert_array_equal(predictor.predict(given).labels, expected)
    np.testing.assert_array_equal(predictor.predict(image[None], spacing=SPACING).labels, expected)
    flipped = np.diag([1.0, 1.0, -1.0, 1.0]) @ np.array(
        [[0, 0, -SPACING[2], 0], [0, -SPACING[1], 0, 0], [SPACING[0], 0, 0, 0], [0, 0, 0, 1]]
    )
    upside_down = predictor.predict(image[::-1], spacing=SPACING, affine=tuple(map(tuple, flipped.tolist())))
    np.testing.assert_array_equal(upside_down.labels[::-1], expected)


def test_spacing_goes_with_arrays_only(tmp_path, predictor):
    with pytest.raises(UsageError, match="an array needs spacing"):
        predictor.predict(make_image())
    with pytest.raises(UsageError, match="spacing and affine belong to arrays"):
        predictor.predict(write_nifti(make_image(), tmp_path / "a.nii.gz"), spacing=SPACING)


@pytest.mark.parametrize("axes", ["LPS", "SRA", "PIR"])
def test_three_orientations_give_the_same_labels_in_their_own_grid(tmp_path, predictor, axes):
    path = write_nifti(make_image(), tmp_path / "image.nii.gz")
    turned = nibabel.load(path)
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(turned.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    turned = turned.as_reoriented(change)
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    assert predict_files(predictor, path, tmp_path / "out") == []
    assert predict_files(predictor, tmp_path / "turned.nii.gz", tmp_path / "out") == []
    labels = nibabel.load(tmp_path / "out" / "image.nii.gz")
    turned_labels = nibabel.load(tmp_path / "out" / "turned.nii.gz")
    np.testing.assert_array_equal(turned_labels.affine, nibabel.load(tmp_path / "turned.nii.gz").affine)
    np.testing.assert_array_equal(labels.affine, nibabel.load(path).affine)
    np.testing.assert_array_equal(turned_labels.dataobj, labels.as_reoriented(change).dataobj)
    assert len(np.unique(labels.dataobj)) == 3


OBLIQUE = np.array([[0.94, -0.2, 0.28], [0.25, 0.96, -0.15], [-0.24, 0.21, 0.95]])
"""About 20 degrees off every axis; made orthonormal below."""

UNCHANGED_FIELDS = (
    "sizeof_hdr", "dim_info", "dim", "intent_code", "intent_name", "pixdim", "xyzt_units", "descrip", "aux_file",
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "slice_code", "slice_duration", "toffset", "magic", "vox_offset",
)  # fmt: skip
"""Of a NIfTI header: all but what says of which type the voxels are, and how to scale and show them."""


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SRA", "PIR", "ILP", "ASL"])
@pytest.mark.parametrize("oblique", [False, True])
def test_any_orientation_gives_the_same_labels_under_its_own_header(tmp_path, predictor, axes, oblique):
    rotation = np.linalg.svd(OBLIQUE)[0] @ np.linalg.svd(OBLIQUE)[2] if oblique else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-SPACING[2], -SPACING[1], SPACING[0]])
    affine[:3, 3] = (10.25, 20, -30)
    image = nibabel.Nifti1Image(make_image().transpose(2, 1, 0), affine)
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
    )
    turned = image.as_reoriented(change)
    turned.header.set_qform(turned.affine, 1)
    turned.header.set_sform(turned.affine, 2)
    turned.header["descrip"], turned.header["slice_duration"] = b"by hand", 0.125
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    assert predict_files(predictor, tmp_path / "turned.nii.gz", tmp_path / "out") == []
    given, found = nibabel.load(tmp_path / "turned.nii.gz"), nibabel.load(tmp_path / "out" / "turned.nii.gz")
    for field in UNCHANGED_FIELDS:
        assert given.header[field].tobytes() == found.header[field].tobytes(), field
    expected = predictor.predict(make_image(), spacing=SPACING).labels.transpose(2, 1, 0)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(
        np.asarray(found.dataobj), nibabel.Nifti1Image(expected, affine).as_reoriented(change).dataobj
    )


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_an_oblique_itk_image_keeps_its_geometry(tmp_path, predictor, ending):
    """To the bit in MetaImage; NRRD stores direction times spacing, which ITK rounds when it takes them apart."""
    image = SimpleITK.GetImageFromArray(make_image())
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((1 / 3, -2.7, 1e-3))
    image.SetDirection((np.linalg.svd(OBLIQUE)[0] @ np.linalg.svd(OBLIQUE)[2]).ravel().tolist())
    SimpleITK.WriteImage(image, tmp_path / f"a{ending}")
    assert predict_files(predictor, tmp_path / f"a{ending}", tmp_path / "out") == []
    given, found = (SimpleITK.ReadImage(folder / f"a{ending}") for folder in (tmp_path, tmp_path / "out"))
    tolerance = 0 if ending == ".mha" else 1e-15
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(found, name)(), getattr(given, name)(), rtol=0, atol=tolerance)
    expected = predictor.predict(make_image(), spacing=SPACING).labels
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), expected)


def test_orientations_of_real_files(tmp_path, shared, predictor):
    made = shared / "data" / "odd_files" / "made"
    names = ("image_ok", "image_flip_LPS", "image_permuted_SRA", "image_permuted_flipped_PIR")
    labels = []
    for name in names:
        assert predict_files(predictor, made / f"{name}.nii.gz", tmp_path) == []
        found, given = nibabel.load(tmp_path / f"{name}.nii.gz"), nibabel.load(made / f"{name}.nii.gz")
        np.testing.assert_array_equal(found.affine, given.affine)
        assert found.shape == given.shape
        for code in ("qform_code", "sform_code", "xyzt_units", "quatern_b", "qoffset_x", "srow_x"):
            np.testing.assert_array_equal(found.header[code], given.header[code])
        np.testing.assert_array_equal(found.header["pixdim"][:4], given.header["pixdim"][:4])
        labels.append(np.asarray(nibabel.as_closest_canonical(found).dataobj))
    for other in labels[1:]:
        np.testing.assert_array_equal(other, labels[0])
    assert len(np.unique(labels[0])) > 1


def test_two_dimensional_slices_do_not_see_each_other(tmp_path):
    plan = make_plan({"2d": (1.1, 0.9)}, normalization="none")
    write_model(tmp_path, plan, {"2d": ("0",)})
    predictor = load(tmp_path)
    image = make_image()
    before = predictor.predict(image, spacing=SPACING).labels
    assert before.shape == SHAPE
    assert len(np.unique(before)) > 1
    mirrored = image.copy()
    mirrored[5:] = image[5:, :, ::-1]
    after = predictor.predict(mirrored, spacing=SPACING).labels
    np.testing.assert_array_equal(before[:5], after[:5])
    assert (before[5:] != after[5:]).any()


def test_selection_with_two_configurations_and_postprocessing(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    step = KeepLargestComponent(labels=("anterior", "posterior"))
    selection = Selection(
        configurations=("3d_fullres", "2d"), folds=("0",), mean_foreground_dice=None, candidates=(), reasons=()
    )
    write_record(selection, folder / "selection.json")
    image = make_image()
    both = load(folder).predict(image, spacing=SPACING, probabilities=True)
    single = [
        load(folder, configuration=name, folds=["0"]).predict(image, spacing=SPACING, probabilities=True)
        for name in ("3d_fullres", "2d")
    ]
    mean = np.mean([float_probabilities(member) for member in single], axis=0)
    np.testing.assert_allclose(float_probabilities(both), mean, atol=2e-3)
    best = np.sort(mean, axis=0)
    clear = best[-1] - best[-2] > 5e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(both.labels[clear], np.array([0, 3, 300])[mean.argmax(axis=0)][clear])
    foreground, found = components(both.labels, np.ones((3, 3, 3)))
    assert found > 1, "otherwise keeping the largest changes nothing"
    write_record(selection.model_copy(update={"postprocessing": (step,)}), folder / "selection.json")
    cleaned = load(folder).predict(image, spacing=SPACING).labels
    sizes = np.bincount(foreground.ravel())[1:]
    np.testing.assert_array_equal(cleaned, np.where(np.isin(foreground, 1 + np.flatnonzero(sizes == sizes.max())),
                                                    both.labels, 0))  # fmt: skip


def test_regions(tmp_path):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, labels=REGIONS)
    write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    prediction = load(tmp_path).predict(make_image(), spacing=SPACING, probabilities=True)
    whole, core, enhancing = (head > 0.5 for head in float_probabilities(prediction))
    painted = np.zeros(SHAPE, dtype=np.uint8)
    for region, value in ((whole, 1), (core, 2), (enhancing, 3)):
        painted[region] = value
    close = (np.abs(float_probabilities(prediction) - 0.5) < 1e-3).any(axis=0)
    np.testing.assert_array_equal(prediction.labels[~close], painted[~close])
    assert prediction.labels.any()


def one_hot(indices, labels):
    return np.stack([indices == index for index in range(1, labels + 1)]).astype(np.float32)


def cascade_by_hand(model, plan, image):
    """Both stages one after the other; probabilities by head on the image's grid."""
    cpu, workspace = torch.device("cpu"), Workspace(model)
    heads = len(plan.encoding.heads)
    answers: list[LogitStream] = []
    for name in ("3d_lowres", CASCADE):
        prepared, _, record = preprocess_case(image, None, SPACING, case="x", plan=plan, configuration=name)
        if name == CASCADE:
            indices = restore_on_grid(answers[-1], record, plan.encoding)
            assert len(np.unique(indices)) > 2, "otherwise a wrong channel order goes unseen"
            channels = one_hot(indices, len(plan.encoding.values) - 1)
            prepared = np.concatenate([prepared, channels])
        networks = load_configuration(workspace, plan, name, (), "final", cpu).networks
        logits = torch.stack([
            predict_logits(network, torch.from_numpy(prepared), (12, 16, 20), heads, (0, 1, 2)) for network in networks
        ]).mean(dim=0)  # fmt: skip
        answers.append(LogitStream(logits.unbind(1), record, plan.configurations[name].resampling))
    return restore_labels(answers[1:], plan.encoding)


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_a_cascade_is_both_stages_by_hand(tmp_path, labels):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2), labels=labels, channel_names=("T1", "T2"))
    write_model(tmp_path, plan, {"3d_lowres": ("0", "1"), CASCADE: ("0", "1")})
    image = np.stack([make_image(1), make_image(2)])
    expected = np.array(plan.encoding.values)[cascade_by_hand(tmp_path, plan, image)]
    prediction = load(tmp_path).predict(image, spacing=SPACING, probabilities=True)
    assert (prediction.labels == expected).mean() > 0.9999  # the order of sums differs
    assert len(np.unique(prediction.labels)) > 2
    assert prediction.probabilities.shape == (len(plan.encoding.heads), *SHAPE)
    if labels is LABELS:
        probabilities = float_probabilities(prediction)
        clear = np.sort(probabilities, axis=0)[-1] - np.sort(probabilities, axis=0)[-2] > 5e-3
        np.testing.assert_array_equal(prediction.labels[clear], np.array([0, 3, 300])[probabilities.argmax(0)][clear])


def test_the_first_stage_matters_and_is_gone_before_the_second(tmp_path, monkeypatch):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2))
    write_model(tmp_path, plan, {"3d_lowres": ("0",), CASCADE: ("0",)})
    earlier: list[weakref.ref[LogitSlab]] = []

    class WatchedSlab(LogitSlab):
        def __init__(self, *arguments):
            assert [reference() for reference in earlier] == [None] * len(earlier)
            super().__init__(*arguments)
            earlier.append(weakref.ref(self))

    monkeypatch.setattr(sliding_window, "LogitSlab", WatchedSlab)
    before = load(tmp_path).predict(make_image(), spacing=SPACING).labels
    assert len(earlier) == 2
    monkeypatch.setattr(
        case_predictor, "restore_on_grid", lambda _stream, grid, *_arguments: np.ones(grid.shape, dtype=np.int16)
    )
    earlier.clear()
    assert (load(tmp_path).predict(make_image(), spacing=SPACING).labels != before).any()


def test_a_plan_may_bring_the_label_map_of_the_whole_image_to_the_next_stage(tmp_path, monkeypatch):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2))
    rule = ResamplingSpec(separate_through_plane="never")
    changes = {"previous_labels": "label_map", "resampling": rule, "preprocessed_as": CASCADE}
    cascade = plan.configurations[CASCADE].model_copy(update=changes)
    plan = plan.model_copy(update={"configurations": {**plan.configurations, CASCADE: cascade}})
    write_model(tmp_path, plan, {"3d_lowres": ("0",), CASCADE: ("0",)})
    seen = []

    def watch(loaded, image, previous, **options):
        seen.append(previous)
        return stream_case_logits(loaded, image, previous, **options)

    monkeypatch.setattr(case_predictor, "stream_case_logits", watch)
    load(tmp_path, configuration=CASCADE).predict(make_image(), spacing=SPACING)
    first, brought = seen
    assert first is None
    values = load(tmp_path, configuration="3d_lowres").predict(make_image(), spacing=SPACING).labels
    cropped = values[:, 3:]  # what the image leaves black
    shares = [
        resize((cropped == value).astype(float), brought.shape, order=1, mode="edge", anti_aliasing=False)
        for value in (0, 3, 300)
    ]
    clear = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] > 1e-6  # ties may fall either way
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(brought[clear], np.argmax(shares, axis=0)[clear])
    changes = {"previous_labels": "logits"}
    cascade = cascade.model_copy(update=changes)
    plan = plan.model_copy(update={"configurations": {**plan.configurations, CASCADE: cascade}})
    write_model(tmp_path, plan, {"3d_lowres": ("0",), CASCADE: ("0",)})
    load(tmp_path, configuration=CASCADE).predict(make_image(), spacing=SPACING)
    assert (seen[-1][clear] != brought[clear]).any()


def test_a_cascade_says_both_its_stages(tmp_path, caplog):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2))
    write_model(tmp_path, plan, {"3d_lowres": ("0", "1", "2"), "3d_fullres": ("0",), CASCADE: ("0", "1")})
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        load(tmp_path)
    assert caplog.messages == [
        "predicting with 3d_cascade_fullres (fold(s) 0, 1) after 3d_lowres (fold(s) 0, 1); post-processing: none"
    ]


def test_transposed_plan(tmp_path):
    plan = make_plan({"3d_fullres": (1.2, 2.0, 1.2)}, transpose=(1, 0, 2))
    write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    image = make_image()
    labels = load(tmp_path).predict(image, spacing=SPACING).labels
    assert labels.shape == SHAPE
    # the same network on the transposed image, planned without a transpose
    write_model(tmp_path, plan.model_copy(update={"transpose": (0, 1, 2), "orientation": "as_stored"}),
                {"3d_fullres": ("0",)})  # fmt: skip
    turned = load(tmp_path).predict(image.transpose(1, 0, 2), spacing=(SPACING[1], SPACING[0], SPACING[2]))
    np.testing.assert_array_equal(turned.labels.transpose(1, 0, 2), labels)


def full_array_reference(model, plan, image, spacing):
    """Everything in arrays of the whole volume: network windows, float64 resize, decision, crop, transpose."""
    configuration = plan.configurations["3d_fullres"]
    prepared, _, record = preprocess_case(image, None, spacing, case="x", plan=plan, configuration="3d_fullres")
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
        found.append(load(tmp_path, mirroring=False).predict(image, spacing=spacing).labels)
    exact, in_file, half = found[1:]
    np.testing.assert_array_equal(in_file, exact)
    np.testing.assert_array_equal(exact[clear], expected[clear])
    assert len(np.unique(exact)) > 2
    assert (half == exact).mean() > 0.97


def test_memory_is_said_and_its_limit_kept(tmp_path, model, caplog):
    image = write_nifti(make_image(), tmp_path / "a.nii.gz")
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        assert predict_files(load(model, max_memory=10**12), image, tmp_path / "out") == []
    (said,) = [message for message in caplog.messages if message.startswith("a: ")]
    assert re.fullmatch(
        r"a: about \d\.\d\d GB of memory at the peak of 1000\.00 GB; sums of windows in RAM, float32", said
    )
    (failure,) = predict_files(load(model, max_memory=10**7), image, tmp_path / "out")
    assert re.match(r"case a: needs about \d\.\d\d GB of memory.*; 0\.01 GB are allowed", failure.error)


def test_the_callers_array_stays(tmp_path):
    plan = make_plan({"3d_fullres": SPACING})  # not resampled, so that it could be normalised in place
    write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    image = make_image()
    before = image.copy()
    labels = load(tmp_path).predict(image, spacing=SPACING).labels
    np.testing.assert_array_equal(image, before)
    path = write_nifti(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(load(tmp_path).predict(path).labels, labels)


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
    predictor = load(tmp_path)
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


def test_channels_must_fit(tmp_path, model):
    with pytest.raises(PredictionError, match=r"image: has 2 channel\(s\), the model expects 1: MR"):
        load(model).predict(np.zeros((2, 4, 5, 6)), spacing=(1.0, 1.0, 1.0))
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, channel_names=("T1", "T2"))
    write_model(tmp_path / "two", plan, {"3d_fullres": ("0",)})
    two = load(tmp_path / "two")
    first = write_nifti(make_image(1), tmp_path / "first.nii.gz")
    second = write_nifti(make_image(2), tmp_path / "second.nii.gz")
    with pytest.raises(PredictionError, match=r"first.nii.gz: has 1 channel\(s\), the model expects 2: T1, T2"):
        two.predict(first)
    stacked = two.predict(np.stack([make_image(1), make_image(2)]), spacing=SPACING).labels
    np.testing.assert_array_equal(two.predict([first, second]).labels, stacked)
    assert (two.predict([second, first]).labels != stacked).any()


def test_folder_with_failures(tmp_path, predictor, shared):
    made = shared / "data" / "odd_files" / "made"
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write_nifti(make_image(1), source / "good_0000.nii.gz")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(make_image(2)), source / "itk.nrrd")
    for name in ("image_truncated", "image_zero_bytes", "image_is_text", "image_nan", "image_4d_2channels"):
        shutil.copy(made / f"{name}.nii.gz", source)
    (source / "itk.nhdr").touch()
    calls = []
    failures = predict_files(predictor, source, output, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 8) for done in range(1, 9)]
    expected = {"image_truncated", "image_zero_bytes", "image_is_text", "image_nan", "image_4d_2channels", "itk"}
    assert {failure.case for failure in failures} == expected
    written = json.loads((output / "failures.json").read_text())
    assert {entry["case"]: entry["error"] for entry in written} == {f.case: f.error for f in failures}
    for entry in written:
        if entry["case"] != "itk":
            assert f"{entry['case']}.nii.gz" in entry["error"]
            assert entry["files"] == [str(source / f"{entry['case']}.nii.gz")]
    by_case = {failure.case: failure.error for failure in failures}
    assert "49 voxels are NaN or infinite" in by_case["image_nan"]
    assert sorted(path.name for path in output.iterdir()) == ["failures.json", "good.nii.gz", "itk.nrrd"]
    for path in source.iterdir():
        if path.name == "itk.nhdr":
            path.unlink()
        elif path.name not in ("good_0000.nii.gz", "itk.nrrd"):
            write_nifti(make_image(3), path)
    assert predict_files(predictor, source, output) == []
    assert not (output / "failures.json").exists()


def test_existing_outputs_can_be_kept(tmp_path, predictor):
    source = tmp_path / "a.nii.gz"
    write_nifti(make_image(), source)
    target = tmp_path / "out" / "a.nii.gz"
    target.parent.mkdir()
    target.write_bytes(b"old")
    assert predict_files(predictor, source, tmp_path / "out", options=RunOptions(skip_existing=True)) == []
    assert target.read_bytes() == b"old"
    assert predict_files(predictor, source, tmp_path / "out") == []
    assert target.read_bytes() != b"old"


def test_the_image_is_never_overwritten(tmp_path, predictor):
    source = write_nifti(make_image(), tmp_path / "a.nii.gz")
    before = source.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (tmp_path, source, tmp_path / "link"):
        for skip_existing in (False, True):
            (failure,) = predict_files(predictor, source, output, options=RunOptions(skip_existing=skip_existing))
            assert "the label map would overwrite an image" in failure.error
    assert source.read_bytes() == before


def test_the_image_of_another_case_is_never_overwritten(tmp_path, predictor):
    first, second = (write_nifti(make_image(), tmp_path / name) for name in ("first.nii.gz", "second.nii.gz"))
    before = second.read_bytes()
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([{"case": "second", "image": first.name}, {"case": "x", "image": second.name}]))
    (failure,) = predict_files(predictor, listed, tmp_path)
    assert failure.case == "second"
    assert "the label map would overwrite an image" in failure.error
    assert second.read_bytes() == before
    assert (tmp_path / "x.nii.gz").is_file()


def test_a_picture_file_is_what_is_written(tmp_path):
    write_model(tmp_path / "model", make_plan({"2d": (1.0, 1.0)}), {"2d": ("0",)})
    model = load(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 255, size=(30, 41)).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels), tmp_path / "m.png")
    before = (tmp_path / "m.png").read_bytes()
    (failure,) = predict_files(model, tmp_path / "m.png", tmp_path / "m.jpg")
    assert "m.png: the label map would overwrite an image" in failure.error
    assert (tmp_path / "m.png").read_bytes() == before
    target = tmp_path / "labels.png"
    target.write_bytes(b"old")
    assert (
        predict_files(model, tmp_path / "m.png", tmp_path / "labels.JPG", options=RunOptions(skip_existing=True)) == []
    )
    assert target.read_bytes() == b"old"


def test_kept_outputs_do_not_hide_clashing_names_and_faulty_cases(tmp_path, predictor):
    image = write_nifti(make_image(), tmp_path / "a.nii.gz").name
    (tmp_path / "l.json").write_text(json.dumps([{"case": "a", "image": image}, {"case": "a", "image": image}]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"old")
    (failure,) = predict_files(predictor, tmp_path / "l.json", tmp_path / "out", options=RunOptions(skip_existing=True))
    assert "another case of this run has the same name" in failure.error


def test_no_label_map_without_its_probabilities(tmp_path, predictor, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(ProbabilityVolume, "write", fail)
    source = write_nifti(make_image(), tmp_path / "a.nii.gz")
    (failure,) = predict_files(predictor, source, tmp_path / "out", OutputChoices(probabilities=True))
    assert failure.error == "disk full"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["failures.json"]


def test_outputs_that_cannot_take_the_label_maps(tmp_path, predictor):
    source = tmp_path / "in"
    source.mkdir()
    write_nifti(make_image(), source / "a.nii.gz")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"notes\.txt: is a file, but not one for a label map"):
        predict_files(predictor, source, tmp_path / "notes.txt")
    with pytest.raises(UsageError, match=r"notes\.txt/out: cannot be written to"):
        predict_files(predictor, source, tmp_path / "notes.txt" / "out")
    with pytest.raises(UsageError, match="cannot be written to"):
        predict_files(predictor, source, Path("/proc/self"))
    shutil.copy(source / "a.nii.gz", source / "b.nii.gz")
    with pytest.raises(UsageError, match=r"names one file for 2 cases; give a folder for several images"):
        predict_files(predictor, source, tmp_path / "result.nii.gz")
    assert not (tmp_path / "result.nii.gz").exists()


def test_failures_of_other_runs_stay(tmp_path, predictor):
    good, bad = write_nifti(make_image(), tmp_path / "good.nii.gz"), tmp_path / "bad.nii.gz"
    bad.touch()
    written, output = tmp_path / "out" / "failures.json", tmp_path / "out" / "result.nii.gz"
    assert [failure.case for failure in predict_files(predictor, bad, output)] == ["bad"]
    assert predict_files(predictor, good, output) == []
    assert [entry["case"] for entry in json.loads(written.read_text())] == ["bad"]
    shutil.copy(good, bad)
    assert predict_files(predictor, bad, output) == []
    assert not written.exists()
    written.write_text('{"of": "another program"}')
    assert predict_files(predictor, good, output) == []
    assert written.read_text() == '{"of": "another program"}'


def test_what_the_reader_notes_is_logged(tmp_path, predictor, caplog):
    image = nibabel.Nifti1Image(make_image().transpose(2, 1, 0), None)
    image.header.set_zooms(SPACING[::-1])
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "a.nii.gz")
    with caplog.at_level(logging.WARNING, "autoseg.predict"):
        assert predict_files(predictor, tmp_path / "a.nii.gz", tmp_path / "out") == []
    assert any(message.startswith("a: the header has no orientation") for message in caplog.messages)


def test_what_predicts_is_said(model, tmp_path, caplog):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    step = KeepLargestComponent(labels=("anterior", "posterior"))
    selection = Selection(
        configurations=("3d_fullres",), folds=("1",), postprocessing=(step,), mean_foreground_dice=None,
        candidates=(), reasons=(),
    )  # fmt: skip
    write_record(selection, folder / "selection.json")
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        load(folder)
    warning, said = caplog.messages
    assert "selection.json: chosen without fold(s) 0 of 3d_fullres" in warning
    assert said == (
        "predicting with 3d_fullres (fold(s) 1); post-processing: keep the largest component of anterior, posterior"
    )
    caplog.clear()
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        load(folder, configuration="3d_fullres")
    assert caplog.messages == ["predicting with 3d_fullres (fold(s) 0, 1); post-processing: none"]


def test_single_file_to_a_named_file(tmp_path, predictor):
    source = write_nifti(make_image(), tmp_path / "a.nii.gz")
    assert predict_files(predictor, source, tmp_path / "deep" / "result.nii") == []
    expected = predictor.predict(source).labels
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "deep" / "result.nii").dataobj).T, expected)
    assert predict_files(predictor, source, tmp_path / "folder", OutputChoices(probabilities=True)) == []
    stored = blosc2.open(str(tmp_path / "folder" / "a_probabilities.b2nd"))[:]
    assert stored.shape == (3, *SHAPE)
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored.astype(np.float32).sum(axis=0), 1, atol=2e-3)
    assert (stored[0, :, :3] == 1).all(), "background is certain outside the crop"


def test_pictures_give_png_and_clashing_names_are_told(tmp_path):
    plan = make_plan({"2d": (1.0, 1.0)}, labels=LABELS, channel_names=("R", "G", "B"), normalization="rgb_0_1")
    write_model(tmp_path / "model", plan, {"2d": ("0",)})
    source = tmp_path / "in"
    source.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, size=(30, 41, 3)).astype(np.uint8)
    picture = SimpleITK.GetImageFromArray(pixels, isVector=True)
    for name in ("a.jpg", "a.png", "b.bmp"):
        SimpleITK.WriteImage(picture, source / name)
    failures = predict_files(load(tmp_path / "model"), source, tmp_path / "out")
    assert [failure.case for failure in failures] == ["a"]
    assert "another case of this run has the same name" in failures[0].error
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "out" / "b.png"))
    assert labels.shape == (30, 41)
    assert set(np.unique(labels)) <= {0, 3, 300}


def test_not_a_model(tmp_path, model):
    with pytest.raises(PredictionError, match=r"not a model, it has no plan\.json"):
        load(tmp_path)
    with pytest.raises(UsageError, match="overlap must be in"):
        load(model, overlap=1.0)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this CPU has no bf16")
def test_half_precision_changes_few_voxels(model, predictor):
    image = make_image()
    exact = predictor.predict(image, spacing=SPACING).labels
    coarse = Predictor(model, PredictionOptions(device="cpu", precision="bf16")).predict(image, spacing=SPACING).labels
    assert (exact == coarse).mean() > 0.9


@pytest.mark.parametrize("has_16_bits", [True, False])
def test_precision_auto_begins_with_float32(tmp_path, monkeypatch, caplog, has_16_bits):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2))
    write_model(tmp_path, plan, {"3d_lowres": ("0",), "3d_fullres": ("0",), CASCADE: ("0",)})
    monkeypatch.setattr("autoseg.networks.devices._cpu_computes_bf16", lambda: has_16_bits)
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        predictor = Predictor(tmp_path, PredictionOptions(configuration=CASCADE, device="cpu"))
    assert {member.passes.current_dtype for member in predictor.members} == {torch.float32}
    assert ("precision float32: this device does not compute in 16 bits" in caplog.messages) is not has_16_bits
    (member,) = predictor.members
    assert member.previous is not None
    trials = [stage.passes.trial for stage in (member, member.previous)]
    assert [trial and trial.candidate for trial in trials] == [torch.bfloat16 if has_16_bits else None] * 2
    exact = Predictor(tmp_path, PredictionOptions(configuration=CASCADE, device="cpu", precision="fp32"))
    image = make_image()
    agreement = predictor.predict(image, spacing=SPACING).labels == exact.predict(image, spacing=SPACING).labels
    assert agreement.mean() > 0.999


def test_files_give_what_images_give_whatever_their_order(tmp_path, predictor):
    source = tmp_path / "in"
    source.mkdir()
    expected = {}
    for seed in range(4):
        path = write_nifti(make_image(seed, (9 + seed, 21 - seed, 26)), source / f"case{seed}.nii.gz")
        expected[path.name] = predictor.predict(path).labels
    assert predict_files(predictor, source, tmp_path / "out") == []
    for name, labels in expected.items():
        written = np.asarray(nibabel.load(tmp_path / "out" / name).dataobj).T
        np.testing.assert_array_equal(written, labels)


def bright_ball(shape=(40, 44, 48)):
    """Noise, and a bright ball of 5 voxels' radius away from the middle."""
    axes = np.ogrid[tuple(map(slice, shape))]
    distance = sum((axis - centre) ** 2 for axis, centre in zip(axes, (12, 30, 14), strict=True))
    noise = np.random.default_rng(1).normal(size=shape)
    return (noise + 40 * (distance < 25)).astype(np.float32)


class Threshold(torch.nn.Module):
    """Bright voxels are the first label, whatever the resolution."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    @override
    def forward(self, image):
        self.seen.append(len(image) * image[0].numel())
        return torch.cat([2.0 - image, image - 2.0, torch.full_like(image, -9.0)], dim=1)


@pytest.mark.parametrize("low_resolution", [False, True])
def test_a_coarse_pass_finds_where_to_look(tmp_path, low_resolution):
    spacings: dict[str, tuple[float, ...]] = {"3d_fullres": (1.0, 1.0, 1.0)}
    if low_resolution:
        spacings["3d_lowres"] = (2.0, 2.0, 2.0)
    folds: dict[str, tuple[str, ...]] = dict.fromkeys(spacings, ("0",))
    write_model(tmp_path, make_plan(spacings), folds)
    answers, voxels = [], []
    for regional in (False, True):
        seen: list[int] = []
        predictor = load(tmp_path, configuration="3d_fullres", region_of_interest=regional)
        parts = predictor.case_predictor
        members = tuple(replace(member, networks=(Threshold(seen),)) for member in parts.members)
        coarse_pass = parts.coarse_pass
        if coarse_pass is not None and coarse_pass.coarser is not None:
            coarser = replace(coarse_pass.coarser, networks=(Threshold(seen),))
            coarse_pass = replace(coarse_pass, coarser=coarser)
        predictor.case_predictor = replace(parts, members=members, coarse_pass=coarse_pass)
        has_coarser = coarse_pass is not None and coarse_pass.coarser is not None
        assert has_coarser == (regional and low_resolution)
        answers.append(predictor.predict(bright_ball(), spacing=(1.0, 1.0, 1.0)).labels)
        voxels.append(sum(seen))
    assert 300 < (answers[0] > 0).sum() < 800
    np.testing.assert_array_equal(*answers)
    assert voxels[1] < voxels[0] / 2


def test_nothing_found_is_looked_for_everywhere(tmp_path):
    write_model(tmp_path, make_plan({"3d_fullres": (1.0, 1.0, 1.0)}), {"3d_fullres": ("0",)})
    image = np.random.default_rng(1).normal(size=(30, 34, 38)).astype(np.float32)
    answers = []
    for regional in (False, True):
        predictor = load(tmp_path, region_of_interest=regional)
        parts = predictor.case_predictor
        members = tuple(replace(member, networks=(Threshold([]),)) for member in parts.members)
        predictor.case_predictor = replace(parts, members=members)
        answers.append(predictor.predict(image, spacing=(1.0, 1.0, 1.0)).labels)
    assert answers[0].any()  # single bright voxels, which the halved image does not show
    np.testing.assert_array_equal(*answers)


def test_no_more_folds_than_allowed(tmp_path):
    plan = make_cascade_plan((4.0, 2.4, 2.4), (2.0, 1.2, 1.2))
    write_model(tmp_path, plan, {"3d_lowres": ("0", "1", "2"), CASCADE: ("0", "1", "2")})
    (member,) = load(tmp_path, configuration=CASCADE, max_folds=2).members
    assert (member.folds, len(member.networks)) == (("0", "1"), 2)
    assert member.previous is not None
    assert (member.previous.folds, len(member.previous.networks)) == (("0", "1"), 2)
