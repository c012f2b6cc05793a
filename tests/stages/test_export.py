"""Exported models: they predict as the model they come from, and tell nothing about its patients or its place."""

import json
import shutil
import zipfile
from hashlib import sha256

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from autoseg.errors import InteropError, PredictionError
from autoseg.interop.models import open_model
from autoseg.records.budget import Budget
from autoseg.records.evaluation import Evaluation, LabelSummary
from autoseg.records.files import read_record, write_record, write_text
from autoseg.records.fingerprint import Fingerprint, IntensityStatistics, LabelFacts
from autoseg.records.manifest import Manifest
from autoseg.records.plan import Decision, Plan, Split, Splits
from autoseg.records.selection import Candidate, KeepLargestComponent, Selection
from autoseg.stages import export
from autoseg.stages.export import ExportOptions, export_model
from autoseg.stages.plan import adopt_model
from autoseg.stages.predict import PredictionOptions, Predictor
from tests.builders import (
    CASCADE,
    install_networks,
    make_cascade_plan,
    make_case_fingerprint,
    make_dataset,
    make_external_spec,
    make_fingerprint,
    make_plan,
    write_model,
)

SPACING = (2.5, 1.0, 0.8)
CASES = ("Curie_Marie_1867", "Meitner_Lise_1878", "Noether_Emmy_1882")


def image(seed=0):
    """Blobs on black, so that there is something to crop."""
    blobs = gaussian_filter(np.random.default_rng(seed).normal(size=(9, 21, 26)), 1.5).astype(np.float32) * 100
    blobs[:, :3] = 0
    return blobs


def predict(model, channels=1, **options):
    predictor = Predictor(model, PredictionOptions(device="cpu", precision="fp32", **options))
    array = np.stack([image(seed) for seed in range(channels)])
    return predictor.predict(array, spacing=SPACING, probabilities=True)


def assert_same_prediction(first, second, channels=1, **options):
    """Voxel by voxel; the options are the first one's."""
    one, other = predict(first, channels, **options), predict(second, channels)
    assert len(np.unique(one.labels)) > 1
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.probabilities, other.probabilities)


def fingerprint_of(plan):
    cases = [
        make_case_fingerprint(
            case, (size, 40, 30), cropped_shape=(size, 30, 30), spacing=(2.5, 1.0, 0.5 + size),
            channel_ranges=((-3.5, 100.0 * size),), content_hash="0f" * 16,
            labels={"anterior": LabelFacts(voxels=17, volume_mm3=4711.0, components=1)},
        )
        for case, size in zip(CASES, (30, 10, 20), strict=True)
    ]  # fmt: skip
    statistics = IntensityStatistics(
        mean=1.0, median=1.0, std=2.0, minimum=-3.5, maximum=9.0, percentile_00_5=-1.0, percentile_99_5=7.0
    )
    return make_fingerprint(cases, plan, intensities=(statistics,), median_cropped_fraction=0.75)


def make_selection(**changes):
    selection = Selection(
        configurations=("3d_fullres",), folds=("0", "1"), mean_foreground_dice=0.75,
        reasons=("Best by /secret/scores.json",),
        postprocessing=(KeepLargestComponent(labels=("anterior", "posterior")),),
        candidates=(
            Candidate(configurations=("3d_fullres",), folds=("0", "1"), num_cases=3, mean_foreground_dice=0.7),
            Candidate(configurations=("2d",), folds=("0",), num_cases=3, mean_foreground_dice=0.6),
        ),
    )  # fmt: skip
    return selection.model_copy(update=changes)


@pytest.fixture
def model(tmp_path):
    """A selected workspace with everything that could give its patients away."""
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2), "2d": (1.1, 0.9)})
    where = str(tmp_path / "secret" / "older.autoseg")
    budget = Budget(like=adopt_model(plan, where))
    decisions = (
        Decision(what="spacing", value=where, reason=f"That of {where}."),
        Decision(
            what="origin", value=r"C:\secret\x.zip", reason=r"Made from (/secret/other), \\secret\y; 3/4, and/or."
        ),
    )
    plan = plan.model_copy(update={"budget": budget, "decisions": decisions})
    workspace = write_model(
        tmp_path / "secret" / "made.autoseg", plan, {"3d_fullres": ("0", "1", "2"), "2d": ("0",)}, mirror_axes=(0,)
    )
    write_model(workspace.root, plan, {"3d_fullres": ("5",)}, checkpoint="best")
    write_record(make_selection(), workspace.selection)
    write_record(fingerprint_of(plan), workspace.fingerprint)
    write_record(make_dataset(CASES, plan, folder=str(tmp_path / "secret")), workspace.dataset)
    write_record(Splits(folds=(Split(training=CASES[:2], validation=CASES[2:]),), reason="seed"), workspace.splits)
    summary = LabelSummary(dice=0.8, iou=None, dice_std=None, num_cases=3)
    labels = {"anterior": summary, "posterior": summary.model_copy(update={"dice": None})}
    write_record(Evaluation(mean_foreground_dice=0.75, labels=labels, cases=(), counts={}), workspace.evaluation)
    write_text("epoch 1 of Curie_Marie_1867", workspace.fold("3d_fullres", "0") / "log.txt")
    return workspace


@pytest.mark.parametrize("name", ["model.zip", "folder"])
def test_an_exported_model_predicts_the_same_wherever_it_is(model, tmp_path, name):
    export_model(model.root, tmp_path / name)
    moved = (tmp_path / name).rename(tmp_path / f"moved_{name}")
    assert_same_prediction(model.root, moved)


@pytest.mark.parametrize(
    ("exported", "predicted"),
    [
        ({"configurations": ("2d",)}, {"configuration": "2d"}),
        ({"folds": ("1",)}, {"folds": ("1",)}),
        (
            {"configurations": ("3d_fullres",), "folds": ("2", "0")},
            {"configuration": "3d_fullres", "folds": ("2", "0")},
        ),
        (
            {"configurations": ("3d_fullres",), "folds": ("5",), "checkpoint": "best"},
            {"configuration": "3d_fullres", "folds": ("5",), "checkpoint": "best"},
        ),
    ],
)
def test_options_mean_what_they_mean_to_prediction(model, tmp_path, exported, predicted):
    manifest = export_model(model.root, tmp_path / "model.zip", ExportOptions(**exported))
    assert sum(len(folds) for folds in manifest.configurations.values()) == len(predicted.get("folds", "0"))
    assert manifest.checkpoint == predicted.get("checkpoint", "final")
    assert_same_prediction(model.root, tmp_path / "model.zip", **predicted)


def test_several_configurations_are_averaged_and_each_is_there_alone(model, tmp_path):
    export_model(model.root, tmp_path / "model.zip", ExportOptions(configurations=("3d_fullres", "2d")))
    write_record(make_selection(configurations=("3d_fullres", "2d"), folds=(), postprocessing=()), model.selection)
    assert_same_prediction(model.root, tmp_path / "model.zip")
    alone = predict(model.root, configuration="2d"), predict(tmp_path / "model.zip", configuration="2d")
    np.testing.assert_array_equal(alone[0].probabilities, alone[1].probabilities)


def test_a_cascade_brings_its_previous_stage(tmp_path):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2), channel_names=("T1", "T2"))
    folds = {"3d_lowres": ("0", "1", "2"), "3d_fullres": ("0",), CASCADE: ("0", "2")}
    workspace = write_model(tmp_path / "model", plan, folds)
    manifest = export_model(workspace.root, tmp_path / "model.zip")
    assert manifest.configurations == {CASCADE: ("0", "2"), "3d_lowres": ("0", "2")}
    assert manifest.selected == (CASCADE,)
    assert_same_prediction(workspace.root, tmp_path / "model.zip", channels=2)


def test_a_model_may_be_given_by_name(model, tmp_path):
    export_model(model.root, tmp_path / "model.zip")
    assert Predictor(tmp_path / "model.zip", PredictionOptions(device="cpu")).plan.dataset_name == "made"


def test_plan_and_weights_are_all_a_model_needs(tmp_path):
    """As an imported one is: no dataset.json, splits.json, fingerprint.json or selection.json."""
    workspace = write_model(tmp_path / "model", make_plan({"2d": (1.1, 0.9)}), {"2d": ("all",)})
    manifest = export_model(workspace.root, tmp_path / "model.zip")
    assert (manifest.configurations, manifest.mean_foreground_dice) == ({"2d": ("all",)}, None)
    assert_same_prediction(workspace.root, tmp_path / "model.zip")
    with open_model(tmp_path / "model.zip") as opened:
        assert read_record(Selection, opened.selection).folds == ("all",)


def test_nothing_tells_patients_or_places(model, tmp_path):
    export_model(model.root, tmp_path / "folder")
    stem = "models/3d_fullres/fold_{}/checkpoint_final.{}"
    weights = [stem.format(fold, ending) for fold in "01" for ending in ("json", "safetensors")]
    found = sorted(path.relative_to(tmp_path / "folder").as_posix() for path in (tmp_path / "folder").rglob("*.*"))
    assert found == sorted(["fingerprint.json", "manifest.json", "plan.json", "selection.json", *weights])
    secrets = (*CASES, "4711", "0f0f", '"made"', str(tmp_path), "secret")
    for name in found:
        content = (tmp_path / "folder" / name).read_bytes()
        hidden = content.replace(b'"dataset_name": "made"', b"")  # `made` is the hash of the cases' ids, too
        assert [word for word in secrets if word.encode() in hidden] == [], name
    plan = read_record(Plan, tmp_path / "folder" / "plan.json")
    assert plan.budget.like is not None
    assert (plan.budget.like.model, plan.decisions[0].reason) == ("older.autoseg", "That of older.autoseg.")
    assert (plan.decisions[1].value, plan.decisions[1].reason) == ("x.zip", "Made from (other), y; 3/4, and/or.")


def test_the_fingerprint_keeps_grids_and_intensities(model, tmp_path):
    export_model(model.root, tmp_path / "folder")
    before = read_record(Fingerprint, model.fingerprint)
    after = read_record(Fingerprint, tmp_path / "folder" / "fingerprint.json")
    assert [case.case for case in after.cases] == ["1", "2", "3"]
    assert [case.shape[0] for case in after.cases] == [10, 20, 30]
    facts = [{(case.shape, case.cropped_shape, case.spacing, case.channel_ranges) for case in one.cases}
             for one in (before, after)]  # fmt: skip
    assert facts[0] == facts[1]
    assert after.intensities == before.intensities
    assert after.median_cropped_fraction == before.median_cropped_fraction


def test_the_manifest_says_what_is_inside(model, tmp_path):
    returned = export_model(model.root, tmp_path / "model.zip", ExportOptions(license="CC-BY-4.0"))
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        manifest = json.loads(archive.read("manifest.json"))
        files = {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}
        assert archive.namelist()[0] == "manifest.json"
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": sha256(content).hexdigest()} for name, content in files.items()
    }
    assert len(files) == 7
    assert manifest["labels"] == {"background": 0, "anterior": 3, "posterior": 300}
    assert manifest["configurations"] == {"3d_fullres": ["0", "1"]}
    assert manifest["mean_foreground_dice"] == 0.75
    assert manifest["label_dice"] == {"anterior": 0.8, "posterior": None}
    assert (manifest["license"], manifest["checkpoint"], manifest["format"]) == ("CC-BY-4.0", "final", "autoseg")
    assert manifest["dataset_name"] == "made"
    assert manifest["channel_names"] == ["MR"]
    assert "pretrained" not in manifest
    assert "requires" not in manifest
    assert returned == Manifest.model_validate_json(json.dumps(manifest))


def test_the_manifest_names_published_weights_and_their_terms(tmp_path):
    plan = make_plan({"2d": (1.0, 1.0)})
    training = plan.configurations["2d"].training.model_copy(update={"initial_weights": "efficientnet-lite0"})
    configuration = plan.configurations["2d"].model_copy(update={"training": training})
    plan = plan.model_copy(update={"configurations": {"2d": configuration}})
    model = write_model(tmp_path / "made.autoseg", plan, {"2d": ("0",)})
    manifest = export_model(model.root, tmp_path / "exported")
    again = export_model(tmp_path / "exported", tmp_path / "again.zip")
    [entry] = manifest.pretrained
    assert (entry.name, entry.license, entry.trained_on) == ("efficientnet-lite0", "Apache-2.0", "ImageNet")
    assert entry.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert again.pretrained == manifest.pretrained


def test_the_manifest_names_what_networks_of_other_packages_need(tmp_path, monkeypatch):
    install_networks(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    plan = make_plan({"2d": (1.0, 1.0)})
    network = plan.configurations["2d"].network
    spec = make_external_spec(2, input_channels=network.input_channels, output_channels=network.output_channels)
    configuration = plan.configurations["2d"].model_copy(update={"network": spec})
    plan = plan.model_copy(update={"configurations": {"2d": configuration}})
    model = write_model(tmp_path / "made.autoseg", plan, {"2d": ("0",)})
    assert export_model(model.root, tmp_path / "exported").requires == ("small-networks", "torch")


def test_scores_of_another_choice_are_not_stated(model, tmp_path):
    one_fold = export_model(model.root, tmp_path / "a.zip", ExportOptions(folds=("1",)))
    assert (one_fold.mean_foreground_dice, one_fold.label_dice) == (None, {})
    other = export_model(model.root, tmp_path / "b.zip", ExportOptions(configurations=("2d",)))
    assert (other.mean_foreground_dice, other.label_dice) == (0.6, {})


def test_an_exported_model_can_be_exported_again(model, tmp_path):
    options = ExportOptions(configurations=("3d_fullres",), folds=("5",), checkpoint="best", license="MIT")
    first = export_model(model.root, tmp_path / "a.zip", options)
    again = export_model(tmp_path / "a.zip", tmp_path / "b")
    assert again == first.model_copy(update={"created": again.created})
    assert export_model(tmp_path / "b", tmp_path / "c.zip", ExportOptions(license="")).license == ""


def test_an_output_is_replaced_only_when_asked_and_only_an_export(model, tmp_path):
    for name in ("model.zip", "folder"):
        output = tmp_path / name
        export_model(model.root, output)
        with pytest.raises(InteropError, match=f"{name}: already exists. Replace it with --overwrite"):
            export_model(model.root, output)
        replaced = export_model(model.root, output, ExportOptions(overwrite=True, configurations=("2d",)))
        with open_model(output) as opened:
            assert read_record(Manifest, opened.root / "manifest.json") == replaced
            assert not opened.fold("3d_fullres", "0").exists()
    other = tmp_path / "other"
    write_text("mine", other / "notes.txt")
    overwrite = ExportOptions(overwrite=True)
    for refused, words in {
        other: "not an earlier export and is not replaced",
        model.root: "contains the model that is to be exported",
        model.root.parent: "contains the model that is to be exported",
        other / "notes.txt": "is a file; names ending in .zip are files",
    }.items():
        with pytest.raises(InteropError, match=words):
            export_model(model.root, refused, overwrite)
    assert (other / "notes.txt").read_text() == "mine"
    assert model.plan.is_file()


def test_a_failed_export_leaves_the_earlier_one_and_nothing_else(model, tmp_path, monkeypatch):
    output = tmp_path / "out" / "model.zip"
    export_model(model.root, output)
    before = output.read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(export, "save_weights", fail)
    for target in (output, tmp_path / "out" / "folder"):
        with pytest.raises(OSError, match="the disk is full"):
            export_model(model.root, target, ExportOptions(overwrite=True))
    assert [path.name for path in output.parent.iterdir()] == ["model.zip"]
    assert output.read_bytes() == before


def test_what_is_not_trained_cannot_be_exported(model, tmp_path):
    for options, words in {
        ExportOptions(folds=("7",)): r"no checkpoint_final for fold\(s\) 7; trained folds: 0, 1, 2",
        ExportOptions(configurations=("4d",)): "no configuration '4d'; it has 3d_fullres, 2d",
    }.items():
        with pytest.raises(PredictionError, match=words):
            export_model(model.root, tmp_path / "model.zip", options)
    shutil.rmtree(model.root / "models")
    model.selection.unlink()
    with pytest.raises(PredictionError, match=r"no configuration has a checkpoint_final.*run autoseg-train"):
        export_model(model.root, tmp_path / "model.zip")
    with pytest.raises(PredictionError, match=r"not a model, it has no plan\.json"):
        export_model(tmp_path / "nowhere", tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()
