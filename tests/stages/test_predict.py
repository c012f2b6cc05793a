"""Prediction of images with an untrained network: inputs, orientations, recipes, precision."""

import logging
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from scipy.ndimage import label as components

from autoseg.errors import PredictionError, UsageError
from autoseg.imaging.arrays.preprocessing import preprocess_case
from autoseg.inference.models.loading import load_configuration
from autoseg.inference.restoring.restore import LogitStream, restore_labels
from autoseg.records.files import write_record
from autoseg.records.selection import KeepLargestComponent, Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.predict import PredictionOptions, Predictor, predict_files
from tests.builders import (
    CASCADE,
    REGIONS,
    SHAPE,
    SPACING,
    load_exactly,
    make_cascade_plan,
    make_image,
    make_plan,
    predict_logits,
    write_model,
    write_nifti,
    write_two_configurations,
)


def float_probabilities(prediction):
    return prediction.probabilities.astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_two_configurations(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(model):
    return load_exactly(model)


def test_steps_by_hand_give_the_same(model, predictor):
    image = make_image()
    plan = predictor.plan
    prepared, _, record = preprocess_case(
        image[None], None, SPACING, case_id="x", plan=plan, configuration_name="3d_fullres"
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


@pytest.mark.parametrize(
    ("image", "spacing", "message"),
    [
        (None, None, "an image is a file, .*, or an array of numpy with its spacing; found NoneType"),
        (torch.zeros(4, 4, 4), None, "found Tensor"),
        (torch.zeros(4, 4, 4), SPACING, "belong to arrays of numpy; .* found Tensor"),
        ([], None, "needs the file of one channel at least"),
        (np.zeros((4, 4, 4)), (1.0, 1.0), r"three lengths above 0 mm, \(z, y, x\), found \(1.0, 1.0\)"),
        (np.zeros((4, 4, 4)), (1.0, -1.0, 1.0), "three lengths above 0 mm"),
        (np.zeros((4, 0, 4)), SPACING, r"no voxels: its shape is \(1, 4, 0, 4\)"),
        (np.zeros((4, 4)), SPACING, r"expected an array \(C, Z, Y, X\) or \(Z, Y, X\), found the shape \(4, 4\)"),
    ],
)
def test_what_is_no_image_is_refused_in_words(predictor, image, spacing, message):
    with pytest.raises((UsageError, ValueError), match=message):
        predictor.predict(image, spacing=spacing)


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


UNCHANGED_FIELDS = (
    "sizeof_hdr", "dim_info", "dim", "intent_code", "intent_name", "pixdim", "xyzt_units", "descrip", "aux_file",
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "slice_code", "slice_duration", "toffset", "magic", "vox_offset",
)  # fmt: skip


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
    predictor = load_exactly(tmp_path)
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
    both = load_exactly(folder).predict(image, spacing=SPACING, probabilities=True)
    single = [
        load_exactly(folder, configuration=name, folds=["0"]).predict(image, spacing=SPACING, probabilities=True)
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
    cleaned = load_exactly(folder).predict(image, spacing=SPACING).labels
    sizes = np.bincount(foreground.ravel())[1:]
    np.testing.assert_array_equal(cleaned, np.where(np.isin(foreground, 1 + np.flatnonzero(sizes == sizes.max())),
                                                    both.labels, 0))  # fmt: skip


def test_regions(tmp_path):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, labels=REGIONS)
    write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    prediction = load_exactly(tmp_path).predict(make_image(), spacing=SPACING, probabilities=True)
    whole, core, enhancing = (head > 0.5 for head in float_probabilities(prediction))
    painted = np.zeros(SHAPE, dtype=np.uint8)
    for region, value in ((whole, 1), (core, 2), (enhancing, 3)):
        painted[region] = value
    close = (np.abs(float_probabilities(prediction) - 0.5) < 1e-3).any(axis=0)
    np.testing.assert_array_equal(prediction.labels[~close], painted[~close])
    assert prediction.labels.any()


def test_transposed_plan(tmp_path):
    plan = make_plan({"3d_fullres": (1.2, 2.0, 1.2)}, transpose=(1, 0, 2))
    write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    image = make_image()
    labels = load_exactly(tmp_path).predict(image, spacing=SPACING).labels
    assert labels.shape == SHAPE
    # the same network on the transposed image, planned without a transpose
    write_model(tmp_path, plan.model_copy(update={"transpose": (0, 1, 2), "orientation": "as_stored"}),
                {"3d_fullres": ("0",)})  # fmt: skip
    turned = load_exactly(tmp_path).predict(image.transpose(1, 0, 2), spacing=(SPACING[1], SPACING[0], SPACING[2]))
    np.testing.assert_array_equal(turned.labels.transpose(1, 0, 2), labels)


def test_the_callers_array_stays(tmp_path):
    plan = make_plan({"3d_fullres": SPACING})  # not resampled, so that it could be normalised in place
    write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    image = make_image()
    before = image.copy()
    labels = load_exactly(tmp_path).predict(image, spacing=SPACING).labels
    np.testing.assert_array_equal(image, before)
    path = write_nifti(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(load_exactly(tmp_path).predict(path).labels, labels)


def test_channels_must_fit(tmp_path, model):
    with pytest.raises(PredictionError, match=r"image: has 2 channel\(s\), the model expects 1: MR"):
        load_exactly(model).predict(np.zeros((2, 4, 5, 6)), spacing=(1.0, 1.0, 1.0))
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, channel_names=("T1", "T2"))
    write_model(tmp_path / "two", plan, {"3d_fullres": ("0",)})
    two = load_exactly(tmp_path / "two")
    first = write_nifti(make_image(1), tmp_path / "first.nii.gz")
    second = write_nifti(make_image(2), tmp_path / "second.nii.gz")
    with pytest.raises(PredictionError, match=r"first.nii.gz: has 1 channel\(s\), the model expects 2: T1, T2"):
        two.predict(first)
    stacked = two.predict(np.stack([make_image(1), make_image(2)]), spacing=SPACING).labels
    np.testing.assert_array_equal(two.predict([first, second]).labels, stacked)
    assert (two.predict([second, first]).labels != stacked).any()


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
        load_exactly(folder)
    warning, said = caplog.messages
    assert "selection.json: chosen without fold(s) 0 of 3d_fullres" in warning
    assert said == (
        "predicting with 3d_fullres (fold(s) 1); post-processing: keep the largest component of anterior, posterior"
    )
    caplog.clear()
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        load_exactly(folder, configuration="3d_fullres")
    assert caplog.messages == ["predicting with 3d_fullres (fold(s) 0, 1); post-processing: none"]


def test_not_a_model(tmp_path, model):
    with pytest.raises(PredictionError, match=r"not a model, it has no plan\.json"):
        load_exactly(tmp_path)
    with pytest.raises(UsageError, match="overlap must be in"):
        load_exactly(model, overlap=1.0)


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


def test_no_more_folds_than_allowed(tmp_path):
    plan = make_cascade_plan((4.0, 2.4, 2.4), (2.0, 1.2, 1.2))
    write_model(tmp_path, plan, {"3d_lowres": ("0", "1", "2"), CASCADE: ("0", "1", "2")})
    (member,) = load_exactly(tmp_path, configuration=CASCADE, max_folds=2).members
    assert (member.folds, len(member.networks)) == (("0", "1"), 2)
    assert member.previous is not None
    assert (member.previous.folds, len(member.previous.networks)) == (("0", "1"), 2)
