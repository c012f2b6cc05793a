"""Weights of a pair's members on hand-made probabilities: chosen by the margin, one pass for all, kept and resumed."""

import numpy as np
import pytest
import SimpleITK
import torch

from autoseg.imaging.formats.reading import read_label_map
from autoseg.inference.restoring.restore import LogitStream
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.progress import no_bar
from autoseg.records.dataset import LabelValues
from autoseg.records.network import ResamplingSpec
from autoseg.records.workspace import Workspace
from autoseg.selection import validation_run
from autoseg.selection.validation_run import ValidatedFold, ValidationRun
from autoseg.selection.verdicts import rank_candidates
from autoseg.selection.weights import FIRST_WEIGHTS, weigh_members
from tests.builders import make_dataset, make_plan, make_record

LABELS: dict[str, LabelValues] = {"background": 0, "one": 10}
PLAN = make_plan({"2d": (0.9, 0.7), "3d_fullres": (3.0, 0.9, 0.7)}, labels=LABELS)
SHAPE, SPACING = (2, 5, 10), (3.0, 0.9, 0.7)
PAIR = ("2d", "3d_fullres")


class Run:
    """The second member is right, and the first one is surer of the opposite in some voxels; each case is a fold."""

    def __init__(self, root, monkeypatch):
        self.root, self.predicted, self.references, self.probabilities = root, [], {}, {}
        monkeypatch.setattr(validation_run, "predict_again", lambda run, *_others: lambda *of: self.answer(run, *of))
        for fold in "01":
            for name in PAIR:
                folder = self.workspace.fold(name, fold)
                folder.mkdir(parents=True)
        monkeypatch.setattr(
            validation_run, "weights_origin", lambda run, *_others: f"{sorted(run.member_weights.items())}"
        )

    @property
    def workspace(self):
        return Workspace(self.root / "w")

    def add(self, case, *, first, second):
        """Ten voxels of the label; in four of them both members have these probabilities of it."""
        reference = np.zeros(SHAPE, dtype=np.uint8)
        reference[0, 0, :] = 10
        for name, probability in zip(PAIR, (first, second), strict=True):
            own = np.where(reference == 10, 0.9, 0.1).astype(float)
            own[0, 0, :4] = probability
            self.probabilities[name, case] = own
        self.references[case] = reference
        for part, array in (("images", reference.astype(np.float32)), ("labels", reference)):
            path = self.root / "data" / part / f"{case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(SPACING[::-1])
            SimpleITK.WriteImage(image, str(path))
        for name in PAIR:
            record = self.workspace.preprocessed(name) / f"{case}.json"
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()

    def answer(self, run, name, case):
        self.predicted.append((name, case))
        own = torch.as_tensor(self.probabilities[name, case])
        logits = torch.log(torch.stack([1 - own, own])).float()
        return LogitStream(
            logits.unbind(1), make_record(SHAPE, SPACING), ResamplingSpec(), run.member_weights.get(name)
        )  # fmt: skip

    def folds(self, decide):
        found = []
        for number, (case, reference) in enumerate(self.references.items()):
            labels = np.where(decide(case), 10, 0)
            scores = summarize([score_case(case, labels, reference, LABELS)], ["one"])
            found.append(ValidatedFold(str(number), self.workspace.validation(PAIR, str(number)), scores))
        return found

    def weigh(self, *, wanted=True):
        first, second = (lambda case, name=name: self.probabilities[name, case] > 0.5 for name in PAIR)
        validated = {
            ("2d",): self.folds(first),
            ("3d_fullres",): self.folds(second),
            PAIR: self.folds(lambda case: sum(self.probabilities[name, case] for name in PAIR) > 1),
        }
        candidates, _ = rank_candidates(
            {names: [case for fold in folds for case in fold.evaluation.cases] for names, folds in validated.items()},
            dict.fromkeys(validated, ("0", "1")), ["one"],
        )  # fmt: skip
        run = ValidationRun(
            workspace=self.workspace, dataset=make_dataset(self.references, PLAN), dataset_folder=self.root / "data",
            plan=PLAN, device=torch.device("cpu"), precision="fp32",
        )  # fmt: skip
        return weigh_members(run, candidates, validated, no_bar, wanted=wanted)


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path, monkeypatch)


def test_better_weights_are_chosen_and_their_maps_stay(run):
    # half and half 0.43; with 0.35: 0.35 * 0.2 + 0.65 * 0.66 = 0.499; with 0.2: 0.568. The second alone misses case b.
    run.add("a", first=0.2, second=0.66)
    run.add("b", first=0.9, second=0.42)  # with 0.2: 0.516
    candidates, folds, (sentence,) = run.weigh()
    best = candidates[0]
    assert (best.configurations, best.member_weights, best.mean_foreground_dice) == (PAIR, (0.2, 0.8), 1.0)
    assert [item.member_weights for item in candidates[1:]] == [(), (), ()]
    assert sentence.startswith(
        "Best weights, 0.2 2d + 0.8 3d_fullres, against 2d: Dice +0.1250, and 0.002 is required; chosen. 95 % interval"
    )
    for fold, (case, reference) in zip(folds, run.references.items(), strict=True):
        assert fold.folder.parts[-3:] == ("2d+3d_fullres", f"fold_{fold.fold}", "weighted_0.2")
        np.testing.assert_array_equal(read_label_map(fold.folder / f"{case}.nii.gz").array[0], reference)
    assert run.predicted == [(name, case) for case in "ab" for name in PAIR]  # one pass for all weights
    run.predicted.clear()
    assert run.weigh()[0] == candidates
    assert run.predicted == []


def test_no_gain_no_weights(run):
    run.add("a", first=0.9, second=0.9)
    run.add("b", first=0.9, second=0.9)
    candidates, folds, (sentence,) = run.weigh()
    assert candidates[0].configurations == ("2d",)
    assert [item.member_weights for item in candidates].count(()) == 3
    assert "Dice +0.0000, and 0.002 is required; not chosen." in sentence
    assert [fold.evaluation.mean_foreground_dice for fold in folds] == [1.0, 1.0]
    assert len(FIRST_WEIGHTS) == 4


def test_nothing_is_tried_unasked_or_without_preprocessed_cases(run):
    run.add("a", first=0.2, second=0.66)
    run.add("b", first=0.9, second=0.42)
    assert run.weigh(wanted=False)[2] == ()
    (run.workspace.preprocessed("2d") / "b.json").unlink()
    candidates, _, reasons = run.weigh()
    assert reasons == ("No weights of 2d + 3d_fullres were tried: the preprocessed data of case b is missing in 2d.",)
    assert len(candidates) == 3
    assert run.predicted == []
