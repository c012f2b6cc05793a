"""Corrections by clicks: what stays, what is certain, what the network gets, files, and what is refused."""

import json

import nibabel
import numpy as np
import pytest
import torch

from autoseg.cli.main import main
from autoseg.errors import InteropError, PredictionError
from autoseg.imaging.arrays.clicks import PlacedClick, make_click_maps
from autoseg.imaging.arrays.preprocessing import preprocess_case
from autoseg.inference.models.loading import load_configuration
from autoseg.records.clicks import Click
from autoseg.records.workspace import Workspace
from autoseg.stages.export import ExportOptions, export_model
from autoseg.stages.export_nnunet import export_nnunet
from autoseg.stages.export_onnx import export_onnx
from tests.builders import (
    REGIONS,
    SHAPE,
    load_exactly,
    make_image,
    make_interactive_plan,
    write_model,
    write_nifti,
)

FOLDS = {"3d_fullres": ("0",), "interactive": ("0", "1")}
SPACING = (2.0, 1.2, 1.2)
ZYX = (4, 10, 12)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    write_model(root, make_interactive_plan(SPACING, reach_mm=6.0), FOLDS)
    return root


@pytest.fixture(scope="module")
def predictor(model):
    return load_exactly(model)


def click(label, zyx=ZYX):
    return Click(label=label, z=zyx[0], y=zyx[1], x=zyx[2])


def millimetres(zyx, spacing=SPACING):
    """Distance of each voxel of SHAPE from one of them."""
    grid = np.indices(SHAPE).reshape(3, -1).T
    return (np.linalg.norm((grid - zyx) * np.array(spacing), axis=1)).reshape(SHAPE)


def make_labels(seed=3, values=(0, 3, 300)):
    return np.random.default_rng(seed).choice(values, size=SHAPE).astype(np.uint16)


def test_far_voxels_stay_near_ones_change_and_the_clicked_one_gets_its_label(predictor):
    labels = make_labels()
    before = labels.copy()
    for label, value in (("anterior", 3), (300, 300), ("background", 0)):
        corrected = predictor.correct(make_image(), labels, [click(label)], spacing=SPACING)
        assert corrected.labels[ZYX] == value
        far = millimetres(ZYX) > 6.0
        np.testing.assert_array_equal(corrected.labels[far], labels[far])
        assert (corrected.labels != labels).any()
        np.testing.assert_array_equal(labels, before)


def test_no_click_changes_nothing_and_the_last_of_two_in_a_voxel_counts(predictor):
    labels = make_labels()
    unchanged = predictor.correct(make_image(), labels, [], spacing=SPACING).labels
    np.testing.assert_array_equal(unchanged, labels)
    both = predictor.correct(make_image(), labels, [click("anterior"), click("posterior")], spacing=SPACING)
    assert both.labels[ZYX] == 300


def test_the_network_gets_image_clicks_and_labels_in_this_order(model, predictor):
    """One window holds the whole image, at the network's own spacing; nothing is cropped."""
    plan, shape = predictor.plan, (9, 15, 18)
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    labels = np.random.default_rng(2).integers(0, 3, size=shape)
    clicks = [PlacedClick(2, (4, 7, 9)), PlacedClick(0, (2, 3, 4))]
    prepared, _, _ = preprocess_case(
        image[None], None, SPACING, case_id="x", plan=plan, configuration_name="interactive"
    )
    maps = make_click_maps(prepared, clicks, 2, SPACING, plan.configurations["interactive"].clicks)
    channels = np.concatenate([prepared, maps, [labels == 1, labels == 2]]).astype(np.float32)
    window = np.zeros((6, 12, 16, 20), dtype=np.float32)
    window[:, 1:10, 0:15, 1:19] = channels
    networks = load_configuration(Workspace(model), plan, "interactive", (), "final", torch.device("cpu")).networks
    with torch.inference_mode():
        logits = sum(network(torch.from_numpy(window)[None])[0] for network in networks)
    answer = np.array([0, 3, 300])[logits.argmax(0).numpy()[1:10, 0:15, 1:19]]
    values = np.array([0, 3, 300])[labels].astype(np.uint16)
    given = [click(300, (4, 7, 9)), click("background", (2, 3, 4))]
    found = predictor.correct(image, values, given, spacing=SPACING).labels
    grid = np.indices(shape).reshape(3, -1).T
    expected = values.copy()
    for place in given:
        near = np.linalg.norm((grid - (place.z, place.y, place.x)) * np.array(SPACING), axis=1).reshape(shape) <= 6.0
        expected[near] = answer[near]
    for place, value in zip(given, (300, 0), strict=True):
        expected[place.z, place.y, place.x] = value
    assert (expected != values).sum() > 50
    assert (found == expected).mean() > 0.999


@pytest.mark.parametrize("axes", ["RAS", "PIL"])
def test_points_in_mm_and_voxels_of_turned_files_are_the_same_place(model, predictor, tmp_path, axes):
    path = write_nifti(make_image(), tmp_path / "image.nii.gz", SPACING)
    turned = nibabel.load(path)
    current = nibabel.orientations.io_orientation(turned.affine)
    wanted = nibabel.orientations.axcodes2ornt(axes)
    turned = turned.as_reoriented(nibabel.orientations.ornt_transform(current, wanted))
    labels = np.zeros(turned.shape[::-1], dtype=np.uint16)
    x, y, z = 5, 6, 4
    world = turned.affine @ (x, y, z, 1)
    point = Click(label="anterior", x_mm=world[0] + 0.1, y_mm=world[1] - 0.1, z_mm=world[2] + 0.1)
    by_point = predictor.correct(turned, labels, [point]).labels
    by_voxel = predictor.correct(turned, labels, [Click(label="anterior", x=x, y=y, z=z)]).labels
    assert by_point[z, y, x] == 3
    np.testing.assert_array_equal(by_point, by_voxel)
    distances = np.linalg.norm(
        (np.indices(labels.shape).reshape(3, -1).T - (z, y, x)) * np.array(turned.header.get_zooms()[::-1]), axis=1
    )
    assert not by_point.ravel()[distances > 6.01].any()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            {"x": 26, "y": 0, "z": 0},
            r"click 1 is outside the image: it is at voxel x 26.*x 0 to 25, y 0 to 20, z 0 to 8",
        ),
        ({"x": 0, "y": -1, "z": 0}, "outside the image"),
        ({"x": 0, "y": 0}, "z is missing; the image has 9 slices"),
        ({"x_mm": 1e4, "y_mm": 0.0, "z_mm": 0.0}, r"outside the image: x_mm 10000.*is voxel x -"),
        ({"x": 1, "y": 1, "z": 1, "label": "liver"}, r"its label is 'liver', expected one of background, anterior"),
        ({"x": 1, "y": 1, "z": 1, "label": 7}, r"its label is 7, expected .* a value of label maps: 0, 3, 300"),
    ],
)
def test_clicks_outside_the_image_and_unknown_labels_are_refused(predictor, place, message):
    with pytest.raises(PredictionError, match=message):
        predictor.correct(make_image(), make_labels(), [Click(**({"label": 3} | place))], spacing=SPACING)


def test_other_label_maps_are_refused(predictor):
    with pytest.raises(PredictionError, match=r"has the shape \(9, 21, 25\), expected \(9, 21, 26\)"):
        predictor.correct(make_image(), make_labels()[..., 1:], [click(3)], spacing=SPACING)
    with pytest.raises(PredictionError, match=r"is not of this model: .*7"):
        predictor.correct(make_image(), make_labels(values=(0, 7)), [click(3)], spacing=SPACING)


def test_a_model_without_such_networks_says_how_to_get_them(tmp_path):
    write_model(tmp_path, make_interactive_plan(SPACING), {"3d_fullres": ("0",)})
    with pytest.raises(PredictionError, match=r"no trained network that corrects.*-c interactive"):
        load_exactly(tmp_path).correct(make_image(), make_labels(), [click(3)], spacing=SPACING)


def test_regions_are_clicked_by_name_or_by_value(tmp_path):
    write_model(tmp_path, make_interactive_plan(SPACING, reach_mm=6.0, labels=REGIONS), FOLDS)
    loaded = load_exactly(tmp_path)
    labels = make_labels(values=(0, 1, 2, 3)).astype(np.uint8)
    for label, value in (("core", 2), (3, 3), ("background", 0)):
        corrected = loaded.correct(make_image(), labels, [click(label)], spacing=SPACING).labels
        assert corrected[ZYX] == value
        far = millimetres(ZYX) > 6.0
        np.testing.assert_array_equal(corrected[far], labels[far])


def test_slices_of_a_2d_network_are_corrected_one_by_one(tmp_path):
    write_model(tmp_path, make_interactive_plan((1.2, 1.2), reach_mm=6.0), {"2d": ("0",), "interactive": ("0",)})
    labels = make_labels()
    corrected = load_exactly(tmp_path).correct(make_image(), labels, [click(3)], spacing=SPACING).labels
    assert corrected[ZYX] == 3
    assert (corrected[ZYX[0]] != labels[ZYX[0]]).any()
    far = millimetres(ZYX) > 6.0
    np.testing.assert_array_equal(corrected[far], labels[far])


def write_case(folder, seed=0):
    write_nifti(make_image(seed), folder / "images" / f"case{seed}_0000.nii.gz", SPACING)
    write_nifti(make_labels(seed), folder / "labels" / f"case{seed}.nii.gz", SPACING)


def write_clicks(folder, **cases):
    path = folder / "clicks.json"
    path.write_text(json.dumps({"cases": cases}))
    return path


@pytest.mark.parametrize("first_labels", [True, False])
def test_files_of_the_cases_with_clicks_are_corrected(model, predictor, tmp_path, first_labels, capsys):
    write_case(tmp_path, 0)
    write_case(tmp_path, 1)
    path = write_clicks(tmp_path, case1=[{"label": "posterior", "x": 12, "y": 10, "z": 4}])
    words = ["predict", "-m", str(model), "-i", str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    words += ["--clicks", str(path), "--device", "cpu", "--precision", "fp32", "--statistics", "-q"]
    words += ["--first-labels", str(tmp_path / "labels")] if first_labels else []
    assert main(words) == 0, capsys.readouterr()
    assert [found.name for found in (tmp_path / "out").glob("*.nii.gz")] == ["case1.nii.gz"]
    assert (tmp_path / "out" / "statistics.csv").is_file()
    image = tmp_path / "images" / "case1_0000.nii.gz"
    given = tmp_path / "labels" / "case1.nii.gz" if first_labels else predictor.predict(image).labels
    expected = predictor.correct(image, given, [click("posterior")]).labels
    written = np.asarray(nibabel.load(tmp_path / "out" / "case1.nii.gz").dataobj).T
    np.testing.assert_array_equal(written, expected)
    assert written[ZYX] == 300


def test_images_that_lack_channels_are_corrected_under_their_own_name(tmp_path, capsys):
    plan = make_interactive_plan(SPACING, reach_mm=6.0, channel_names=("t1", "t2"))
    changed = {}
    for name, configuration in plan.configurations.items():
        inputs = configuration.network.input_channels + 2
        network = configuration.network.model_copy(update={"input_channels": inputs})
        changed[name] = configuration.model_copy(update={"network": network, "channel_presence": True})
    write_model(tmp_path / "model", plan.model_copy(update={"configurations": changed}), FOLDS)
    write_nifti(make_image(), tmp_path / "images" / "p7_t2.nii.gz", SPACING)
    path = write_clicks(tmp_path, p7=[{"label": "posterior", "x": 12, "y": 10, "z": 4}])
    words = ["predict", "-m", str(tmp_path / "model"), "-i", str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    assert main([*words, "--clicks", str(path), "--device", "cpu", "--precision", "fp32"]) == 0, capsys.readouterr()
    assert "p7: predicted from t2; without t1" in capsys.readouterr().err
    assert np.asarray(nibabel.load(tmp_path / "out" / "p7.nii.gz").dataobj).T[ZYX] == 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--first-labels", "."], "add --clicks FILE.json"),
        (["--clicks", "clicks.json", "--save-probabilities"], "--save-probabilities is not available with --clicks"),
        (["--clicks", "clicks.json", "--part", "1/2"], "--part is not available with --clicks"),
        (["--clicks", "other.json"], "has clicks for case7, but the images are of case0"),
        (["--clicks", "missing.json"], "missing.json"),
    ],
)
def test_options_that_do_not_fit_have_one_sentence(model, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    write_case(tmp_path)
    write_clicks(tmp_path, case7=[]).rename(tmp_path / "other.json")
    write_clicks(tmp_path, case0=[{"label": 3, "x": 1, "y": 1, "z": 1}])
    words = ["predict", "-m", str(model), "-i", "images", "-o", "out", "--device", "cpu", *options]
    assert main(words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error


def test_a_case_that_fails_is_named_and_does_not_stop_the_others(model, tmp_path, capsys):
    write_case(tmp_path, 0)
    write_case(tmp_path, 1)
    place = {"x": 1, "y": 1, "z": 1}
    path = write_clicks(tmp_path, case0=[{"label": 3, **place, "x": 99}], case1=[{"label": 3, **place}])
    words = ["predict", "-m", str(model), "-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--clicks"]
    assert main([*words, str(path), "--device", "cpu", "-q"]) == 1
    assert "failed: case0: click 1 is outside the image" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "case1.nii.gz").is_file()


def test_an_exported_model_corrects_as_the_original(model, predictor, tmp_path):
    exported = tmp_path / "model.zip"
    manifest = export_model(model, exported)
    assert manifest.configurations == {"3d_fullres": ("0",), "interactive": ("0", "1")}
    assert manifest.selected == ("3d_fullres",)
    found = load_exactly(exported).correct(make_image(), make_labels(), [click(3)], spacing=SPACING).labels
    expected = predictor.correct(make_image(), make_labels(), [click(3)], spacing=SPACING).labels
    np.testing.assert_array_equal(found, expected)
    alone = export_model(model, tmp_path / "alone", ExportOptions(configurations=("3d_fullres",)))
    assert alone.configurations == {"3d_fullres": ("0",)}
    both = export_model(model, tmp_path / "both", ExportOptions(configurations=("3d_fullres", "interactive")))
    assert both.selected == ("3d_fullres",)
    assert "interactive" in both.configurations


@pytest.mark.parametrize(
    ("export", "form", "package"), [(export_onnx, "ONNX", "onnx"), (export_nnunet, "nnU-Net", "torch")]
)
def test_other_formats_have_no_clicks(model, tmp_path, export, form, package):
    pytest.importorskip(package)
    named = ExportOptions(configurations=("interactive",))
    with pytest.raises(InteropError, match=f"interactive takes clicks as input, which {form}.*Leave -c interactive"):
        export(model, tmp_path / "other", named)
