"""Which label maps a cascade may learn from, and what is said when some are missing or outdated."""

import re

import numpy as np
import pytest

from autoseg.errors import TrainingError
from autoseg.folds import find_outdated_folds
from autoseg.imaging.arrays.storage import label_map_origin
from autoseg.inference.models.cascade_maps import (
    NextStepMaps,
    is_trained_on_maps_of_today,
    load_previous,
    next_step_maps,
)
from autoseg.records.case import PreprocessedCase
from autoseg.records.checkpoint import Checkpoint, hash_of_cases
from autoseg.records.files import read_record, write_record
from autoseg.records.fingerprint import Fingerprint, data_hash
from autoseg.records.plan import Split, Splits
from tests.builders import (
    CASCADE,
    make_cascade_plan,
    make_case_fingerprint,
    make_fingerprint,
    make_record,
    write_model,
)

SHAPE = (9, 8, 11)
CASES = ("a", "b", "c", "d")
HELD_OUT = {"0": ("a", "d"), "1": ("b", "c")}


def record_of(case, configuration, shape, spacing):
    return make_record(
        shape, spacing, case=case, configuration=configuration, original_spacing=(1.0,) * 3,
        original_shape=(10, 10, 12), content_hash=f"content of {case}",
    )  # fmt: skip


@pytest.fixture
def plan():
    return make_cascade_plan((2.0, 2.0, 2.0), (1.1, 1.2, 1.1))


@pytest.fixture
def workspace(tmp_path, plan):
    """Two folds of 3d_lowres, trained and validated."""
    workspace = write_model(tmp_path / "w", plan, {"3d_lowres": ("0", "1")})
    folds = tuple(
        Split(training=tuple(case for case in CASES if case not in held_out), validation=held_out)
        for held_out in HELD_OUT.values()
    )
    write_record(Splits(folds=folds, reason="by hand"), workspace.splits)
    for case in CASES:
        record = record_of(case, "3d_fullres", SHAPE, (1.1, 1.2, 1.1))
        write_record(record, workspace.preprocessed("3d_fullres") / f"{case}.json")
    for fold in HELD_OUT:
        write_maps(workspace, plan, fold)
    return workspace


def write_maps(workspace, plan, fold):
    (stage,) = next_step_maps(workspace, plan, "3d_lowres", fold)
    for case in HELD_OUT[fold]:
        stage.write(stage.grid(case), np.full(SHAPE, ord(case) % 3, dtype=np.uint8))


def refused(workspace, plan, *found, commands):
    """The message of the refusal, line by line."""
    with pytest.raises(TrainingError, match=f"{CASCADE} takes the label maps of 3d_lowres as input") as caught:
        load_previous(workspace, plan, CASCADE, CASES)
    _, *lines = str(caught.value).splitlines()
    expected = [f"  autoseg-train {workspace.root} -c 3d_lowres -f {words}" for words in commands]
    assert lines == [*(f"  {what}" for what in found), "Run first:", *expected]


def test_every_case_gets_the_map_of_the_fold_that_held_it_out(workspace, plan):
    maps = load_previous(workspace, plan, CASCADE, CASES)
    assert tuple(maps) == CASES
    for case, array in maps.items():
        assert array.dtype == np.int16
        assert array.shape == SHAPE
        assert (array[2:5, :, 3:] == ord(case) % 3).all()
    assert tuple(load_previous(workspace, plan, CASCADE, ("c",))) == ("c",)
    assert (workspace.root / "models/3d_lowres/fold_1/next_stage" / CASCADE / "c.b2nd").is_file()


def test_only_what_a_cascade_builds_on_has_a_next_stage(workspace, plan):
    assert next_step_maps(workspace, plan, "3d_lowres", "0") == (NextStepMaps(workspace, plan, "0", CASCADE),)
    assert next_step_maps(workspace, plan, "3d_fullres", "0") == ()
    assert next_step_maps(workspace, plan, CASCADE, "0") == ()


def test_untrained_folds_are_listed(workspace, plan):
    for fold in HELD_OUT:
        (workspace.fold("3d_lowres", fold) / "checkpoint_final.json").unlink()
    refused(
        workspace, plan,
        "fold 0 is not trained completely (2 cases)", "fold 1 is not trained completely (2 cases)", commands=["0", "1"],
    )  # fmt: skip


def test_missing_and_damaged_maps_are_counted(workspace, plan):
    folder = workspace.next_stage("3d_lowres", "1", CASCADE)
    (folder / "b.b2nd").unlink()
    refused(workspace, plan, "fold 1 has not written its label maps (1 cases)", commands=["1"])
    (folder / "c.b2nd").write_bytes(b"half")
    refused(workspace, plan, "fold 1 has not written its label maps (2 cases)", commands=["1"])
    assert tuple(load_previous(workspace, plan, CASCADE, ("a", "d"))) == ("a", "d")


def test_maps_with_a_flipped_bit_are_named_and_made_again(workspace, plan):
    path = workspace.next_stage("3d_lowres", "1", CASCADE) / "c.b2nd"
    noise = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    (stage,) = next_step_maps(workspace, plan, "3d_lowres", "1")
    stage.write(stage.grid("c"), noise)
    assert len(load_previous(workspace, plan, CASCADE, CASES)) == 4
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    refused(
        workspace, plan, "fold 1 has label maps that are damaged (their checksum differs) (1 cases)", commands=["1"]
    )


def test_the_report_knows_by_records_alone_that_the_previous_step_was_trained_again(workspace, plan):
    split = read_record(Splits, workspace.splits).folds[0]
    facts = [make_case_fingerprint(case, content_hash=case) for case in CASES]
    write_record(make_fingerprint(facts, plan), workspace.fingerprint)
    origins = [label_map_origin(array) for _, array in sorted(load_previous(workspace, plan, CASCADE, CASES).items())]
    write_model(workspace.root, plan, {CASCADE: ("0",)})
    path = workspace.fold(CASCADE, "0") / "checkpoint_final.json"
    hashes = {
        "cases_hash": hash_of_cases(split.training, origins),
        "data_hash": data_hash(read_record(Fingerprint, workspace.fingerprint), split),
    }
    write_record(read_record(Checkpoint, path).model_copy(update=hashes), path)
    assert find_outdated_folds(workspace, plan) == {}

    previous = workspace.fold("3d_lowres", "1") / "checkpoint_final.json"
    trained = read_record(Checkpoint, previous)
    write_record(trained.model_copy(update={"elapsed_seconds": 7.5}), previous)
    what = "was trained on label maps of an earlier training of 3d_lowres"
    assert find_outdated_folds(workspace, plan) == {(CASCADE, "0"): what}
    previous.unlink()
    assert find_outdated_folds(workspace, plan) == {}
    write_record(trained, previous)
    (workspace.preprocessed("3d_fullres") / "a.json").unlink()
    assert find_outdated_folds(workspace, plan) == {}


def test_maps_of_an_earlier_training_are_outdated(workspace, plan):
    path = workspace.fold("3d_lowres", "0") / "checkpoint_final.json"
    longer = read_record(Checkpoint, path).model_copy(update={"step": 2})
    write_record(longer, path)
    what = "fold 0 or its preprocessed cases changed after its label maps were written (2 cases)"
    refused(workspace, plan, what, commands=["0"])
    write_maps(workspace, plan, "0")
    assert len(load_previous(workspace, plan, CASCADE, CASES)) == 4


@pytest.mark.parametrize("change", [{"content_hash": "another image"}, {"shape": (9, 8, 12)}])
def test_maps_of_other_preprocessed_cases_are_outdated(workspace, plan, change):
    path = workspace.preprocessed("3d_fullres") / "b.json"
    write_record(read_record(PreprocessedCase, path).model_copy(update=change), path)
    what = "fold 1 or its preprocessed cases changed after its label maps were written (1 cases)"
    refused(workspace, plan, what, commands=["1"])


def test_a_fold_of_another_plan_must_be_trained_again(workspace, plan):
    changed = plan.model_copy(update={"orientation": "as_stored"})
    found = [f"fold {fold} was trained for another plan (2 cases)" for fold in HELD_OUT]
    refused(workspace, changed, *found, commands=["0 --restart", "1 --restart"])


def test_a_case_that_no_fold_holds_out_is_refused(workspace, plan):
    splits = read_record(Splits, workspace.splits)
    write_record(splits.model_copy(update={"folds": splits.folds[:1]}), workspace.splits)
    message = f"{re.escape(str(workspace.splits))}: 2 cases, b first, are in the validation part of no fold"
    with pytest.raises(TrainingError, match=message):
        load_previous(workspace, plan, CASCADE, CASES)


def test_a_cascade_of_an_earlier_training_of_its_previous_step_is_noticed(workspace, plan):
    """Retrained: with label maps made again, without, and not yet finished."""
    split = read_record(Splits, workspace.splits).folds[0]
    origins = [label_map_origin(array) for _, array in sorted(load_previous(workspace, plan, CASCADE, CASES).items())]
    path = workspace.fold("3d_lowres", "1") / "checkpoint_final.json"
    previous = read_record(Checkpoint, path)
    cascade = previous.model_copy(update={"cases_hash": hash_of_cases(split.training, origins)})
    assert is_trained_on_maps_of_today(workspace, plan, CASCADE, split, cascade)

    write_record(previous.model_copy(update={"elapsed_seconds": 7.5}), path)
    assert not is_trained_on_maps_of_today(workspace, plan, CASCADE, split, cascade)
    write_maps(workspace, plan, "1")
    assert not is_trained_on_maps_of_today(workspace, plan, CASCADE, split, cascade)
    path.unlink()
    assert not is_trained_on_maps_of_today(workspace, plan, CASCADE, split, cascade)

    imported = cascade.model_copy(update={"cases_hash": ""})
    assert is_trained_on_maps_of_today(workspace, plan, CASCADE, split, imported)
    (workspace.preprocessed("3d_fullres") / "a.json").unlink()
    assert is_trained_on_maps_of_today(workspace, plan, CASCADE, split, cascade)
