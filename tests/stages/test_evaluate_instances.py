"""Objects of predictions and references, worked out by hand."""

import json
import os
from importlib.metadata import version

import nibabel
import numpy as np
import pytest
from PIL import Image

from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.inference.files.instance_scoring import InstanceOptions
from autoseg.records.files import write_record
from autoseg.stages.evaluate_instances import _score_case, evaluate_instances
from tests.builders import make_plan

LABELS = {"background": 0, "cell": 3, "nerve": 5, "ignore": 9}

REFERENCE = np.array([
    [3, 3, 0, 5, 5, 5, 5],
    [3, 3, 0, 5, 5, 5, 5],
    [0, 0, 3, 0, 0, 0, 9],
    [0, 0, 0, 3, 3, 0, 9],
    [3, 3, 0, 3, 3, 0, 0],
])  # fmt: skip
PREDICTION = np.array([
    [3, 3, 0, 5, 5, 5, 0],
    [3, 0, 0, 5, 5, 5, 0],
    [0, 0, 0, 0, 0, 0, 3],
    [0, 0, 0, 3, 3, 0, 3],
    [0, 0, 0, 3, 3, 0, 0],
])  # fmt: skip


def write(folder, **maps):
    folder.mkdir(exist_ok=True)
    for name, values in maps.items():
        Image.fromarray(np.asarray(values, dtype=np.uint16)).save(folder / f"{name}.png")
    return folder


def die_of_b(options, files):
    if files[0] == "b":
        os._exit(3)
    return _score_case(options, files)


def counts(scores):
    return scores.true_positives, scores.false_positives, scores.false_negatives


def test_components_by_hand(tmp_path):
    predictions, references = write(tmp_path / "p", a=PREDICTION), write(tmp_path / "r", a=REFERENCE)
    face, faults = evaluate_instances(predictions, references, InstanceOptions(labels=LABELS, connectivity="face"))
    assert faults == ()
    cell, nerve = face.labels["cell"], face.labels["nerve"]
    # what lies on ignored voxels does not count; one corner of three voxels, one square, two objects missed
    assert counts(cell) == (2, 0, 2)
    assert cell.sum_iou == pytest.approx(3 / 4 + 1)
    assert cell.segmentation_quality == pytest.approx(1.75 / 2)
    assert cell.recognition_quality == pytest.approx(2 / 3)
    assert cell.panoptic_quality == pytest.approx(1.75 / 3)
    assert counts(nerve) == (1, 0, 0)
    assert nerve.panoptic_quality == pytest.approx(6 / 8)
    full, _ = evaluate_instances(predictions, references, InstanceOptions(labels=LABELS))
    # in the reference the corner voxel joins square, single voxel and square: one object of nine voxels
    assert counts(full.labels["cell"]) == (0, 2, 2)
    assert full.labels["cell"].panoptic_quality == 0
    assert full.labels["cell"].segmentation_quality is None


def test_maps_of_instances_are_taken_before_components(tmp_path):
    touching = np.array([[3, 3, 3, 3, 0, 3, 3]])
    ids = np.array([[7, 7, 2, 2, 0, 300, 300]])
    references = write(tmp_path / "r", a=touching, a_instances=ids)
    options = InstanceOptions(labels=LABELS, connectivity="face")
    merged, _ = evaluate_instances(write(tmp_path / "p", a=touching), references, options)
    assert counts(merged.labels["cell"]) == (1, 1, 2)  # half of the pair is no match
    same, _ = evaluate_instances(write(tmp_path / "s", a=touching, a_instances=ids), references, options)
    assert counts(same.labels["cell"]) == (3, 0, 0)
    assert counts(same.labels["nerve"]) == (0, 0, 0)
    assert same.labels["nerve"].panoptic_quality is None


def test_references_of_a_dataset(tmp_path):
    touching, ids = np.array([[3, 3, 3, 3, 0, 3, 3]]), np.array([[7, 7, 2, 2, 0, 300, 300]])
    predictions = write(tmp_path / "p", a=touching, a_instances=ids)
    dataset = tmp_path / "dataset"
    for folder, maps in (("images", {"a": touching}), ("labels", {"a": touching, "a_instances": ids})):
        (dataset / folder).mkdir(parents=True)
        write(dataset / folder, **maps)
    (tmp_path / "list.csv").write_text("image,label\ndataset/images/a.png,dataset/labels/a.png\n")
    for references in (dataset, tmp_path / "list.csv"):
        found, faults = evaluate_instances(predictions, references, InstanceOptions(labels=LABELS))
        assert (counts(found.labels["cell"]), faults) == ((3, 0, 0), ())


def test_masks_of_single_labels_are_refused(tmp_path):
    write(tmp_path / "images", a=REFERENCE, b=REFERENCE)
    for case in ("a", "b"):
        (tmp_path / "masks" / case).mkdir(parents=True)
        write(tmp_path / "masks" / case, cell=REFERENCE == 3, nerve=REFERENCE == 5)
    with pytest.raises(UsageError, match="each label has a mask of its own"):
        evaluate_instances(write(tmp_path / "p", a=REFERENCE, b=REFERENCE), tmp_path, InstanceOptions(labels=LABELS))


def test_references_with_numbers_alone(tmp_path):
    ids = np.array([[11, 11, 40, 40, 0, 1000, 1000, 9]])
    predictions = write(tmp_path / "p", a=ids > 0, a_instances=[[1, 1, 2, 2, 0, 3, 3, 0]])
    found, _ = evaluate_instances(predictions, write(tmp_path / "r", a=ids), InstanceOptions(reference_ids=True))
    assert counts(found.labels["object"]) == (3, 0, 1)


def test_cases_are_pooled_by_their_objects(tmp_path):
    one, two = np.array([[3, 0, 3, 0, 3]]), np.array([[3, 3, 3, 0, 0]])
    predictions = write(tmp_path / "p", a=one, b=[[3, 3, 0, 0, 0]])
    found, _ = evaluate_instances(
        predictions, write(tmp_path / "r", a=one, b=two, c=two), InstanceOptions(labels={"cell": 3})
    )
    assert [case.case for case in found.cases] == ["a", "b"]
    assert found.missing_predictions == ("c",)
    assert counts(found.labels["cell"]) == (4, 0, 0)
    assert found.labels["cell"].panoptic_quality == pytest.approx((3 + 2 / 3) / 4)


def test_average_precision_follows_the_scores_of_the_table(tmp_path):
    reference, prediction = [[3, 0, 3, 3, 0, 0, 0]], [[3, 0, 3, 3, 0, 3, 3]]
    references = write(tmp_path / "r", a=reference, a_instances=[[1, 0, 2, 2, 0, 0, 0]])
    predictions = write(tmp_path / "p", a=prediction, a_instances=[[1, 0, 2, 2, 0, 3, 3]])
    options = InstanceOptions(labels={"background": 0, "cell": 3, "nerve": 5})

    def precision_of_cells(evaluation):
        return evaluation.average_precision["cell"]

    plain, faults = evaluate_instances(predictions, references, options)
    assert (plain.score_source, faults) == ("none", ())
    assert precision_of_cells(plain).by_iou["0.50"] == pytest.approx(2 / 3)  # three of score one, two match
    assert plain.average_precision["nerve"] is None
    assert plain.mean_average_precision == precision_of_cells(plain)
    table = predictions / "instances.csv"
    table.write_text("case,id,mean_probability\na,1,0.9\na,2,0.6\na,3,0.3\n")
    ranked, faults = evaluate_instances(predictions, references, options)
    assert (ranked.score_source, faults) == ("mean_probability", ())
    assert precision_of_cells(ranked).mean == 1
    assert ranked.labels == plain.labels
    table.write_text("case,id,mean_probability\na,1,0.9\na,2,0.6\n")
    found, (fault,) = evaluate_instances(predictions, references, options)
    assert precision_of_cells(found).mean == pytest.approx(2 / 3)  # the false alarm comes first
    assert (fault.severity, fault.what.split(" have no ")[0]) == ("warning", "1 predicted instances")
    assert main(["evaluate", str(predictions), str(references), "--instances", "--workers", "1"]) == 0
    written = json.loads((predictions / "instance_evaluation.json").read_text())
    assert written["average_precision"]["object"]["by_iou"]["0.95"] == pytest.approx(2 / 3)


def test_what_cannot_be_compared_is_named(tmp_path):
    predictions = write(tmp_path / "p", a=PREDICTION, b=PREDICTION[:, :5], c=PREDICTION)
    references = write(tmp_path / "r", a=REFERENCE, b=REFERENCE, c=REFERENCE, c_instances=REFERENCE[1:])
    found, faults = evaluate_instances(predictions, references, InstanceOptions(labels=LABELS))
    assert [case.case for case in found.cases] == ["a"]
    assert [fault.case for fault in faults] == ["b", "c"]
    assert all("does not lie on the grid of" in fault.what for fault in faults)
    with pytest.raises(UsageError, match="no case could be compared"):
        evaluate_instances(write(tmp_path / "q", b=PREDICTION[1:]), references, InstanceOptions(labels=LABELS))
    with pytest.raises(UsageError, match="no case is in both folders"):
        evaluate_instances(write(tmp_path / "s", z=PREDICTION), references, InstanceOptions(labels=LABELS))


def test_numbers_that_are_not_whole_are_refused(tmp_path):
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
        for name, values in (("a", np.ones((3, 4, 5), np.uint8)), ("a_instances", np.full((3, 4, 5), 0.5, np.float32))):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    with pytest.raises(
        UsageError, match=r"a_instances\.nii\.gz: maps of instances have whole numbers: .* found 0.5 in"
    ):
        evaluate_instances(tmp_path / "p", tmp_path / "r", InstanceOptions())


def test_instances_numbered_with_rounding_are_the_same_instances(tmp_path, capsys):
    predictions, references = write(tmp_path / "p", a=PREDICTION), write(tmp_path / "r", a=REFERENCE)
    exact, _ = evaluate_instances(predictions, references, InstanceOptions(labels=LABELS))
    (predictions / "a.png").unlink()
    Image.fromarray((PREDICTION * 0.99999).astype(np.float32)).save(predictions / "a.tif")
    found, faults = evaluate_instances(predictions, references, InstanceOptions(labels=LABELS))
    assert found == exact
    assert [fault.severity for fault in faults] == ["warning"]
    assert "whole numbers but for rounding" in faults[0].what
    assert main(["evaluate", str(predictions), str(references), "--instances", "-j", "1"]) == 0
    assert f"warning: {predictions}: the label values are whole numbers but for" in capsys.readouterr().err


def test_labels_with_other_numbers_are_not_scored_as_misses(tmp_path):
    predictions, references = write(tmp_path / "p", a=100 * PREDICTION), write(tmp_path / "r", a=REFERENCE)
    with pytest.raises(UsageError, match="not compared, because none of them is in the file"):
        evaluate_instances(predictions, references, InstanceOptions(labels=LABELS))


def test_from_the_command_line(tmp_path, capsys):
    predictions, references = write(tmp_path / "p", a=PREDICTION), write(tmp_path / "r", a=REFERENCE)
    plan = make_plan({"2d": (1.0, 1.0)}, labels=LABELS)
    model = tmp_path / "model"
    words = ["evaluate", str(predictions), str(references), "--instances", "-m", str(model), "--workers", "1"]
    written = {}
    for target, width, connectivity in (("labels", None, "full"), ("border_core", 1.5, "face")):
        write_record(plan.model_copy(update={"target": target, "border_width_mm": width}), model / "plan.json")
        assert main(words) == 0
        written = json.loads((predictions / "instance_evaluation.json").read_text())
        assert written["connectivity"] == connectivity
    assert written["labels"]["cell"]["panoptic_quality"] == pytest.approx(1.75 / 3)
    assert written["provenance"]["autoseg_version"] == version("autoseg-med")
    shown = capsys.readouterr().out
    assert "0.583" in shown
    assert "not ranked: all have score one" in shown
    assert "false alarms" in shown
    assert main([*words, "--connectivity", "full", "-o", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["labels"]["cell"]["panoptic_quality"] == 0
    assert main(["evaluate", str(predictions), str(references), "--instances", "--workers", "1"]) == 0


def test_a_case_that_ends_its_worker_is_named_and_the_others_are_scored(tmp_path, monkeypatch):
    folder = write(tmp_path / "maps", a=PREDICTION, b=PREDICTION)
    monkeypatch.setattr("autoseg.stages.evaluate_instances._score_case", die_of_b)
    evaluation, (fault,) = evaluate_instances(folder, folder, InstanceOptions(labels=LABELS), workers=2)
    assert [case.case for case in evaluation.cases] == ["a"]
    assert (fault.severity, fault.case) == ("error", "b")
    assert fault.what.startswith("the worker process was ended by exit code 3, and a second time")
