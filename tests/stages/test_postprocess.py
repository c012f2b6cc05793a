"""`autoseg postprocess`: what prediction does with a recipe, done to label maps in files."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from scipy.ndimage import gaussian_filter

from autoseg.cli.main import DONE, SOME_FAILED, UNUSABLE, main
from autoseg.errors import RecordError, UsageError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.files import read_record, write_record
from autoseg.records.selection import (
    FillHoles,
    KeepLargestComponent,
    PostprocessingRecipe,
    RemoveSmallComponents,
    Selection,
)
from autoseg.records.workspace import Workspace
from autoseg.stages.postprocess import postprocess_files, recipe_of_model
from autoseg.stages.predict import PredictionOptions, Predictor, predict_files
from tests.builders import LABELS, REGIONS, make_plan, write_model

STEPS = (
    KeepLargestComponent(labels=("anterior",)),
    RemoveSmallComponents(labels=("posterior",), min_volume_mm3=20.0),
    FillHoles(label="anterior"),
)
RECIPE = PostprocessingRecipe(
    labels={"background": 0, "one": 5, "two": 300},
    steps=(RemoveSmallComponents(labels=("one",), min_volume_mm3=4.0), FillHoles(label="two")),
)
SHAPE, SPACING = (9, 21, 26), (2.5, 1.0, 0.8)


def write_selection(workspace, steps):
    selection = Selection(
        configurations=("3d_fullres",), folds=("0",), postprocessing=steps, mean_foreground_dice=None, candidates=(),
        reasons=(),
    )  # fmt: skip
    write_record(selection, workspace.selection)


def write_images(folder, *, flips=(-1, -1, 1)):
    folder.mkdir()
    for number in range(2):
        blobs = gaussian_filter(np.random.default_rng(number).normal(size=SHAPE), 1.2).astype(np.float32) * 100
        affine = np.diag([flips[0] * SPACING[2], flips[1] * SPACING[1], flips[2] * SPACING[0], 1.0])
        affine[:3, 3] = (10, 20, -30)
        image = nibabel.Nifti1Image(blobs.transpose(2, 1, 0), affine)
        image.header["descrip"] = b"kept"
        nibabel.save(image, folder / f"case{number}.nii.gz")


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_the_recipe_alone_gives_what_prediction_gives(tmp_path, labels):
    """Of stored axes that run against the working ones, so that neither may depend on them."""
    steps = STEPS if labels is LABELS else (
        RemoveSmallComponents(labels=("core",), min_volume_mm3=20.0),
        KeepLargestComponent(labels=("whole",)),
        FillHoles(label="whole"),
    )  # fmt: skip
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, labels=labels)
    workspace = write_model(tmp_path / "model", plan, {"3d_fullres": ("0",)})
    write_images(tmp_path / "images", flips=(1, -1, -1))
    written = {}
    for kind, recipe in (("raw", ()), ("cleaned", steps)):
        write_selection(workspace, recipe)
        predictor = Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))
        assert predict_files(predictor, tmp_path / "images", tmp_path / kind) == []
        written[kind] = [(tmp_path / kind / f"case{number}.nii.gz").read_bytes() for number in range(2)]
    assert written["raw"] != written["cleaned"]

    words = ["-i", str(tmp_path / "raw"), "-o", str(tmp_path / "alone"), "-j", "1"]
    assert main(["postprocess", "-m", str(workspace.root), *words, "--save-recipe", str(tmp_path / "r.json")]) == DONE
    assert [(tmp_path / "alone" / f"case{number}.nii.gz").read_bytes() for number in range(2)] == written["cleaned"]

    words[3] = str(tmp_path / "by_recipe")
    assert main(["postprocess", "--recipe", str(tmp_path / "r.json"), *words]) == DONE
    assert (tmp_path / "by_recipe" / "case1.nii.gz").read_bytes() == written["cleaned"][1]
    header = nibabel.load(tmp_path / "by_recipe" / "case1.nii.gz").header
    assert header["descrip"] == b"kept"


def test_label_maps_are_processed_by_as_many_processes_as_memory_has_room_for(tmp_path, caplog):
    labels = np.zeros(SHAPE[::-1], np.uint16)
    labels[:4] = 5
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")
    caplog.set_level("INFO")
    assert postprocess_files(RECIPE, tmp_path / "in", tmp_path / "out", workers=2, max_memory=130_000_000) == []
    assert "post-processing: 1 instead of 2 worker processes, because the largest case takes about" in caplog.text
    assert sorted(written.name for written in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ({"background": 0, "b": 7, "a": 3, "ignore": 9}, None),
        ({"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}, (2, 1, 3)),
    ],
)
def test_the_recipe_of_a_model_has_its_encoding(tmp_path, labels, order):
    encoding = make_encoding(labels, order)
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}).model_copy(update={"labels": labels, "encoding": encoding})
    workspace = Workspace(tmp_path)
    write_record(plan, workspace.plan)
    write_selection(workspace, (FillHoles(label=list(labels)[1]),))
    recipe = recipe_of_model(workspace)
    assert make_encoding(recipe.labels, recipe.regions_class_order) == encoding
    assert recipe.steps == (FillHoles(label=list(labels)[1]),)


def make_map():
    """A label of 2 and one of 4 voxels, and a ring; its hole is one voxel."""
    labels = np.zeros((3, 7, 8), dtype=np.uint16)
    labels[0, 0, :2] = 5
    labels[2, 0, :4] = 5
    labels[:, 3:6, 3:6] = 300
    labels[1, 4, 4] = 0
    expected = labels.copy()
    expected[0, 0, :2] = 0
    expected[1, 4, 4] = 300
    return labels, expected


def write_itk(array, path, spacing=(2.0, 1.0, 0.5)):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin((-3.0, 4.0, 5.5))
    SimpleITK.WriteImage(image, str(path))


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_values_and_grid_stay_those_of_the_file(tmp_path, ending):
    labels, expected = make_map()
    path = tmp_path / f"a{ending}"
    write_itk(labels, path)
    assert postprocess_files(RECIPE, path, tmp_path / f"new{ending}") == []
    before, after = (SimpleITK.ReadImage(str(tmp_path / f"{name}{ending}")) for name in ("a", "new"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(after), expected)
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(after, what)() == getattr(before, what)()


def test_pictures_count_pixels(tmp_path):
    picture = np.zeros((6, 9), dtype=np.uint8)
    picture[0, :3] = picture[2, :4] = 5
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).save(tmp_path / "in" / "a.png")
    recipe = RECIPE.model_copy(update={"steps": RECIPE.steps[:1]})  # below 4
    assert postprocess_files(recipe, tmp_path / "in", tmp_path / "out") == []
    picture[0] = 0
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / "a.png")), picture)


def test_whole_numbers_stored_as_floats_are_labels(tmp_path):
    labels, expected = make_map()
    write_itk(labels.astype(np.float32), tmp_path / "a.nii.gz")
    assert postprocess_files(RECIPE, tmp_path / "a.nii.gz", tmp_path / "out") == []
    written = SimpleITK.ReadImage(str(tmp_path / "out" / "a.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), expected)


def test_whole_numbers_but_for_rounding_are_labels(tmp_path, caplog):
    labels, expected = make_map()
    (tmp_path / "in").mkdir()
    write_itk(labels - np.float32(0.0009) * (labels > 0), tmp_path / "in" / "a.nii.gz")
    write_itk(labels, tmp_path / "in" / "b.nii.gz")
    assert postprocess_files(RECIPE, tmp_path / "in", tmp_path / "out") == []
    written = SimpleITK.ReadImage(str(tmp_path / "out" / "a.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), expected)
    (said,) = caplog.messages
    assert "whole numbers but for rounding" in said
    assert "(1 of 2 cases, the first is a)" in said


@pytest.mark.parametrize("workers", [1, 2])
def test_maps_that_fail_are_listed_and_the_others_are_written(tmp_path, capsys, workers):
    labels, _ = make_map()
    folder = tmp_path / "in"
    folder.mkdir()
    write_itk(labels, folder / "good.nii.gz")
    write_itk(labels + np.uint16(1), folder / "other.nii.gz")
    write_itk(labels * np.float32(0.5), folder / "shares.nii.gz")
    (folder / "torn.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:99])
    write_record(RECIPE, tmp_path / "recipe.json")
    words = ["--recipe", tmp_path / "recipe.json", "-i", folder, "-o", tmp_path / "out", "-j", workers]
    assert main(["postprocess", *map(str, words)]) == SOME_FAILED
    said = capsys.readouterr().out
    assert "failed: other: " in said
    assert "other.nii.gz: undeclared values: 1, 6, 301" in said
    assert "shares.nii.gz: values that are not whole numbers: 2.5" in said
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert [failure["case"] for failure in failures] == ["other", "shares", "torn"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["failures.json", "good.nii.gz"]
    for name in ("other", "shares", "torn"):
        write_itk(labels, folder / f"{name}.nii.gz")
    assert main(["postprocess", *map(str, words)]) == DONE
    assert not (tmp_path / "out" / "failures.json").exists()


def test_inputs_are_never_written_over(tmp_path):
    labels, _ = make_map()
    write_itk(labels, tmp_path / "a.nii.gz")
    before = (tmp_path / "a.nii.gz").read_bytes()
    for output in (tmp_path, tmp_path / "a.nii.gz"):
        with pytest.raises(UsageError, match=r"a\.nii\.gz: the label map would overwrite an image"):
            postprocess_files(RECIPE, tmp_path / "a.nii.gz", output)
    assert (tmp_path / "a.nii.gz").read_bytes() == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: contains no label maps"):
        postprocess_files(RECIPE, tmp_path / "empty", tmp_path / "out")


def test_a_step_for_an_unknown_label_stops_before_any_work(tmp_path):
    labels, _ = make_map()
    write_itk(labels, tmp_path / "a.nii.gz")
    recipe = RECIPE.model_copy(update={"steps": (FillHoles(label="three"),)})
    with pytest.raises(RecordError, match="does not have: three; it has background, one, two"):
        postprocess_files(recipe, tmp_path / "a.nii.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_one_line(tmp_path, capsys):
    write_record(RECIPE, tmp_path / "recipe.json")
    recipe = ["postprocess", "--recipe", str(tmp_path / "recipe.json")]
    for words in ([], ["-i", "a.nii.gz"], ["-o", "out"]):
        assert main([*recipe, *words]) == UNUSABLE
        assert "give label maps with -i and an output folder with -o" in capsys.readouterr().err
    write_record(make_plan({"3d_fullres": (2.0, 1.2, 1.2)}), Workspace(tmp_path).plan)
    assert main(["postprocess", "-m", str(tmp_path), "-i", "a.nii.gz", "-o", "out"]) == UNUSABLE
    assert "has no selection.json, so there is no recipe" in capsys.readouterr().err


def test_the_recipe_of_a_model_can_be_had_without_label_maps(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    write_record(make_plan({"3d_fullres": (2.0, 1.2, 1.2)}), workspace.plan)
    write_selection(workspace, STEPS)
    assert main(["postprocess", "-m", str(tmp_path), "--save-recipe", str(tmp_path / "new" / "r.json")]) == DONE
    recipe = read_record(PostprocessingRecipe, tmp_path / "new" / "r.json")
    assert (recipe.labels, recipe.steps) == (LABELS, STEPS)
    write_selection(workspace, ())
    write_itk(make_map()[0] * np.uint16(0), tmp_path / "a.nrrd")
    words = ["-i", str(tmp_path / "a.nrrd"), "-o", str(tmp_path / "b.nrrd")]
    assert main(["postprocess", "-m", str(tmp_path), *words]) == DONE
    assert "the recipe has no steps" in capsys.readouterr().out
    assert (tmp_path / "b.nrrd").is_file()
