"""A cascade from images to label maps: both stages trained on every fold, and chained at prediction."""

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import TrainingError
from autoseg.pipeline import PipelineOptions, PlanningOptions, run_pipeline
from autoseg.records.budget import Budget
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.workspace import Workspace
from autoseg.stages.predict import PredictionOptions, Predictor
from autoseg.stages.train import train_fold
from autoseg.testing.phantoms import PHANTOM_LABELS
from autoseg.training.options import TrainingOptions
from tests.builders import CASCADE, make_cascade_plan

STAGES = ("3d_lowres", CASCADE)


@pytest.fixture(scope="module")
def finished_run(phantom_dataset, tmp_path_factory):
    """Two folds of both stages with tiny networks, two steps each; what they learn is not the point here."""
    plan = make_cascade_plan((4.0, 2.9, 3.3), (2.3, 1.5, 1.7), labels=PHANTOM_LABELS)
    short = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1}
    configurations = {
        name: value.model_copy(update={"training": value.training.model_copy(update=short)})
        for name, value in plan.configurations.items()
    }
    workspace = Workspace(tmp_path_factory.mktemp("run") / "workspace")
    write_record(plan.model_copy(update={"configurations": configurations}), workspace.plan)
    planning = PlanningOptions(keep_plan=True, folds=2)
    run_pipeline(phantom_dataset, workspace, Budget(), planning, PipelineOptions(device="cpu"))
    return workspace


@pytest.mark.slow
def test_every_fold_of_both_stages_is_trained_and_scored(finished_run):
    assert all(finished_run.trained_folds(name) == ("0", "1") for name in STAGES)
    for fold in ("0", "1"):
        first, second = (
            read_record(Evaluation, finished_run.fold(name, fold) / "validation" / "evaluation.json") for name in STAGES
        )
        cases = [scores.case for scores in second.cases]
        assert cases == [scores.case for scores in first.cases]
        assert len(cases) == 3
        maps = finished_run.next_stage("3d_lowres", fold, CASCADE).iterdir()
        assert sorted(path.name for path in maps) == [f"{case}.b2nd" for case in sorted(cases)]


@pytest.mark.slow
def test_held_out_cases_are_predicted_by_both_stages(finished_run, phantom_dataset, tmp_path):
    images = phantom_dataset / "imagesTs"
    words = ["predict", "-m", str(finished_run.root), "-i", str(images), "-o", str(tmp_path), "-c", CASCADE]
    assert main([*words, "--device", "cpu"]) == 0
    predictor = Predictor(finished_run.root, PredictionOptions(configuration=CASCADE, device="cpu"))
    (member,) = predictor.members
    assert member.previous is not None
    assert (member.previous.name, member.previous.folds, member.folds) == ("3d_lowres", ("0", "1"), ("0", "1"))
    for path in sorted(images.iterdir()):
        written = nibabel.load(tmp_path / path.name.replace("_0000", ""))
        np.testing.assert_array_equal(np.asarray(written.dataobj).T, predictor.predict(path).labels)


@pytest.mark.slow
def test_a_retrained_first_stage_must_be_complete_before_the_second_goes_on(finished_run):
    checkpoint = finished_run.fold("3d_lowres", "1") / "checkpoint_final.json"
    content = checkpoint.read_text()
    checkpoint.unlink()
    restart = TrainingOptions(device="cpu", restart=True)
    try:
        with pytest.raises(TrainingError, match=r"(?s)fold 1 is not trained.*autoseg-train .* -c 3d_lowres -f 1"):
            train_fold(finished_run, CASCADE, "0", restart)
    finally:
        checkpoint.write_text(content)
    folder = finished_run.next_stage("3d_lowres", "1", CASCADE)
    lost = sorted(folder.iterdir())[0]
    lost.unlink()
    before = (finished_run.fold("3d_lowres", "1") / "checkpoint_final.safetensors").stat().st_mtime_ns
    train_fold(finished_run, "3d_lowres", "1", TrainingOptions(device="cpu"))  # writes the map, trains nothing
    assert lost.exists()
    assert (finished_run.fold("3d_lowres", "1") / "checkpoint_final.safetensors").stat().st_mtime_ns == before
    assert train_fold(finished_run, CASCADE, "all", TrainingOptions(device="cpu")).finished
    assert "all" in finished_run.trained_folds(CASCADE)
