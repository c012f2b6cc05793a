"""Runs over files: which are read and written, kept, refused and listed as failed."""

import json
import logging
import re
import shutil
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from autoseg.errors import UsageError
from autoseg.inference.files.label_maps import find_label_maps
from autoseg.inference.sinks.probabilities import ProbabilityVolume
from autoseg.records.prediction import OutputChoices
from autoseg.stages.predict import RunOptions, predict_files
from tests.builders import (
    LABELS,
    SHAPE,
    SPACING,
    load_exactly,
    make_image,
    make_plan,
    write_model,
    write_nifti,
    write_two_configurations,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_two_configurations(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(model):
    return load_exactly(model)


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


def test_a_link_that_leads_back_to_itself_fails_that_case_alone(tmp_path, predictor):
    images = tmp_path / "images"
    images.mkdir()
    write_nifti(make_image(1), images / "good.nii.gz")
    (images / "loop.nii.gz").symlink_to(images / "pool.nii.gz")
    (images / "pool.nii.gz").symlink_to(images / "loop.nii.gz")
    failures = predict_files(predictor, images, tmp_path / "out")
    assert {failure.case for failure in failures} == {"loop", "pool"}
    assert (tmp_path / "out" / "good.nii.gz").is_file()


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
    model = load_exactly(tmp_path / "model")
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


@pytest.mark.parametrize("choice", ["statistics", "overlay"])
def test_equal_names_with_two_endings_are_not_mixed_up(tmp_path, predictor, choice):
    source = tmp_path / "in"
    source.mkdir()
    image = SimpleITK.ReadImage(write_nifti(make_image(), source / "a.nii.gz"))
    SimpleITK.WriteImage(image, source / "a.nrrd")
    choices = OutputChoices(statistics=choice == "statistics", overlay=choice == "overlay")
    (failure,) = predict_files(predictor, source, tmp_path / "out", choices)
    assert re.search(rf"a\.\S+: has the same case name as \S+a\..*the {choice} of both", failure.error)
    assert len(list((tmp_path / "out").glob("a.n*"))) == 1
    assert predict_files(predictor, source, tmp_path / "both") == []
    assert len(list((tmp_path / "both").glob("a.n*"))) == 2


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


def test_overlays_are_written_beside_label_maps_and_are_no_label_maps(tmp_path, predictor):
    write_nifti(make_image(1), tmp_path / "in" / "a.nii.gz")
    output, choices = tmp_path / "out", OutputChoices(overlay=True)
    assert predict_files(predictor, tmp_path / "in", output, choices) == []
    with Image.open(output / "a_overlay.png") as overlay:
        assert overlay.mode == "RGB"
    assert find_label_maps(output) == {"a": output / "a.nii.gz"}
    (output / "a_overlay.png").unlink()
    predict_files(predictor, tmp_path / "in", output, choices, RunOptions(skip_existing=True))
    assert (output / "a_overlay.png").is_file()


def test_stacks_give_label_maps_on_their_grid(tmp_path, predictor):
    voxels = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint16)
    metadata = {"spacing": SPACING[0], "unit": "mm", "axes": "ZYX"}
    resolution = (1 / SPACING[2], 1 / SPACING[1])
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", voxels, imagej=True, resolution=resolution, metadata=metadata)
    assert predict_files(predictor, tmp_path / "in", tmp_path / "in", OutputChoices(overlay=True)) == []
    written = nibabel.load(tmp_path / "in" / "a.nii.gz")
    assert written.shape == SHAPE[::-1]
    assert written.header.get_zooms() == pytest.approx(SPACING[::-1], rel=1e-5)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "in" / "a.tif"), voxels)


def test_pictures_give_png_and_clashing_names_are_told(tmp_path):
    plan = make_plan({"2d": (1.0, 1.0)}, labels=LABELS, channel_names=("R", "G", "B"), normalization="rgb_0_1")
    write_model(tmp_path / "model", plan, {"2d": ("0",)})
    source = tmp_path / "in"
    source.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, size=(30, 41, 3)).astype(np.uint8)
    picture = SimpleITK.GetImageFromArray(pixels, isVector=True)
    for name in ("a.jpg", "a.png", "b.bmp"):
        SimpleITK.WriteImage(picture, source / name)
    failures = predict_files(load_exactly(tmp_path / "model"), source, tmp_path / "out")
    assert [failure.case for failure in failures] == ["a"]
    assert "another case of this run has the same name" in failures[0].error
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "out" / "b.png"))
    assert labels.shape == (30, 41)
    assert set(np.unique(labels)) <= {0, 3, 300}


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
