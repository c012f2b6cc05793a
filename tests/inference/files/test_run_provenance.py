"""The record of a run: hashes, warnings and seconds of each case."""

import hashlib
import json
import logging
from importlib.metadata import version

import pytest

from autoseg.inference.files.input_cases import InputCase
from autoseg.inference.files.label_maps import find_label_maps
from autoseg.inference.files.outputs import OutputFile
from autoseg.inference.files.run_provenance import hash_inputs
from autoseg.records.files import read_record
from autoseg.records.part import Part
from autoseg.records.prediction import OutputChoices
from autoseg.records.provenance import Provenance
from autoseg.stages.predict import RunOptions, predict_files
from tests.builders import load_exactly, make_image, write_nifti, write_two_configurations

CHOICES = OutputChoices(provenance=True)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load_exactly(write_two_configurations(tmp_path_factory.mktemp("model")))


@pytest.fixture
def images(tmp_path):
    for seed, case in enumerate("abc"):
        write_nifti(make_image(seed), tmp_path / "in" / f"{case}.nii.gz")
    return tmp_path / "in"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def states(record):
    return {entry.case: entry.state for entry in record.cases}


def test_each_case_has_hashes_and_seconds_and_failures_their_reason(predictor, images, tmp_path):
    (images / "b.nii.gz").write_bytes(b"no image")
    (failure,) = predict_files(predictor, images, tmp_path / "out", CHOICES)
    record = read_record(Provenance, tmp_path / "out" / "provenance.json")
    assert record.autoseg_version == version("autoseg-med")
    assert len(record.weights_hash) == 32
    assert record.plan_hash
    assert states(record) == {"a": "predicted", "b": "failed", "c": "predicted"}
    first, second, _ = record.cases
    (found,) = first.inputs
    assert (found.path, found.sha256) == (str(images / "a.nii.gz"), sha256(images / "a.nii.gz"))
    assert (tmp_path / "out" / first.output).is_file()
    assert set(first.seconds) == {"read", "preprocess", "network", "export", "write"}
    assert min(first.seconds.values()) >= 0
    assert (second.error, second.output, second.seconds) == (failure.error, "", {})
    assert set(find_label_maps(tmp_path / "out")) == {"a", "c"}


def test_another_model_has_other_hashes(predictor, images, tmp_path, tmp_path_factory):
    other = load_exactly(write_two_configurations(tmp_path_factory.mktemp("other")), folds=("0",))
    assert other.describe().weights_hash != predictor.describe().weights_hash
    predict_files(other, images / "a.nii.gz", tmp_path / "out", CHOICES)
    record = read_record(Provenance, tmp_path / "out" / "provenance.json")
    assert record.weights_hash == other.describe().weights_hash


def test_kept_cases_have_the_entry_of_the_run_that_wrote_them(predictor, images, tmp_path):
    output, options = tmp_path / "out", RunOptions(skip_existing=True)
    predict_files(predictor, images / "a.nii.gz", output)
    predict_files(predictor, images / "b.nii.gz", output, CHOICES)
    before = read_record(Provenance, output / "provenance.json").cases[0]
    predict_files(predictor, images, output, CHOICES, options)
    record = read_record(Provenance, output / "provenance.json")
    assert states(record) == {"a": "kept", "b": "kept", "c": "predicted"}
    assert record.cases[1] == before.model_copy(update={"state": "kept"})
    assert [found.sha256 for found in record.cases[0].inputs] == [""]
    assert record.cases[0].output == "a.nii.gz"


def test_parts_come_together(predictor, images, tmp_path):
    output = tmp_path / "out"
    for number in (1, 2):
        predict_files(predictor, images, output, CHOICES, RunOptions(part=Part(number, 2)))
    first = read_record(Provenance, output / "provenance_part_1_of_2.json")
    assert states(first) == {"a": "predicted", "c": "predicted"}
    predict_files(predictor, images, output, CHOICES, RunOptions(skip_existing=True))
    record = read_record(Provenance, output / "provenance.json")
    assert states(record) == dict.fromkeys("abc", "kept")
    assert all(entry.inputs[0].sha256 == sha256(images / f"{entry.case}.nii.gz") for entry in record.cases)


def test_a_run_that_is_stopped_leaves_what_was_done(predictor, images, tmp_path):
    def stop(done, _):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor, images, tmp_path / "out", CHOICES, progress=stop)
    record = read_record(Provenance, tmp_path / "out" / "provenance.json")
    assert states(record) == {"a": "predicted", "b": "predicted"}


def test_a_file_of_something_else_is_said_and_replaced(predictor, images, tmp_path, caplog):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "provenance.json").write_text("[]")
    logging.getLogger("autoseg").propagate = True
    with caplog.at_level("WARNING"):
        predict_files(predictor, images / "a.nii.gz", tmp_path / "out", CHOICES)
    assert "entries of an earlier run are lost" in caplog.text
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["cases"][0]["case"] == "a"


def test_a_folder_is_hashed_by_names_and_content_of_its_files(tmp_path):
    folder = tmp_path / "series"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.dcm").write_bytes(b"b")
    (folder / "deep" / "a.dcm").write_bytes(b"a")
    lines = f"{sha256(folder / 'b.dcm')}  b.dcm\n{sha256(folder / 'deep' / 'a.dcm')}  deep/a.dcm\n"
    (found,) = hash_inputs(OutputFile(InputCase("a", (folder,)), tmp_path / "a.nii.gz"))
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    (again,) = hash_inputs(OutputFile(InputCase("a", (tmp_path / "series#2",)), tmp_path / "a.nii.gz"))
    assert (again.path, again.sha256) == (str(tmp_path / "series#2"), found.sha256)
