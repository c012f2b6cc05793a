"""A student on the phantoms, two of which are unlabelled; networks are tiny, and nothing much is learnt."""

import shutil

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.imaging.arrays.soft_codes import decode_soft_labels
from autoseg.imaging.arrays.storage import open_case
from autoseg.inference.models.case_logits import stream_stored_case
from autoseg.inference.models.loading import load_configuration
from autoseg.networks.devices import choose_device
from autoseg.pipeline import PlanningOptions, plan_dataset
from autoseg.records.budget import Budget, Throughput
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.records.selection import Selection
from autoseg.records.unlabelled import SoftLabelsRecord, StudentRecord, UnlabelledImages
from autoseg.records.workspace import Workspace
from autoseg.report.page.render import render_report
from autoseg.stages import learn, unlabelled_images
from autoseg.stages.learn import LearningOptions, learn_unlabelled
from autoseg.stages.plan_students import add_student
from autoseg.stages.select import SelectionOptions
from autoseg.stages.train import train_fold
from autoseg.stages.unlabelled_images import announce_unlabelled
from autoseg.training.folds.soft_cases import RECORD_NAME, find_soft_cases
from tests.training.small_folds import NAME, SHORT, shrink_plan

STUDENT = f"{NAME}_student"
OPTIONS = LearningOptions(
    min_confidence=0.2,
    training=SHORT,
    selection=SelectionOptions(ensembles=False, expected_dice=False, confidence=False, device="cpu"),
)


@pytest.fixture(scope="module")
def taught_once(planned_phantoms, tmp_path_factory):
    """A workspace with two trained folds of the teacher, beside a link to its dataset; read only."""
    root = tmp_path_factory.mktemp("taught") / "phantoms.autoseg"
    shutil.copytree(planned_phantoms.root, root)
    (root.parent / "phantoms").symlink_to(planned_phantoms.root.parent / "phantoms")
    workspace = Workspace(root)
    shrink_plan(workspace)
    for fold in ("0", "1"):
        train_fold(workspace, NAME, fold, SHORT)
    return workspace


@pytest.fixture
def taught(taught_once, tmp_path):
    """A copy of it to learn in."""
    shutil.copytree(taught_once.root.parent, tmp_path / "data", symlinks=True)
    return Workspace(tmp_path / "data" / taught_once.root.name)


@pytest.fixture
def images(phantom_dataset, tmp_path):
    """Two unlabelled images, a copy of a labelled one in a file of its own, one of its name, and a broken file."""
    folder = tmp_path / "new"
    folder.mkdir()
    for number, path in enumerate(sorted((phantom_dataset / "imagesTs").glob("*.nii.gz"))):
        shutil.copy(path, folder / f"new{number}.nii.gz")
    labelled = nibabel.load(phantom_dataset / "imagesTr" / "phantom_001_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(labelled.dataobj), labelled.affine), folder / "copy.nii")
    shutil.copy(folder / "new0.nii.gz", folder / "phantom_002.nii.gz")
    (folder / "broken.nii.gz").write_text("not an image")
    (folder / "empty.nii.gz").touch()
    return folder


def test_a_student_learns_and_resumes_and_is_judged(taught, images, monkeypatch, caplog):
    learnt = learn_unlabelled(taught, images, OPTIONS)
    assert [image.case for image in learnt.images.cases] == ["new0", "new1"]
    assert read_record(UnlabelledImages, taught.unlabelled) == learnt.images
    said = "\n".join(learnt.images.left_out)
    assert "copy.nii: has the same voxels as the labelled case phantom_001" in said
    assert "has the name of the labelled case phantom_002" in said
    for name in ("broken", "empty"):
        assert f"{name}: cannot be used and is left out: " in said
    assert all(sentence in caplog.text for sentence in learnt.images.left_out)

    plan = read_record(Plan, taught.plan)
    assert list(plan.configurations) == [NAME, STUDENT]
    for fold in ("0", "1"):
        checkpoint = read_record(Checkpoint, taught.fold(STUDENT, fold) / "checkpoint_final.json")
        assert checkpoint.finished
        assert checkpoint.weights == "average"
        labels = read_record(SoftLabelsRecord, taught.soft_labels(STUDENT, fold) / RECORD_NAME)
        assert labels.cases == ("new0", "new1")
    record = read_record(StudentRecord, taught.student_record(STUDENT))
    assert record == learnt.record
    assert (record.teacher, record.folds, record.num_unlabelled) == (NAME, ("0", "1"), 2)
    selection = read_record(Selection, taught.selection)
    assert record.reason in selection.reasons
    assert (STUDENT in {item.configurations[0] for item in selection.candidates}) is record.is_kept

    page = render_report(taught).read_text()
    section = page[page.index('<section id="unlabelled">') :]
    assert record.reason.split(";")[0] in section
    assert "has the name of the labelled case phantom_002" in section

    def refuse(*_arguments, **_options):
        raise AssertionError("made again")

    (images / "copy.nii").unlink()  # a copy is not kept, so it would be read again
    monkeypatch.setattr(learn, "label_softly", refuse)
    monkeypatch.setattr(unlabelled_images, "preprocess_case", refuse)
    monkeypatch.setattr("autoseg.stages.train.train_until_done", refuse)
    assert learn_unlabelled(taught, images, OPTIONS).record == record


def test_a_student_is_trained_again_for_other_images(taught, images, caplog):
    caplog.set_level("INFO", logger="autoseg")
    (taught.fold(NAME, "1") / "checkpoint_final.safetensors").unlink()  # one fold is enough here
    first = learn_unlabelled(taught, images, OPTIONS)
    hashes = [read_record(Checkpoint, taught.fold(STUDENT, "0") / "checkpoint_final.json").cases_hash]
    image = nibabel.load(images / "new1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), images / "other.nii.gz")
    (images / "new1.nii.gz").unlink()
    caplog.clear()
    second = learn_unlabelled(taught, images, OPTIONS)
    assert "3d_fullres_student, fold 0 is trained again" in caplog.text
    hashes.append(read_record(Checkpoint, taught.fold(STUDENT, "0") / "checkpoint_final.json").cases_hash)
    assert hashes[0] != hashes[1]
    assert first.record.folds == second.record.folds == ("0",)
    assert [image.case for image in second.images.cases] == ["new0", "other"]
    assert not (taught.soft_labels(STUDENT, "0") / "new1.json").exists()


def test_fold_k_learns_from_fold_k_alone(taught, images):
    """The labels of each fold are what its own network says, and training begins with that network's weights."""
    learn_unlabelled(taught, images, OPTIONS)
    plan = read_record(Plan, taught.plan)
    found = {}
    for fold in ("0", "1"):
        loaded = load_configuration(taught, plan, NAME, [fold], "final", choose_device("cpu"))
        image = open_case(taught.unlabelled_arrays(NAME), "new0")
        logits = np.stack([rows.numpy() for rows in stream_stored_case(loaded, image).slices], axis=1)
        codes = open_case(taught.soft_labels(STUDENT, fold), "new0").array[0]
        labels, _ = decode_soft_labels(codes, len(plan.encoding.values))
        inside = labels >= 0
        np.testing.assert_array_equal(labels[inside], logits.argmax(axis=0)[inside])
        found[fold] = labels
        soft = find_soft_cases(taught, plan, STUDENT, fold)
        assert soft is not None
        assert soft.teacher == taught.fold(NAME, fold)
        assert soft.cases == ("new0", "new1")
    assert not np.array_equal(found["0"], found["1"])


def test_a_student_needs_labels_of_todays_teacher(taught, images):
    learn_unlabelled(taught, images, OPTIONS)
    plan = read_record(Plan, taught.plan)
    path = taught.fold(NAME, "0") / "checkpoint_final.json"
    write_record(read_record(Checkpoint, path).model_copy(update={"seed": 5}), path)
    with pytest.raises(UsageError, match=f"fold 0 of {NAME} was trained again since it labelled.*autoseg learn"):
        find_soft_cases(taught, plan, STUDENT, "0")
    (taught.soft_labels(STUDENT, "1") / RECORD_NAME).unlink()
    with pytest.raises(UsageError, match=f"fold 1 of {NAME} has not labelled"):
        train_fold(taught, STUDENT, "1", SHORT)
    assert find_soft_cases(taught, plan, NAME, "0") is None
    with pytest.raises(UsageError, match=f"{STUDENT} is trained on single folds"):
        train_fold(taught, STUDENT, "all", SHORT)


def test_a_folder_of_labelled_images_is_refused(taught, phantom_dataset):
    with pytest.raises(UsageError, match="all 6 images are labelled cases of the dataset"):
        learn_unlabelled(taught, phantom_dataset / "imagesTr", OPTIONS)


def test_an_unusable_folder_is_refused_before_a_run_begins(taught, images, tmp_path):
    description = read_record(DatasetDescription, taught.dataset)
    folder = taught.dataset_folder(description.folder)
    description = description.model_copy(update={"folder": str(folder)})
    announce_unlabelled(images, description)
    (tmp_path / "bad").mkdir()
    for name in ("new0", "new1"):
        image = nibabel.load(images / f"{name}.nii.gz")
        twice = np.stack([np.asarray(image.dataobj)] * 2, axis=-1)
        nibabel.save(nibabel.Nifti1Image(twice, image.affine), tmp_path / "bad" / f"{name}.nii.gz")
    with pytest.raises(UsageError, match=r"none of the images can be used, the first: new0: .*has 2 channel\(s\)"):
        announce_unlabelled(tmp_path / "bad", description)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no images here"):
        announce_unlabelled(tmp_path / "none", description)


def test_planning_again_keeps_the_student(taught, phantom_dataset):
    plan = read_record(Plan, taught.plan)
    write_record(add_student(plan, NAME), taught.plan)
    slow = tuple(Throughput(dimensions=d, base_features=8, macs_per_second=1e9) for d in (2, 3))
    options = PlanningOptions(planner="unet", folds=3, preprocess=False)
    plan_dataset(phantom_dataset, taught, Budget(device="cpu", throughput=slow), options)
    assert STUDENT in read_record(Plan, taught.plan).configurations


def test_images_of_which_none_can_be_used_are_refused(taught, tmp_path):
    (tmp_path / "bad").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 8, 7), np.float32), np.eye(4)), tmp_path / "bad" / "x.nii.gz")
    with pytest.raises(UsageError, match=r"the first: x: .*the image is constant, every voxel is 0"):
        learn_unlabelled(taught, tmp_path / "bad", OPTIONS)


def test_a_run_that_finds_objects_refuses_unlabelled_images(phantom_dataset, tmp_path, capsys):
    words = ["run", str(phantom_dataset), "-w", str(tmp_path / "w"), "--target", "mask-rcnn", "--device", "cpu"]
    assert main([*words, "--unlabelled", str(phantom_dataset / "imagesTs"), "--dry-run"]) == 2
    assert "--unlabelled needs probabilities of voxels" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_words_of_the_terminal(taught, tmp_path, capsys):
    assert main(["learn", str(taught.root)]) == 2
    assert "learns from no unlabelled images yet; name their folder with --unlabelled" in capsys.readouterr().err
    assert main(["learn", str(taught.root), "--unlabelled", str(tmp_path / "none")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["learn", str(taught.root), "--unlabelled", str(tmp_path), "-c", "other"]) == 2
    assert f"no configuration 'other' in the plan; it has {NAME}" in capsys.readouterr().err
