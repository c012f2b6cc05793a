"""Thresholds of regions on hand-made probabilities; results worked out by hand or by whole arrays."""

import numpy as np
import pytest
import SimpleITK
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.formats.reading import read_label_map
from autoseg.inference.restoring.restore import LogitStream, restore_labels
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.progress import no_progress
from autoseg.records.dataset import LabelValues
from autoseg.records.network import ResamplingSpec
from autoseg.records.workspace import Workspace
from autoseg.selection import thresholds, validation_run
from autoseg.selection.thresholds import THRESHOLDS, QuantizedCase, TunedThresholds
from autoseg.selection.validation_run import ValidatedFold, ValidationRun
from tests.builders import make_dataset, make_plan, make_record

LABELS: dict[str, LabelValues] = {"background": 0, "whole": (10, 20), "core": 20, "ignore": 99}
ENCODING = make_encoding(LABELS, (10, 20))
TRANSPOSE = (2, 0, 1)
SHAPE = (3, 4, 7)
"""Of every image, stored and working order (z, y, x); the outermost planes along x are cropped."""
MODEL = ("2d", "3d_fullres")


def place(shape=SHAPE):
    """What preprocessing did: transpose, crop x, nothing else."""
    z, y, x = shape
    return make_record(
        (x - 2, z, y), (0.7, 3.0, 0.9), original_shape=(x, z, y), crop_start=(1, 0, 0), crop_stop=(x - 1, z, y),
        transpose=TRANSPOSE,
    )  # fmt: skip


def logits_of(probabilities):
    """(K, Z, Y, X) of the whole image to the slices of the cropped, transposed grid."""
    inside = torch.logit(torch.as_tensor(probabilities, dtype=torch.float64))[..., 1:-1].float()
    return inside.permute(0, *(1 + axis for axis in TRANSPOSE)).unbind(1)


class Run:
    """Two members that agree; every case is a fold of its own."""

    def __init__(self, root, monkeypatch):
        self.root, self.monkeypatch, self.predicted = root, monkeypatch, []
        self.probabilities, self.references = {}, {}
        monkeypatch.setattr(thresholds, "weights_origin", lambda *_arguments: "weights")
        monkeypatch.setattr(validation_run, "predict_again", self.predict_again)

    def add(self, case, probabilities, reference):
        self.probabilities[case] = {name: np.asarray(probabilities) for name in MODEL}
        self.references[case] = reference
        for part, array in (("images", reference.astype(np.float32)), ("labels", reference.astype(np.uint8))):
            path = self.root / "data" / part / f"{case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing((0.7, 0.9, 3.0))
            SimpleITK.WriteImage(image, str(path))

    def predict_again(self, _run, _fold, _names, _cases):
        return self.answer

    def answer(self, name, case):
        self.predicted.append((name, case))
        return LogitStream(logits_of(self.probabilities[case][name]), place(), ResamplingSpec())

    def tune(self, progress=no_progress, labels=LABELS, encoding=ENCODING) -> TunedThresholds:
        plan = make_plan(labels=labels, encoding=encoding, transpose=TRANSPOSE)
        dataset = make_dataset(self.references, plan)
        run = ValidationRun(
            workspace=Workspace(self.root / "w"), dataset=dataset, dataset_folder=self.root / "data", plan=plan,
            device=torch.device("cpu"), precision="fp32",
        )  # fmt: skip
        return thresholds.tune_thresholds(run, MODEL, self.folds(), progress)

    def folds(self):
        found = []
        for number, (case, reference) in enumerate(self.references.items()):
            evaluation = summarize([score_case(case, reference, reference, LABELS)], ["whole", "core"])
            found.append(ValidatedFold(str(number), self.root / "before", evaluation))
        return found


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path, monkeypatch)


def case_of(*rows):
    """Rows `probability of whole, of core, reference value, how often`, one voxel after the other; then background."""
    probabilities, reference = np.full((2, *SHAPE), 0.02), np.zeros(SHAPE, dtype=np.uint8)
    voxels = [row[:3] for row in rows for _ in range(row[3])]
    inner = [index for index in np.ndindex(SHAPE) if 0 < index[2] < SHAPE[2] - 1]
    for index, (whole, core, value) in zip(inner, voxels, strict=False):
        probabilities[:, *index] = whole, core
        reference[index] = value
    return probabilities, reference


def test_a_lower_threshold_finds_what_one_half_misses(run):
    # whole: 4 of 10 voxels at 0.42, best at 0.1 to 0.4, of which 0.4 is the nearest to one half
    run.add("a", *case_of((0.9, 0.02, 10, 3), (0.42, 0.02, 10, 4), (0.9, 0.97, 20, 3)))
    run.add("b", *case_of((0.97, 0.02, 10, 5), (0.9, 0.8, 20, 2)))

    tuned = run.tune()

    assert tuned.thresholds == {"whole": 0.4}
    assert tuned.reasons == (
        "Threshold of whole 0.4 instead of one half: yes, Dice 0.8750 before, 1.0000 after.",
        "Threshold of core: one half is best of 0.1 to 0.9.",
    )
    assert [fold.fold for fold in tuned.folds] == ["0", "1"]
    for fold, (case, reference) in zip(tuned.folds, run.references.items(), strict=True):
        assert (
            fold.folder
            == run.root / "w" / "models" / "ensembles" / "2d+3d_fullres" / f"fold_{fold.fold}" / "thresholds"
        )
        np.testing.assert_array_equal(read_label_map(fold.folder / f"{case}.nii.gz").array[0], reference)
        assert fold.evaluation.mean_foreground_dice == 1.0
        assert not list(fold.folder.glob("*.b2nd"))


def test_thresholds_of_labels_that_overlap(run):
    """Value 30 is both: at a lower threshold the second label joins the first in 4 voxels, and replaces it nowhere."""
    labels: dict[str, LabelValues] = {"background": 0, "whole": (10, 30), "core": (20, 30)}
    run.add("a", *case_of((0.9, 0.02, 10, 3), (0.9, 0.42, 30, 4), (0.02, 0.9, 20, 3)))
    tuned = run.tune(labels=labels, encoding=make_encoding(labels, (10, 20), overlapping=True))
    assert tuned.thresholds == {"core": 0.4}
    np.testing.assert_array_equal(read_label_map(tuned.folds[0].folder / "a.nii.gz").array[0], run.references["a"])


def test_a_higher_threshold_drops_false_alarms(run):
    # core: 3 false voxels at 0.57 inside whole; above it they are gone, and whole does not change
    run.add("a", *case_of((0.9, 0.57, 10, 3), (0.9, 0.9, 20, 5)))
    assert run.tune().thresholds == {"core": 0.6}


def test_a_region_painted_over_another_must_not_harm_it(run):
    # At 0.35 core gains 4 voxels and one false one. The latter lies outside whole, which gets it through painting.
    run.add("a", *case_of((0.9, 0.37, 20, 4), (0.9, 0.9, 20, 2), (0.02, 0.37, 0, 1)))
    tuned = run.tune()
    assert tuned.thresholds == {}
    assert tuned.folds[0].folder == run.root / "before"
    # core before: 2 * 2 / (2 + 6); after: 2 * 6 / (7 + 6)
    expected = "Threshold of core 0.35 instead of one half: no, Dice 0.5000 before, 0.9231 after; lower for whole."
    assert tuned.reasons[1] == expected
    assert tuned.reasons[0].startswith("Threshold of whole: one half is best")


def test_a_small_gain_is_no_gain(run, monkeypatch):
    run.add("a", *case_of((0.9, 0.02, 10, 3), (0.42, 0.02, 10, 1)))
    monkeypatch.setattr(thresholds, "MIN_GAIN", 0.2)  # 6 / 7 before, 1 after
    tuned = run.tune()
    assert tuned.thresholds == {}
    assert "0.4 instead of one half: no, Dice 0.8571 before, 1.0000 after" in tuned.reasons[0]


def test_a_region_that_is_nowhere_spoils_nothing_and_its_false_alarms_may_go(run):
    run.add("a", *case_of((0.42, 0.02, 10, 4), (0.9, 0.02, 10, 4)))
    tuned = run.tune()
    assert tuned.thresholds == {"whole": 0.4}
    assert tuned.folds[0].evaluation.labels["core"].dice is None


def test_a_killed_sweep_goes_on_and_a_finished_one_is_not_repeated(run, monkeypatch):
    for case in "abc":
        run.add(case, *case_of((0.9, 0.02, 10, 3), (0.42, 0.02, 10, 4), (0.9, 0.97, 20, 3)))
    calls = []

    def stop(done, total):
        calls.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.tune(stop)
    assert calls == [(1, 3), (2, 3)]
    run.predicted.clear()
    first = run.tune()
    assert run.predicted == [(name, "c") for name in MODEL]
    run.predicted.clear()
    assert run.tune() == first
    assert run.predicted == []
    monkeypatch.setattr(thresholds, "weights_origin", lambda *_arguments: "other weights")
    assert run.tune() == first
    assert len(run.predicted) == 6


def test_counts_and_maps_equal_whole_arrays(run):
    """Members that differ, foreground outside the crop, ignored voxels."""
    generator = np.random.default_rng(5)
    for case in "ab":
        reference = generator.choice(np.array([0, 10, 20, 99], dtype=np.uint8), size=SHAPE)
        run.add(case, np.zeros((2, *SHAPE)), reference)
        for name in MODEL:
            drawn = generator.uniform(0.03, 0.97, size=(2, *SHAPE))
            run.probabilities[case][name] = np.clip(drawn + 0.1 * (reference == 20), 0.01, 0.99)
    seen = {}
    original = QuantizedCase.dice_by_threshold

    def watch(case):
        seen[case.name] = original(case)
        return seen[case.name]

    run.monkeypatch.setattr(QuantizedCase, "dice_by_threshold", watch)
    run.monkeypatch.setattr(thresholds, "MIN_GAIN", -1.0)
    tuned = run.tune()
    assert tuned.thresholds
    for fold, (case, reference) in zip(tuned.folds, run.references.items(), strict=True):
        mean = np.mean([run.probabilities[case][name] for name in MODEL], axis=0)
        mean[..., [0, -1]] = 0
        for region, values in enumerate([(10, 20), (20,)]):
            true = np.isin(reference, values)[reference != 99]
            for number, threshold in enumerate(THRESHOLDS):
                predicted = (mean[region] > threshold)[reference != 99]
                expected = 2 * (true & predicted).sum() / (true.sum() + predicted.sum())
                assert seen[case][number, region] == pytest.approx(expected)
        answers = [LogitStream(logits_of(run.probabilities[case][name]), place(), ResamplingSpec()) for name in MODEL]
        indices = restore_labels(answers, ENCODING, (), tuned.thresholds)
        found = read_label_map(fold.folder / f"{case}.nii.gz").array[0]
        np.testing.assert_array_equal(found, np.array([0, 10, 20])[indices])
        scores = score_case(case, found, reference, LABELS)
        assert fold.evaluation.cases[0].labels["core"].dice == scores.labels["core"].dice
