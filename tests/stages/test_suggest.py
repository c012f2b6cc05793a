"""Suggestions of a model with random weights: measures against numpy, resuming, and files."""

import csv
import os
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.inference.predictor.images import as_volume
from autoseg.records.files import read_record, write_record
from autoseg.records.suggestions import CaseSigns, Suggestions
from autoseg.records.workspace import Workspace
from autoseg.selection.case_signs import coarse_means, label_volumes, measure_signs
from autoseg.stages import suggest
from autoseg.stages.predict import PredictionOptions, Predictor
from autoseg.stages.suggest import suggest_cases
from tests.builders import SPACING, make_dataset, make_image, make_plan, write_model, write_nifti

OPTIONS = PredictionOptions(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)})
    return write_model(tmp_path_factory.mktemp("model"), plan, {"3d_fullres": ("0", "1")})


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model.root, OPTIONS)


@pytest.fixture
def images(tmp_path):
    for number in range(4):
        write_nifti(make_image(number), tmp_path / "new" / f"n{number}.nii.gz", SPACING)
    shutil.copy(tmp_path / "new" / "n0.nii.gz", tmp_path / "new" / "copy.nii.gz")
    return tmp_path / "new"


def test_signs_are_means_of_the_maps_of_prediction(predictor):
    case_predictor = predictor.case_predictor
    image = make_image(7)
    asked = predictor.predict(image, spacing=SPACING, uncertainty=True)
    signs, prediction = measure_signs(case_predictor, case_predictor.prepare(as_volume(image, SPACING, None)), "a", "o")
    assert np.array_equal(prediction.labels, asked.labels)
    foreground = asked.labels > 0
    counted = foreground | (asked.uncertainty >= 0.1)
    assert signs.uncertainty == pytest.approx(np.asarray(asked.uncertainty, dtype=np.float64)[counted].mean())
    differs = np.asarray(asked.disagreement, dtype=np.float64)
    assert signs.disagreement == pytest.approx(differs[foreground | (differs > 0)].mean())
    assert signs.expected_dice is None


def test_one_network_disagrees_with_its_mirrored_variants(model):
    predictor = Predictor(model.root, replace(OPTIONS, folds=["0"])).case_predictor
    member = replace(predictor.members[0], mirror_axes=(0, 2))
    mirrored = replace(predictor, members=(member,))
    volume = as_volume(make_image(3), SPACING, None)
    signs, prediction = measure_signs(mirrored, mirrored.prepare(volume), "a", "o")
    variants = [replace(predictor, members=(replace(member, mirror_axes=axes),)) for axes in ((), (0,), (2,))]
    maps = [variant.predict(variant.prepare(volume)).labels for variant in variants]
    differs = np.mean([own != prediction.labels for own in maps], axis=0)
    counted = (prediction.labels > 0) | (differs > 0)
    assert signs.disagreement == pytest.approx(differs[counted].mean() if counted.any() else 0, abs=1e-3)
    plain = replace(predictor, members=(replace(member, mirror_axes=()),))
    assert measure_signs(plain, plain.prepare(volume), "a", "o")[0].disagreement is None


def test_cases_are_suggested_and_a_second_run_predicts_nothing(predictor, images, tmp_path, monkeypatch):
    (images / "broken.nii.gz").write_text("not an image")
    write_nifti(np.full_like(make_image(0), 7), images / "constant.nii.gz", SPACING)
    found = suggest_cases(predictor, images, tmp_path / "out", 4)
    suggested = found.suggestions.suggestions
    assert found.suggestions.num_cases == 5
    assert len({own.case for own in suggested} & {"copy", "n0"}) == 1  # of two equal images one is left for last
    assert [failure.partition(":")[0] for failure in found.failures] == ["broken", "constant"]
    assert "constant: the image is constant, every voxel is " in found.failures[1]
    assert read_record(Suggestions, tmp_path / "out" / "suggestions.json") == found.suggestions
    with (tmp_path / "out" / "suggestions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [own.case for own in suggested]
    assert rows[0]["rank"] == "1"
    assert rows[0]["images"].endswith(f"{rows[0]['case']}.nii.gz")
    for own, file in zip(suggested, found.files, strict=True):
        labels = np.asarray(nibabel.load(file.target).dataobj)
        assert file.item.case == own.case
        assert labels.shape == make_image(0).shape[::-1]

    def refuse(*_arguments):
        raise AssertionError("predicted again")

    monkeypatch.setattr(suggest, "measure_signs", refuse)
    assert suggest_cases(predictor, images, tmp_path / "out", 4).suggestions == found.suggestions


def test_a_case_is_measured_again_where_its_image_has_changed(predictor, images, tmp_path):
    first = suggest_cases(predictor, images, tmp_path / "out", 2).suggestions
    write_nifti(make_image(99), images / "n1.nii.gz", SPACING)
    (tmp_path / "out" / "labels" / "n2.nii.gz").unlink()
    signs = tmp_path / "out" / "signs" / "n3.json"
    write_record(read_record(CaseSigns, signs).model_copy(update={"origin": "other weights"}), signs)
    second = suggest_cases(predictor, images, tmp_path / "out", 2).suggestions
    changed = {one.case for one, other in zip(first.signs, second.signs, strict=True) if one != other}
    assert changed == {"n1"}
    assert (tmp_path / "out" / "labels" / "n2.nii.gz").exists()


def test_images_of_the_dataset_are_left_out(model, predictor, images, tmp_path):
    known = Workspace(tmp_path / "w")
    folder = os.path.relpath(images, known.root)
    dataset = make_dataset(["n0", "n1"], read_record(type(predictor.plan), model.plan), folder=folder)
    files = tuple(
        own.model_copy(update={"images": (f"{own.case}.nii.gz",), "label": "l.nii.gz"}) for own in dataset.cases
    )
    write_record(dataset.model_copy(update={"cases": files}), known.dataset)
    found = suggest_cases(predictor, images, tmp_path / "out", 9, known=known)
    assert {own.case for own in found.suggestions.suggestions} == {"copy", "n2", "n3"}
    for case in ("copy", "n2", "n3"):
        (images / f"{case}.nii.gz").unlink()
    with pytest.raises(UsageError, match="all 2 images belong to the labelled dataset"):
        suggest_cases(predictor, images, tmp_path / "out", 9, known=known)


def test_means_of_a_coarse_grid_and_volumes():
    values = np.random.default_rng(0).normal(size=(9, 1, 16)).astype(np.float32)
    means = coarse_means(values)
    assert means.shape == (4, 4, 4)
    assert means[0, 2, 1] == pytest.approx(values[0:3, 0, 4:8].mean(dtype=np.float64))
    assert means[3, 0, 3] == pytest.approx(values[6:9, 0, 12:16].mean(dtype=np.float64))
    labels = np.zeros((2, 3, 4), dtype=np.uint8)
    encoding = make_plan(labels={"background": 0, "one": 10, "two": 20}).encoding
    labels[0, 0, :3] = 20
    assert label_volumes(labels, encoding, 0.5) == {"one": 0.0, "two": 1.5}


def test_the_command_writes_a_table_and_a_page(model, images, capsys):
    assert main(["suggest", str(model.root), "--unlabelled", str(images), "-n", "2", "--device", "cpu", "-q"]) == 0
    printed = capsys.readouterr().out
    assert "To label next, of 5 unlabelled cases" in printed
    page = (model.root / "suggestions" / "suggestions.html").read_text(encoding="utf-8")
    assert page.count("<article") == 2
    assert "number 1" in page
    assert "uncertainty" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_an_exported_model_needs_a_folder(tmp_path, capsys):
    assert main(["suggest", str(tmp_path / "m.zip"), "--unlabelled", str(tmp_path)]) == 2
    assert "say with -o where the suggestions are to be written" in capsys.readouterr().err
