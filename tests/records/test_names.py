"""Names that would lead out of the workspace are refused where records are read, so that every reader is safe."""

import json
from typing import Any

import pytest

from autoseg.errors import RecordError
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import Record, read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.manifest import Manifest
from autoseg.records.names import is_file_name
from autoseg.records.plan import Plan, Split, Splits
from autoseg.records.selection import EnsembleOrigin, Selection
from autoseg.records.training import TrainingSpec
from tests.builders import make_case_fingerprint, make_dataset, make_fingerprint, make_plan

ESCAPES = ("../../victim", "/tmp/victim", "a/b", "..", ".", "", "a/", "a\0b")

RECORDS: dict[type[Record], Record] = {
    Plan: make_plan({"3d_fullres": (2.0, 1.0, 1.5)}),
    DatasetDescription: make_dataset(["a", "b"]),
    Fingerprint: make_fingerprint([make_case_fingerprint("a")]),
    Splits: Splits(folds=(Split(training=("a", "b"), validation=("c",)),), reason="made"),
    Selection: Selection(
        configurations=("2d",), folds=("0",), mean_foreground_dice=None, candidates=(), reasons=()
    ),
    EnsembleOrigin: EnsembleOrigin(configurations=("2d", "3d_fullres"), fold="0", origin="made"),
    Checkpoint: Checkpoint(
        configuration="2d", fold="0", model_hash="", cases_hash="", epoch=1, step=1, elapsed_seconds=1.0,
        training=TrainingSpec(mirror_axes=(), batch_dice=False),
    ),
    Evaluation: Evaluation(
        mean_foreground_dice=None, labels={}, counts={}, cases=({"case": "a", "labels": {}},),  # type: ignore[arg-type]
    ),
    Manifest: Manifest(
        format="autoseg", created="", license="", autoseg_version="", torch_version="", numpy_version="",
        dataset_name="", channel_names=(), labels={}, configurations={"2d": ("0",)}, selected=("2d",),
        checkpoint="final", mean_foreground_dice=None, label_dice={}, files={},
    ),
}  # fmt: skip
"""A valid record of each kind that names files."""

NAMES = [
    (Plan, ("configurations", "3d_fullres", "preprocessed_as")),
    (Plan, ("configurations", "3d_fullres", "previous_configuration")),
    (DatasetDescription, ("cases", 1, "case")),
    (Fingerprint, ("cases", 0, "case")),
    (Splits, ("folds", 0, "training", 1)),
    (Splits, ("folds", 0, "validation", 0)),
    (Selection, ("configurations", 0)),
    (Selection, ("folds", 0)),
    (EnsembleOrigin, ("configurations", 1)),
    (EnsembleOrigin, ("fold",)),
    (Checkpoint, ("configuration",)),
    (Checkpoint, ("fold",)),
    (Evaluation, ("cases", 0, "case")),
    (Manifest, ("configurations", "2d", 0)),
    (Manifest, ("selected", 0)),
]


@pytest.mark.parametrize(
    "name", ["3d_fullres", "a b", "[1]*?", "$HOME;%d", "-a", ".a", "...", "x" * 200, "\u5fc3\u00e4"]
)
def test_any_name_of_one_file_is_accepted(name):
    assert is_file_name(name)


def read_changed(record_type: type[Record], path, place: tuple[Any, ...], value: object):
    content = json.loads(RECORDS[record_type].model_dump_json())
    inner = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    return read_record(record_type, path)


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize(("record_type", "place"), NAMES)
def test_a_name_that_leads_elsewhere_is_refused_with_its_path(tmp_path, record_type, place, escape):
    with pytest.raises(RecordError, match="leads out of its folder") as caught:
        read_changed(record_type, tmp_path / "record.json", place, escape)
    assert ".".join(map(str, place)) + ": " in str(caught.value)


@pytest.mark.parametrize(("record_type", "field"), [(Plan, "configurations"), (Manifest, "configurations")])
@pytest.mark.parametrize("escape", ESCAPES)
def test_a_configuration_called_by_a_path_is_refused(tmp_path, record_type, field, escape):
    content = json.loads(RECORDS[record_type].model_dump_json())
    value = next(iter(content[field].values()))
    if record_type is Plan:
        value["preprocessed_as"] = escape
    with pytest.raises(RecordError, match="leads out of its folder"):
        read_changed(record_type, tmp_path / "record.json", (field,), {escape: value})


@pytest.mark.parametrize("record_type", [Plan, DatasetDescription])
@pytest.mark.parametrize("escape", ["/../../victim.nii.gz", "/x.png", "\0.nii.gz"])
def test_an_ending_that_leads_elsewhere_is_refused(tmp_path, record_type, escape):
    with pytest.raises(RecordError, match="file_ending: leads out of its folder"):
        read_changed(record_type, tmp_path / "record.json", ("file_ending",), escape)


@pytest.mark.parametrize("record_type", RECORDS)
def test_records_with_usual_names_are_read_as_before(tmp_path, record_type):
    write_record(RECORDS[record_type], tmp_path / "record.json")
    assert read_record(record_type, tmp_path / "record.json") == RECORDS[record_type]
