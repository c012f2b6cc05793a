"""Jobs that `autoseg cluster` prints, and options that it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.cli.main import main
from autoseg.pipeline import PlanningOptions, plan_dataset
from autoseg.records.budget import Budget
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Split, Splits
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.testing.phantoms import PHANTOM_LABELS
from tests.builders import CASCADE, make_cascade_plan, make_dataset
from tests.cluster.slurm_by_hand import Slurm

PLAN = make_cascade_plan((4.0, 2.9, 3.3), (2.3, 1.5, 1.7), labels=PHANTOM_LABELS)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def planned(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path / "w")
    write_record(PLAN, workspace.plan)
    splits = (Split(training=("a",), validation=("b",)), Split(training=("b",), validation=("a",)))
    write_record(Splits(folds=splits, reason="two"), workspace.splits)
    return workspace


def test_slurm_prints_a_script_with_the_absolute_path(planned, capsys, monkeypatch):
    monkeypatch.chdir(planned.root.parent)
    assert main(["cluster", "slurm", "w", "-c", "3d_lowres", CASCADE, "-f", "1", "--gres", "gpu:a100:2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "#SBATCH --gres=gpu:a100:2" in lines
    assert f"workspace={planned.root}" in lines
    assert f"configurations=(3d_lowres {CASCADE})" in lines
    assert "folds=(1 1)" in lines
    assert "arrays=(0-0 1-1 2)" in lines


@pytest.fixture
def planned_for_four(planned: Workspace) -> Workspace:
    """Each training on four GPUs."""
    budget = PLAN.budget.model_copy(update={"device": "cuda", "devices": 4})
    write_record(PLAN.model_copy(update={"budget": budget}), planned.plan)
    return planned


@pytest.mark.parametrize(
    ("words", "gres"),
    [
        ([], "gpu:4"),
        (["--gres", "tmp:20"], "tmp:20,gpu:4"),
        (["--gres", "gpu:h200:4,tmp:20"], "gpu:h200:4,tmp:20"),
        (["--gres", "gpu:4"], "gpu:4"),
    ],
)
def test_slurm_asks_for_the_planned_gpus(planned_for_four, capsys, words, gres):
    assert main(["cluster", "slurm", str(planned_for_four.root), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"#SBATCH --gres={gres}" in lines
    assert "devices=4" in lines


def test_kubernetes_asks_for_the_planned_gpus(planned_for_four, capsys):
    write_record(make_dataset(["a", "b"], PLAN), planned_for_four.dataset)
    words = ["--volume", f"data:{planned_for_four.root.parent}", "--cpus-per-task", "10"]
    assert main(["cluster", "kubernetes", str(planned_for_four.root), *words]) == 0
    printed = capsys.readouterr().out
    assert 'nvidia.com/gpu: "4"' in printed
    assert "--workers 2" in printed  # of ten cores, for each of four processes


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["slurm", "--gres", "gpu:2"], 2),
        (["slurm", "--gres", "gpu:a100"], 1),
        (["kubernetes", "--gpus", "0"], 0),
        (["kubernetes", "--gpus", "8"], 8),
    ],
)
def test_other_gpus_than_planned_are_refused(planned_for_four, capsys, words, number):
    assert main(["cluster", words[0], str(planned_for_four.root), *words[1:]]) == 2
    assert f"asks for {number} GPUs, but the plan is for 4 devices" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--gres", "gpu:1\n#SBATCH --uid=0"),
        ("--partition", "long; rm"),
        ("--account", ""),
        ("--time", "12 hours"),
        ("--time", "1-"),
        ("--mem", "32"),
        ("--mem", "0G"),
        ("--volume", "disk:data"),
        ("--name", "Big"),
        ("--cpus-per-task", "0"),
    ],
)
def test_values_that_could_change_the_script_are_refused(planned, capsys, option, value):
    with pytest.raises(SystemExit) as stopped:
        main(["cluster", "slurm", str(planned.root), option, value])
    assert stopped.value.code == 2
    assert f"argument {option}: {value!r} is not" in capsys.readouterr().err


def test_a_folder_without_plan_is_refused(tmp_path, capsys):
    assert main(["cluster", "slurm", str(tmp_path)]) == 2
    assert "plan.json" in capsys.readouterr().err


KUBERNETES = ["--image", "registry/autoseg:1"]


def test_kubernetes_prints_jobs_that_train(planned, capsys):
    write_record(make_dataset(["a", "b"], PLAN, folder="../data"), planned.dataset)
    options = [*KUBERNETES, "--volume", f"disk:{planned.root.parent}", "--mem", "64G"]
    assert main(["cluster", "kubernetes", str(planned.root), *options]) == 0
    text = capsys.readouterr().out
    assert text.count('kind: "Job"') == 3
    assert 'memory: "64G"' in text
    assert "job/autoseg-w-train-1 &&" in text


def test_kubernetes_prints_jobs_that_predict_parts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [*KUBERNETES, "--volume", f"disk:{tmp_path}", "-i", "in", "-o", "out", "--parts", "7"]
    assert main(["cluster", "kubernetes", "model.zip", *options]) == 0
    text = capsys.readouterr().out
    assert "completions: 7" in text
    assert f'args: ["{tmp_path}/model.zip", "{tmp_path}/in", "{tmp_path}/out", "7"]' in text


def test_without_options_every_folder_has_a_claim(planned, capsys):
    write_record(make_dataset(["a", "b"], PLAN, folder="../data"), planned.dataset)
    assert main(["cluster", "kubernetes", str(planned.root)]) == 0
    text = capsys.readouterr().out
    assert text.count('image: "autoseg:latest"') == 3
    assert text.count('claimName: "autoseg-workspace"\n            readOnly: false') == 3
    assert text.count('claimName: "autoseg-dataset"\n            readOnly: true') == 3
    assert text.count(f'mountPath: "{planned.root.parent}/data"') == 3
    assert main(["cluster", "kubernetes", "/m/model.zip", "-i", "/same", "-o", "/same", "--parts", "2"]) == 0
    text = capsys.readouterr().out
    assert text.count('mountPath: "/m"') == 2
    assert text.count('claimName: "autoseg-output"') == text.count('mountPath: "/same"') == 2


def test_a_model_without_folds_is_predicted_with(tmp_path, capsys):
    assert main(["cluster", "kubernetes", str(tmp_path / "model.zip")]) == 2
    assert "no folds to train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("slurm", ["--image", "x"], "--image: not an option of slurm"),
        ("slurm", ["-i", "x", "-o", "y", "--parts", "2"], "--images, --output, --parts: not an option of slurm"),
        ("kubernetes", [*KUBERNETES, "--notice", "5", "--gres", "gpu:1"], "--gres, --notice: not an option of"),
        ("kubernetes", ["-i", "x"], "prediction needs all of --images, --output and --parts"),
        ("kubernetes", ["-i", "x", "-o", "y", "--parts", "2", "-f", "0"], "--configurations and --folds say what is"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(planned, capsys, engine, options, message):
    write_record(make_dataset(["a", "b"], PLAN), planned.dataset)
    assert main(["cluster", engine, str(planned.root), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_trains_a_cascade_selects_and_reports(phantom_dataset, tmp_path, capsys):
    workspace = Workspace(tmp_path / "it's here")
    short = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1}
    configurations = {
        name: configuration.model_copy(update={"training": configuration.training.model_copy(update=short)})
        for name, configuration in PLAN.configurations.items()
    }
    write_record(PLAN.model_copy(update={"configurations": configurations}), workspace.plan)
    plan_dataset(phantom_dataset, workspace, Budget(), PlanningOptions(keep_plan=True, folds=2))
    assert main(["cluster", "slurm", str(workspace.root), "-c", "3d_lowres", CASCADE]) == 0
    (tmp_path / "job.sh").write_text(capsys.readouterr().out)
    paths = os.pathsep.join([str(ROOT), *sys.path])
    slurm = Slurm(tmp_path / "slurm", {"PYTHONPATH": paths, "TMPDIR": str(tmp_path)})
    subprocess.run(["bash", str(tmp_path / "job.sh")], env=slurm.environment, check=True)
    slurm.run_all()
    logs = {path.name: path.read_text() for path in slurm.folder.glob("log*")}
    assert slurm.finished == {"100": True, "101": True, "102": True}, logs
    assert all(workspace.trained_folds(name) == ("0", "1") for name in ("3d_lowres", CASCADE))
    assert read_record(Selection, workspace.selection).configurations
    assert workspace.report.exists()
    assert not list(tmp_path.glob("autoseg.*"))
