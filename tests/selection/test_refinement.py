"""Boundary refinement from held-out cases to predictions, with a network whose mistakes are made by hand."""

import json
import math
import shutil

import nibabel
import numpy as np
import pytest
import torch

from autoseg.errors import PredictionError
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.networks.build import build_network
from autoseg.networks.refiner import RefinerNetwork
from autoseg.progress import no_progress
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan, Split, Splits, model_hash
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.selection import refinement
from autoseg.selection.held_out import group_cases
from autoseg.selection.refinement import refine_model
from autoseg.selection.validation_run import ValidationRun
from autoseg.stages.describe import describe_dataset
from autoseg.stages.export import export_model
from autoseg.stages.fingerprint import extract_fingerprint
from autoseg.stages.predict import PredictionOptions, Predictor
from autoseg.stages.select import SelectionOptions, select_model
from autoseg.training.folds.checkpointing import save_weights
from autoseg.training.refinement import RefinementOptions, TrainedRefiner
from tests.builders import make_plan, write_nifti

FOLDS = {"0": ("c0", "c1", "c2"), "1": ("c3", "c4", "c5")}
CASES = (*FOLDS["0"], *FOLDS["1"])
OPTIONS = RefinementOptions(seconds=math.inf, max_steps=60)
SHAPE, SPACING = (5, 36, 33), (8.0, 1.0, 1.0)  # slices so far apart that refiners are 2D
DILATED_BELOW = 0.35
"""Of the twice normalised box mean of 3 x 3: a third of a bright neighbourhood is above it, a ninth is not."""


def draw_ball(seed):
    """A bright ball in noise, and where it is."""
    generator = np.random.default_rng(seed)
    centre = (2, *generator.uniform(14, 19, 2))
    grid = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    distances = [((axis - at) * mm) ** 2 for axis, at, mm in zip(grid, centre, (3.0, 1.0, 1.0), strict=True)]
    ball = sum(distances) <= generator.uniform(7, 9) ** 2
    return 2.0 * ball + generator.normal(0, 0.1, SHAPE), ball


def dilating_weights(network):
    """Box mean of 3 x 3 in plane, kept by every layer, and a low threshold at the end."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    weights["encoder.levels.0.0.convolution.weight"][0, 0, 1] = 1 / 9
    weights["decoder.levels.0.blocks.0.convolution.weight"][0, 4, 1, 1, 1] = 1.0
    for name in ("encoder.levels.0.0", "decoder.levels.0.blocks.0"):
        weights[f"{name}.normalization.weight"][:] = 1.0
    weights["decoder.heads.0.weight"][1, 0] = 10.0
    weights["decoder.heads.0.bias"][1] = -10.0 * DILATED_BELOW
    return weights


def read_nifti(path):
    return nibabel.load(path).get_fdata().transpose(2, 1, 0).astype(np.uint8)


def write_model(workspace):
    plan = make_plan({"3d_fullres": SPACING}, labels={"background": 0, "ball": 1}, normalization="none")
    one_window = plan.configurations["3d_fullres"].model_copy(update={"patch_size": (6, 36, 34)})
    plan = plan.model_copy(update={"configurations": {"3d_fullres": one_window}})
    write_record(plan, workspace.plan)
    network = build_network(one_window.network.model_copy(update={"deep_supervision": False}), deep_supervision=False)
    for fold in FOLDS:
        record = Checkpoint(
            configuration="3d_fullres", fold=fold, model_hash=model_hash(plan, "3d_fullres"), cases_hash="made",
            training=one_window.training, epoch=1, step=1, elapsed_seconds=0.0,
        )  # fmt: skip
        weights = dilating_weights(network)
        save_weights(weights, record, workspace.fold("3d_fullres", fold) / "checkpoint_final")


class Made:
    """A workspace whose model predicts balls one voxel too large, and truth that depends on the prediction."""

    def __init__(self, root, truth):
        self.workspace, self.data = Workspace(root / "made.autoseg"), root / "data"
        write_model(self.workspace)
        predictor = Predictor(self.workspace.root, PredictionOptions(device="cpu", precision="fp32"))
        write_record(
            Splits(folds=tuple(Split(training=(), validation=names) for names in FOLDS.values()), reason="made"),
            self.workspace.splits,
        )
        self.coarse, self.truth = {}, {}
        for seed, case in enumerate(CASES):
            image, ball = draw_ball(seed)
            write_nifti(image.astype(np.float32), self.data / "imagesTr" / f"{case}_0000.nii.gz", SPACING)
            self.coarse[case] = predictor.predict(self.image(case)).labels
            self.truth[case] = truth(case, ball, self.coarse[case]).astype(np.uint8)
            write_nifti(self.truth[case], self.data / "labelsTr" / f"{case}.nii.gz", SPACING)
        described = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "ball": 1}, "numTraining": len(CASES)}
        (self.data / "dataset.json").write_text(json.dumps({**described, "file_ending": ".nii.gz"}))
        description = describe_dataset(self.data)
        write_record(extract_fingerprint(description, self.data), self.workspace.fingerprint)
        write_record(description.model_copy(update={"folder": "../data"}), self.workspace.dataset)

    def image(self, case):
        return self.data / "imagesTr" / f"{case}_0000.nii.gz"

    def validate(self):
        for fold, names in FOLDS.items():
            folder = self.workspace.fold("3d_fullres", fold) / "validation"
            scores = [score_case(case, self.coarse[case], self.truth[case], {"ball": 1}) for case in names]
            for case in names:
                write_nifti(self.coarse[case], folder / f"{case}.nii.gz", SPACING)
            write_record(summarize(scores, ["ball"]), folder / "evaluation.json")

    @property
    def selection(self):
        return read_record(Selection, self.workspace.selection)

    def refine(self, folds=FOLDS, options=OPTIONS, progress=no_progress):
        run = ValidationRun(
            workspace=self.workspace, dataset=read_record(DatasetDescription, self.workspace.dataset),
            dataset_folder=self.data, plan=read_record(Plan, self.workspace.plan), device=torch.device("cpu"),
        )  # fmt: skip
        return refine_model(run, ("3d_fullres",), folds, options, progress=progress)


def head_bias(network):
    return network.state_dict()["network.decoder.heads.0.bias"]


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """Truth is the ball: everything predicted is one voxel too large."""
    made = Made(tmp_path_factory.mktemp("dilated"), lambda _case, ball, _coarse: ball)
    made.validate()
    select_model(made.workspace, options=SelectionOptions(refinement=OPTIONS, device="cpu"))
    return made


def dice(labels, truth):
    return 2 * (labels & truth).sum() / (labels.sum() + truth.sum())


@pytest.mark.slow
def test_balls_that_are_too_large_are_mended(selected):
    refinement = selected.selection.refinement
    assert refinement is not None
    assert refinement.patches.size == (1, 48, 48)
    before, after = refinement.before, refinement.after
    coarse = np.mean([dice(selected.coarse[case], selected.truth[case]) for case in CASES])
    assert before.mean_foreground_dice == pytest.approx(coarse)
    assert coarse < 0.93
    assert after.mean_foreground_dice > 0.96
    assert after.surface_dice >= before.surface_dice
    assert after.hausdorff_95_mm < before.hausdorff_95_mm
    (reason,) = (reason for reason in selected.selection.reasons if reason.startswith("Boundary refinement"))
    assert reason.startswith("Boundary refinement: yes, surface Dice at 1 mm")


@pytest.mark.slow
def test_post_processing_is_tuned_on_refined_maps(selected):
    refined = [read_nifti(selected.workspace.refinement / "validation" / f"{case}.nii.gz") for case in CASES]
    score = np.mean([dice(labels, selected.truth[case]) for labels, case in zip(refined, CASES, strict=True)])
    evaluation = read_record(Evaluation, selected.workspace.evaluation)
    assert evaluation.mean_foreground_dice == pytest.approx(score)
    assert score == pytest.approx(selected.selection.refinement.after.mean_foreground_dice)


@pytest.mark.slow
def test_prediction_follows_the_recipe(selected):
    predictor = Predictor(selected.workspace.root, PredictionOptions(device="cpu", precision="fp32"))
    plain = Predictor(selected.workspace.root, PredictionOptions(device="cpu", precision="fp32", refine=False))
    by_name = Predictor(
        selected.workspace.root, PredictionOptions(device="cpu", precision="fp32", configuration="3d_fullres")
    )
    image = draw_ball(seed=99)
    labels = predictor.predict(image[0], spacing=SPACING).labels
    assert dice(labels, image[1]) > 0.96
    for other in (plain, by_name):
        assert dice(other.predict(image[0], spacing=SPACING).labels, image[1]) < 0.93
    file = selected.image("c0")  # its array may be changed, that of an object must not be
    loaded = nibabel.load(file)
    np.testing.assert_array_equal(predictor.predict(loaded).labels, predictor.predict(file).labels)
    kept = image[0].copy()
    answer = predictor.predict(image[0], spacing=SPACING, probabilities=True, uncertainty=True)
    np.testing.assert_array_equal(answer.labels, labels)
    np.testing.assert_array_equal(image[0], kept)


@pytest.mark.slow
def test_an_exported_model_refines_as_well(selected, tmp_path):
    image, _ = draw_ball(seed=98)
    expected = Predictor(selected.workspace.root, PredictionOptions(device="cpu", precision="fp32")).predict(
        image, spacing=SPACING
    )
    archive = tmp_path / "model.zip"
    manifest = export_model(selected.workspace.root, archive)
    assert {"models/refinement/refiner_0.safetensors", "models/refinement/refiner_1.json"} <= manifest.files.keys()
    assert not any("validation" in name for name in manifest.files)
    again = tmp_path / "again"
    export_model(archive, again)
    for model in (archive, again):
        labels = (
            Predictor(model, PredictionOptions(device="cpu", precision="fp32")).predict(image, spacing=SPACING).labels
        )
        np.testing.assert_array_equal(labels, expected.labels)


@pytest.mark.slow
def test_refiners_are_not_trained_twice(selected):
    path = selected.workspace.refinement / "refiner_1.safetensors"
    written = path.stat().st_mtime_ns
    steps = []
    outcome = selected.refine(progress=lambda done, total: steps.append((done, total)))
    assert outcome.refinement == selected.selection.refinement
    assert path.stat().st_mtime_ns == written
    assert steps == [(done, 12) for done in range(7, 13)]


@pytest.mark.slow
def test_what_was_changed_or_lost_is_refused(selected, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(selected.workspace.root, root)
    path = Workspace(root).refinement / "refiner_0.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(PredictionError, match=r"refiner_0\.safetensors: was changed"):
        Predictor(root, PredictionOptions(device="cpu"))
    path.unlink()
    with pytest.raises(PredictionError, match=r"refiner_0\.safetensors: does not exist"):
        Predictor(root, PredictionOptions(device="cpu"))
    Predictor(root, PredictionOptions(device="cpu", refine=False))


@pytest.mark.slow
def test_a_perfect_prediction_cannot_be_refined(tmp_path):
    options = RefinementOptions(seconds=math.inf, max_steps=5)
    outcome = Made(tmp_path, lambda _case, _ball, coarse: coarse).refine(options=options)
    assert outcome.refinement is None
    assert not outcome.maps
    assert outcome.reasons[0].startswith("Boundary refinement: no, surface Dice at 1 mm 1.0000 before")


def test_what_was_learnt_from_a_case_is_never_judged_on_it(tmp_path, monkeypatch):
    """Images are told apart by their level, refiners by the bias of their head."""
    made = Made(tmp_path, lambda _case, ball, _coarse: ball)
    for number, case in enumerate(CASES):
        write_nifti((draw_ball(number)[0] + 10 * number).astype(np.float32), made.image(case), SPACING)
    learnt, judged = [], {}

    def train(patches, spec, _options, *, seed, **_settings):
        levels = patches.images.astype(np.float32).min(axis=(1, 2, 3, 4))
        learnt.append({CASES[int((level + 1) // 10)] for level in levels})
        network = RefinerNetwork(spec)
        torch.nn.init.constant_(head_bias(network), seed)
        return TrainedRefiner(network.eval(), 1, 0.0, 0.0)

    def judge(coarse, _encoding, refiners, _thresholds):
        (network,) = refiners.networks
        case = CASES[int((coarse.image.min() + 1) // 10)]
        judged[case] = int(head_bias(network).item())

    monkeypatch.setattr(refinement, "train_refiner", train)
    monkeypatch.setattr(refinement, "refine_labels", judge)
    made.refine()
    assert learnt == [set(FOLDS["1"]), set(FOLDS["0"])]
    assert judged == {case: 0 if case in FOLDS["0"] else 1 for case in CASES}


def test_groups_share_no_case():
    assert group_cases(FOLDS) == (frozenset(FOLDS["0"]), frozenset(FOLDS["1"]))
    five = {str(fold): (f"{fold}a", f"{fold}b") for fold in range(5)}
    groups = group_cases(five)
    assert [len(group) for group in groups] == [4, 4, 2]
    assert groups[0] == {"0a", "0b", "3a", "3b"}  # folds stay together
    single = group_cases({"2": ("d", "b", "a", "c", "e")})
    assert single == (frozenset("ab"), frozenset("cde"))
    twice = group_cases({"0": ("a", "b"), "1": ("b", "c")})
    assert twice == (frozenset("ab"), frozenset("c"))
    assert len(group_cases({"0": ("a",)})) == 1
    assert group_cases({}) == ()


@pytest.mark.slow
def test_one_case_is_not_enough(selected):
    outcome = selected.refine({"0": ("c0",)})
    assert outcome.refinement is None
    assert "two validated cases" in outcome.reasons[0]
