"""Verify: a workspace and an exported model that are in order have no mismatch, each kind of alteration has one."""

import json
import re
import shutil
import zipfile

import numpy as np
import pytest

from autoseg.errors import UsageError
from autoseg.imaging.arrays.storage import save_label_map
from autoseg.locks import lock
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.records.unlabelled import SoftLabelsRecord
from autoseg.records.workspace import Workspace
from autoseg.stages.export import export_model
from autoseg.stages.select import SelectionOptions, select_model
from autoseg.stages.train import train_fold
from autoseg.stages.unlabelled_images import store_unlabelled
from autoseg.stages.verify import verify_model
from autoseg.training.folds.soft_cases import RECORD_NAME
from tests.builders import CASCADE, write_two_configurations
from tests.training.small_folds import NAME, SHORT, shrink_plan


@pytest.fixture(scope="module")
def trained(planned_phantoms, tmp_path_factory):
    """Folds 0 and 1 trained, and selected."""
    root = tmp_path_factory.mktemp("verify") / "phantoms.autoseg"
    shutil.copytree(planned_phantoms.root, root)
    shutil.rmtree(root / "preprocessed" / "2d", ignore_errors=True)
    (root.parent / "phantoms").symlink_to(planned_phantoms.root.parent / "phantoms")
    workspace = Workspace(root)
    shrink_plan(workspace)
    for fold in ("0", "1"):
        train_fold(workspace, NAME, fold, SHORT)
    select_model(workspace, options=SelectionOptions(device="cpu"))
    return workspace


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of workspace and dataset, to be altered."""
    root = tmp_path / "phantoms.autoseg"
    shutil.copytree(trained.root, root)
    shutil.copytree(trained.root.parent / "phantoms", tmp_path / "phantoms")
    return Workspace(root)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


def test_what_belongs_together_has_no_mismatch_and_everything_is_compared(trained):
    before = {path: path.stat().st_mtime_ns for path in trained.root.rglob("*")}
    verification = verify_model(trained.root, workers=3)
    assert verification.mismatches == ()
    assert verification.notes == ()
    # per fold: last, best and final weights; records: four of planning, a record of each weights file, evaluations
    assert verification.checked == {"records": 14, "cases of the dataset": 6, "arrays": 6, "weights": 6}
    assert {path: path.stat().st_mtime_ns for path in trained.root.rglob("*")} == before


def test_unlabelled_images_and_their_labels_are_compared(copied):
    store_unlabelled(copied, read_record(Plan, copied.plan), NAME, copied.root.parent / "phantoms" / "imagesTs")
    arrays, labels = copied.unlabelled_arrays(NAME), copied.soft_labels(f"{NAME}_student", "0")
    shutil.copytree(arrays, labels)
    cases = tuple(sorted(path.stem for path in arrays.glob("*.json")))
    record = SoftLabelsRecord(
        teacher=NAME, fold="0", teacher_hash="", temperatures={}, cases=cases, confident_fraction=1.0
    )
    write_record(record, labels / RECORD_NAME)
    verification = verify_model(copied.root)
    assert verification.mismatches == ()
    assert verification.checked["arrays of unlabelled images"] == len(cases)
    assert verification.checked["labels of unlabelled images"] == len(cases)
    flip(first(arrays, "*.b2nd"))
    first(labels, "*.b2nd").unlink()
    copied.student_record(f"{NAME}_student").write_text("{")
    found = verify_model(copied.root).mismatches
    assert [mismatch.file for mismatch in found] == [
        str(arrays), str(labels), str(copied.student_record(f"{NAME}_student")),
    ]  # fmt: skip
    assert all(mismatch.command == f"autoseg learn {copied.root}" for mismatch in found)
    assert all(f"case {cases[0]} " in mismatch.what for mismatch in found[:2])


def alter_image(workspace):
    flip(first(workspace.root.parent / "phantoms" / "imagesTr", "*"))


def remove_label_map(workspace):
    first(workspace.root.parent / "phantoms" / "labelsTr", "*").unlink()


def alter_array(workspace):
    flip(first(workspace.preprocessed(NAME), "*.b2nd"))


def remove_array(workspace):
    first(workspace.preprocessed(NAME), "*.b2nd").unlink()


def use_array_of_another_plan(workspace):
    edit(first(workspace.preprocessed(NAME), "*.json"), content_hash="0" * 32)


def alter_spacing(workspace):
    content = json.loads(workspace.plan.read_text())
    content["configurations"][NAME]["spacing"][0] *= 1.5
    workspace.plan.write_text(json.dumps(content))


def cut_plan(workspace):
    workspace.plan.write_text(workspace.plan.read_text()[:100])


def alter_weights(workspace):
    flip(workspace.fold(NAME, "0") / "checkpoint_final.safetensors")


def exchange_weights(workspace):
    first_fold, second = (workspace.fold(NAME, fold) / "checkpoint_final.safetensors" for fold in ("0", "1"))
    shutil.copy(first_fold, second)


def exchange_folds(workspace):
    for name in ("checkpoint_best", "checkpoint_final"):
        for ending in (".safetensors", ".json"):
            shutil.copy(workspace.fold(NAME, "0") / (name + ending), workspace.fold(NAME, "1") / (name + ending))


def use_evaluation_of_other_weights(workspace):
    edit(workspace.validation_evaluation((NAME,), "0"), weights_hash="0" * 64)


def use_evaluation_of_another_fold(workspace):
    shutil.copy(*(workspace.validation_evaluation((NAME,), fold) for fold in ("1", "0")))


def select_other_weights(workspace):
    edit(workspace.selection, weights={NAME: {"0": "0" * 32}})


def select_untrained_fold(workspace):
    edit(workspace.selection, folds=["0", "2"])


def select_another_score(workspace):
    edit(workspace.selection, mean_foreground_dice=0.987)


REPAIR = "autoseg doctor {root} --repair"
PLAN = "autoseg-plan {dataset} -w {root}"
SELECT = "autoseg select {root}"
TRAIN = "autoseg-train {root} -c 3d_fullres -f "


@pytest.mark.parametrize(
    ("alter", "name", "what", "command"),
    [
        (alter_image, "phantoms", "has an image or a label map of case .* that was changed", PLAN),
        (remove_label_map, "phantoms", "case .*cannot be read|No such file|missing", "put the file back"),
        (alter_array, NAME, r"case .* has another array than was written \(its checksum differs\)", REPAIR),
        (remove_array, NAME, "case .* has no array", REPAIR),
        (use_array_of_another_plan, NAME, "case .* was preprocessed for another plan or from other files", PLAN),
        (cut_plan, "plan.json", r"is damaged \(not a valid Plan.*\)", PLAN),
        (alter_weights, "checkpoint_final.safetensors", "is damaged .*checksum", TRAIN + "0"),
        (exchange_weights, "checkpoint_final.safetensors", "another training than checkpoint_final.json", TRAIN),
        (use_evaluation_of_other_weights, "evaluation.json", "has the scores of other weights", TRAIN + "0"),
        (select_untrained_fold, "selection.json", "chooses fold 2 of 3d_fullres, which is not trained", SELECT),
        (select_other_weights, "selection.json", "was chosen with an earlier training of 3d_fullres, fold 0", SELECT),
        (select_another_score, "evaluation.json", "has another mean Dice than selection.json", SELECT),
    ],
)
def test_an_alteration_is_one_line_with_what_corrects_it(copied, alter, name, what, command):
    alter(copied)
    found = [mismatch for mismatch in verify_model(copied.root).mismatches if re.search(what, mismatch.what)]
    filled = command.format(root=copied.root, dataset=copied.root.parent / "phantoms")
    assert found
    assert found[0].file.endswith(name)
    assert filled in found[0].command


def test_label_maps_of_a_cascade_step_have_checksums(copied):
    path = copied.next_stage(NAME, "0", CASCADE) / "phantom_000.b2nd"
    labels = np.random.default_rng(0).integers(0, 3, (9, 8, 11)).astype(np.int16)
    save_label_map(path, labels, (8, 8, 8), "origin")
    assert verify_model(copied.root).checked["label maps of cascade steps"] == 1
    assert verify_model(copied.root).mismatches == ()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    (found,) = verify_model(copied.root).mismatches
    assert (found.file, found.what) == (str(path), "has another label map than was written (its checksum differs)")
    path.write_bytes(content[:100])
    assert "is missing or damaged" in verify_model(copied.root).mismatches[0].what


@pytest.mark.parametrize("alter", [alter_spacing, exchange_folds, use_evaluation_of_another_fold])
def test_alterations_that_concern_many_files_name_them(copied, alter):
    alter(copied)
    found = verify_model(copied.root).mismatches
    assert len(found) >= 2
    assert all("\n" not in mismatch.what for mismatch in found)


@pytest.mark.parametrize(
    ("changes", "note"), [({}, "may not belong together yet"), ({"pid": 2**22 + 1}, "does not run any more")]
)
def test_a_lock_is_a_note(copied, changes, note):
    with lock(copied.planning_lock, "planned"):
        edit(copied.planning_lock, **changes)
        verification = verify_model(copied.root)
    assert verification.mismatches == ()
    assert note in verification.notes[0]


def test_a_dataset_that_was_moved_is_a_note(copied):
    shutil.rmtree(copied.root.parent / "phantoms")
    verification = verify_model(copied.root)
    assert verification.mismatches == ()
    assert any("the dataset is not there" in note for note in verification.notes)


@pytest.mark.parametrize("form", ["model.zip", "model"])
def test_an_exported_model_is_compared_with_its_manifest(copied, tmp_path, form):
    output = tmp_path / form
    manifest = export_model(copied.root, output)
    verification = verify_model(output)
    assert verification.mismatches == ()
    assert verification.checked["files of the manifest"] == len(manifest.files)
    assert verification.checked["weights"] == 2
    if form == "model":
        flip(first(output, "models/*/*/*.safetensors"))
    else:
        content = output.read_bytes()
        output.write_bytes(content[: len(content) // 2])
    (mismatch,) = verify_model(output).mismatches
    assert mismatch.file == str(output)
    assert mismatch.command == "copy or download it again, or export it again"


def test_an_imported_model_has_no_more_than_plan_and_weights(tmp_path):
    write_two_configurations(tmp_path)
    verification = verify_model(tmp_path)
    assert verification.mismatches == ()
    assert verification.checked == {"records": 4, "weights": 3}


def test_something_else_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="neither a workspace nor an exported model"):
        verify_model(tmp_path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    assert "has no manifest.json" in verify_model(tmp_path / "other.zip").mismatches[0].what
