"""The decision by expected Dice on hand-made probabilities: accepted where cross-validation says so, kept, resumed."""

from contextlib import nullcontext

import numpy as np
import pytest
import SimpleITK
import torch

from autoseg.imaging.formats.reading import read_label_map
from autoseg.inference.restoring.restore import LogitStream, restore_labels
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.progress import no_progress
from autoseg.records.dataset import LabelValues
from autoseg.records.network import ResamplingSpec
from autoseg.records.workspace import Workspace
from autoseg.selection import label_decision, validation_run
from autoseg.selection.validation_run import ValidatedFold, ValidationRun
from autoseg.selection.verdicts import judge_decision
from tests.builders import make_dataset, make_plan, make_record

LABELS: dict[str, LabelValues] = {"background": 0, "one": 10, "two": 20}
PLAN = make_plan({"2d": (0.9, 0.7), "3d_fullres": (3.0, 0.9, 0.7)}, labels=LABELS)
SHAPE, SPACING = (3, 4, 7), (3.0, 0.9, 0.7)
MODEL = ("2d", "3d_fullres")


class Run:
    """Two members that agree; every case is a fold of its own."""

    def __init__(self, root, monkeypatch):
        self.root, self.predicted, self.origin = root, [], "weights"
        self.probabilities, self.references = {}, {}
        monkeypatch.setattr(validation_run, "weights_origin", lambda *_arguments: self.origin)
        monkeypatch.setattr(validation_run, "predict_again", lambda *_arguments: self.answer)

    def add(self, case, *rows):
        """Voxels one after the other: `probabilities of one and two, reference, how often`; then background."""
        probabilities, reference = np.full((3, *SHAPE), 0.001), np.zeros(SHAPE, dtype=np.uint8)
        voxels = [row[:3] for row in rows for _ in range(row[3])]
        for index, (one, two, value) in zip(np.ndindex(SHAPE), voxels, strict=False):
            probabilities[1:, *index] = one, two
            reference[index] = value
        probabilities[0] = 1 - probabilities[1:].sum(axis=0)
        self.probabilities[case], self.references[case] = probabilities, reference
        for part, array in (("images", reference.astype(np.float32)), ("labels", reference)):
            path = self.root / "data" / part / f"{case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(SPACING[::-1])
            SimpleITK.WriteImage(image, str(path))
        for name in MODEL:
            record = self.root / "w" / "preprocessed" / name / f"{case}.json"
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()

    def answer(self, name, case):
        self.predicted.append((name, case))
        logits = torch.log(torch.as_tensor(self.probabilities[case])).float()
        return LogitStream(logits.unbind(1), make_record(SHAPE, SPACING), ResamplingSpec())

    def folds(self):
        found = []
        for number, (case, reference) in enumerate(self.references.items()):
            labels = np.array([0, 10, 20])[restore_labels([self.answer("2d", case)], PLAN.encoding)]
            evaluation = summarize([score_case(case, labels, reference, LABELS)], ["one", "two"])
            found.append(ValidatedFold(str(number), self.root / "before", evaluation))
        self.predicted.clear()
        return found

    def decide(self, progress=no_progress):
        run = ValidationRun(
            workspace=Workspace(self.root / "w"), dataset=make_dataset(self.references, PLAN),
            dataset_folder=self.root / "data", plan=PLAN, device=torch.device("cpu"), precision="fp32",
        )  # fmt: skip
        return label_decision.try_expected_dice(run, MODEL, self.folds(), bar=lambda _title: nullcontext(progress))


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path, monkeypatch)


UNCERTAIN = ((0.9, 0.05, 10, 6), (0.46, 0.04, 10, 4), (0.02, 0.97, 20, 5))
"""Argmax misses four voxels of the first label: 6 of 10, Dice 0.75."""


def test_it_is_kept_where_it_is_better(run):
    run.add("a", *UNCERTAIN)
    run.add("b", *UNCERTAIN)
    decided = run.decide()
    assert decided.decision == "expected-dice"
    assert decided.reasons == (
        "Expected Dice of each label in each case decides: yes, Dice 0.8750 before, 1.0000 after.",
    )
    for fold, (case, reference) in zip(decided.folds, run.references.items(), strict=True):
        assert fold.folder.parts[-4:] == ("ensembles", "2d+3d_fullres", f"fold_{fold.fold}", "expected_dice")
        np.testing.assert_array_equal(read_label_map(fold.folder / f"{case}.nii.gz").array[0], reference)
        assert fold.evaluation.mean_foreground_dice == 1.0


def test_it_is_left_where_a_label_gets_worse(run):
    run.add("a", *UNCERTAIN, (0.01, 0.488, 0, 1))
    decided = run.decide()
    assert decided.decision == "argmax"
    assert decided.folds[0].folder == run.root / "before"
    assert decided.reasons == (
        "Expected Dice of each label in each case decides: no, Dice 0.8750 before, 0.9545 after; lower for two.",
    )


def test_a_small_gain_is_no_gain():
    def scores(dice):
        reference = np.zeros((1, 1, 4000), dtype=int)
        reference[..., :2000] = 10
        predicted = reference.copy()
        predicted[..., : round(2000 * (1 - dice))] = 0
        return summarize([score_case("a", predicted, reference, {"background": 0, "one": 10})], ["one"])

    is_accepted, sentence = judge_decision(scores(0.8), scores(0.8005))
    assert not is_accepted
    assert sentence.endswith("0.8892 after (0.001 more is required).")
    assert judge_decision(scores(0.8), scores(0.81))[0]
    assert judge_decision(scores(0.8), scores(0.8)) == (
        False, "Expected Dice of each label in each case decides: no, Dice 0.8889 before, 0.8889 after.",
    )  # fmt: skip


def test_an_interrupted_run_goes_on_and_a_finished_one_predicts_nothing(run):
    for case in "abc":
        run.add(case, *UNCERTAIN)
    calls = []

    def stop(done, total):
        calls.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.decide(stop)
    assert calls == [(1, 3), (2, 3)]
    first = run.decide()
    assert run.predicted == [(name, "c") for name in MODEL]
    assert run.decide() == first
    assert run.predicted == []
    run.origin = "other weights"
    assert run.decide() == first
    assert len(run.predicted) == 6


def test_without_preprocessed_cases_the_rest_of_the_selection_goes_on(run):
    run.add("a", *UNCERTAIN)
    (run.root / "w" / "preprocessed" / "3d_fullres" / "a.json").unlink()
    decided = run.decide()
    assert decided.decision == "argmax"
    assert decided.reasons == (
        "Expected Dice was not tried: the preprocessed data of case a is missing in 3d_fullres.",
    )
    assert run.predicted == []
