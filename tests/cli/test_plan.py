"""The plan command, as a user types it."""

import json
import shlex
import shutil

import nibabel
import numpy as np
import pytest

from autoseg.cli import planning_request, speed
from autoseg.cli.main import UNUSABLE, main
from autoseg.records.budget import Throughput
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(planning_request, "gpu_memory_gigabytes", lambda _index=0: None)


@pytest.fixture
def planned(planned_phantoms, tmp_path):
    """A workspace with a plan and nothing else."""
    workspace = Workspace(tmp_path / "workspace")
    workspace.root.mkdir()
    shutil.copy(planned_phantoms.plan, workspace.plan)
    return workspace


def plan(dataset, workspace, *words):
    return main(["plan", str(dataset), "-w", str(workspace), "-j", "1", *words])


def dry_plan(dataset, tmp_path, *words):
    code = plan(dataset, tmp_path / "w", "--dry-run", "--device", "cuda", "--planner", "unet", *words)
    assert not (tmp_path / "w").exists()
    return code


def test_a_dry_run_shows_the_plan_and_points_to_the_reasons(phantom_dataset, tmp_path, capsys):
    assert dry_plan(phantom_dataset, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "3d_fullres" in shown
    assert "--explain prints the reason of each" in shown
    assert "halving" not in shown


def test_the_json_is_the_plan(phantom_dataset, tmp_path, capsys):
    assert dry_plan(phantom_dataset, tmp_path, "--json", "--explain") == 0
    shown = capsys.readouterr()
    workspace = tmp_path / "written"
    assert plan(phantom_dataset, workspace, "--device", "cuda", "--planner", "unet", "--no-preprocess") == 0
    assert json.loads(shown.out) == json.loads((workspace / "plan.json").read_text())
    assert "3d_fullres" in shown.err


def test_the_json_without_a_plan_is_refused(phantom_dataset, tmp_path, capsys):
    assert dry_plan(phantom_dataset, tmp_path, "--json", "--write-list", str(tmp_path / "list.csv")) == UNUSABLE
    shown = capsys.readouterr()
    assert "--json prints the plan, and --write-list makes none" in shown.err
    assert shown.out == ""


def test_explain_shows_every_reason(phantom_dataset, tmp_path, capsys):
    assert dry_plan(phantom_dataset, tmp_path, "--explain") == 0
    shown = " ".join(capsys.readouterr().out.split())
    workspace = tmp_path / "written"
    assert plan(phantom_dataset, workspace, "--device", "cuda", "--planner", "unet", "--no-preprocess") == 0
    decisions = read_record(Plan, Workspace(workspace).plan).decisions
    assert len(decisions) > 10
    assert [decision.what for decision in decisions if " ".join(decision.reason.split()) not in shown] == []


def test_a_quiet_explanation_leaves_out_the_table(phantom_dataset, tmp_path, capsys):
    assert dry_plan(phantom_dataset, tmp_path, "--explain", "-q") == 0
    shown = capsys.readouterr()
    assert "halving" in shown.out
    assert "optimiser" not in shown.out
    assert shown.err == ""


def test_a_profile_for_a_gpu_elsewhere_has_costs_only(phantom_dataset, tmp_path, capsys):
    assert dry_plan(phantom_dataset, tmp_path, "--profile", "-c", "2d") == 0
    shown = capsys.readouterr().out
    assert "No step was measured: there is no such GPU here" in shown
    assert "GMAC" in shown
    assert "steps per second" not in shown


def test_a_profile_measures_a_step_here(phantom_dataset, planned, capsys, monkeypatch):
    monkeypatch.setattr("autoseg.training.probe.SECONDS_PER_PLANNED_STEP", 0.0)
    before = planned.plan.read_text()
    assert plan(phantom_dataset, planned.root, "--dry-run", "--keep-plan", "--profile") == 0
    shown = capsys.readouterr().out
    assert "Steps were measured on the CPU, threads: " in shown
    [rates] = [line.split("│")[2:-1] for line in shown.splitlines() if "steps per second" in line]
    assert len(rates) == 2
    assert all(float(rate) > 0 for rate in rates)
    assert planned.plan.read_text() == before


def test_a_profile_on_a_gpu_that_torch_cannot_use_has_costs_only(phantom_dataset, planned, capsys, monkeypatch):
    monkeypatch.setattr(planning_request, "gpu_memory_gigabytes", lambda _index=0: 26.0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert plan(phantom_dataset, planned.root, "--keep-plan", "--profile", "--device", "cuda", "--no-preprocess") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "No step was measured: device 'cuda' was requested, but this machine has 0 CUDA devices" in shown
    assert "GMAC" in shown
    assert "steps per second" not in shown


def test_the_next_command_is_shown_before_steps_are_measured(phantom_dataset, planned, capsys, monkeypatch):
    def stop(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("autoseg.training.probe.measure_step", stop)
    assert plan(phantom_dataset, planned.root, "--keep-plan", "--profile", "--no-preprocess") == 130
    shown = capsys.readouterr().out
    assert f"Workspace: {planned.root}\nNext: autoseg-train {planned.root} -c 3d_fullres -f 0\n" in shown
    assert "Profile" not in shown


def test_the_next_command_can_be_pasted(phantom_dataset, planned, tmp_path, capsys):
    folder = tmp_path / "it's my data"
    planned.root.rename(folder)
    assert plan(phantom_dataset, folder, "--keep-plan", "--no-preprocess") == 0
    (command,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: ")]
    expected = ["autoseg-train", str(folder), "-c", "3d_fullres", "-f", "0"]
    assert shlex.split(command.removeprefix("Next: ")) == expected


def test_the_next_command_trains_on_the_only_case(tmp_path, capsys):
    write_slices(tmp_path / "data", np.arange(48) % 2)
    words = ["--device", "cuda", "--planner", "unet", "--no-preprocess", "-c", "3d_fullres"]
    assert plan(tmp_path / "data", tmp_path / "w", *words) == 0
    assert f"Next: autoseg-train {tmp_path / 'w'} -c 3d_fullres -f all\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_file_in_place_of_the_workspace_is_refused_before_anything_is_read(tmp_path, capsys, command):
    (tmp_path / "w").write_text("")
    assert main([command, str(tmp_path / "nowhere"), "-w", str(tmp_path / "w")]) == UNUSABLE
    assert "w: is a file; name a folder for the workspace with -w" in capsys.readouterr().err


def write_slices(folder, label):
    for name, values in (("images", np.arange(48)), ("labels", label)):
        (folder / name).mkdir(parents=True)
        image = nibabel.Nifti1Image(np.asarray(values, dtype=np.int16).reshape(4, 4, 3), np.eye(4))
        nibabel.save(image, folder / name / "a.nii.gz")


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "no known dataset layout"),
        (lambda folder: [(folder / name).mkdir(parents=True) for name in ("images", "labels")], "No cases were found"),
        (lambda folder: write_slices(folder, np.zeros(48)), "data: No label map has any foreground: they hold 0 only."),
        (lambda folder: write_slices(folder, np.full(48, -1)), "label values must lie between 0"),
    ],
)
def test_faults_of_the_dataset_come_before_anything_is_measured(tmp_path, monkeypatch, capsys, command, make, message):
    monkeypatch.setattr(speed, "measure_throughput", lambda *_: pytest.fail("measured a faulty dataset"))
    make(tmp_path / "data")
    words = ["-w", str(tmp_path / "w"), "-j", "1", "--device", "cpu"]
    assert main([command, str(tmp_path / "data"), *words]) == UNUSABLE
    assert message in capsys.readouterr().err


def test_a_case_in_another_unit_than_the_others_is_refused_before_preprocessing(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for case, factor in (("a", 1.0), ("b", 1.0), ("micron", 900.0)):
        labels = np.zeros((20, 22, 18), dtype=np.uint8)
        labels[5:12, 6:14, 4:13] = 1
        for name, voxels in (("images", rng.normal(50, 9, labels.shape).astype(np.float32)), ("labels", labels)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            affine = np.diag([0.7 * factor, 0.7 * factor, 1.1 * factor, 1.0])
            nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "data" / name / f"{case}.nii.gz")
    assert plan(tmp_path / "data", tmp_path / "w", "--device", "cuda", "--planner", "unet") == UNUSABLE
    shown = capsys.readouterr().err
    assert "1 of 3 case(s) do not fit the plan" in shown
    assert "micron: the header gives voxels of 990 x 630 x 630 mm; resampled to the 1.1 x 0.7 x 0.7 mm" in shown
    assert not (tmp_path / "w").exists()


def test_fewer_workers_are_started_than_memory_has_room_for(phantom_dataset, tmp_path, capsys):
    words = ["plan", str(phantom_dataset), "-w", str(tmp_path / "w"), "--device", "cuda", "--planner", "unet"]
    assert main([*words, "-j", "3", "--max-memory", "200MB", "--no-preprocess"]) == 0
    messages = capsys.readouterr().err
    assert "checking: 1 instead of 3 worker processes, because the largest case takes about" in messages
    assert "measuring: 1 instead of 3 worker processes" in messages


def test_own_decisions_are_kept(phantom_dataset, tmp_path):
    words = ["--spacing", "2", "1.5", "1.5", "--patch-size", "16", "24", "32", "--batch-size", "3", "--no-preprocess"]
    workspace = Workspace(tmp_path / "w")
    assert plan(phantom_dataset, workspace.root, "--device", "cuda", "--planner", "unet", *words) == 0
    made = read_record(Plan, workspace.plan)
    full = made.configurations["3d_fullres"]
    assert (full.spacing, full.patch_size, full.batch_size) == ((2.0, 1.5, 1.5), (16, 24, 32), 3)
    assert made.configurations["2d"].batch_size == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--planner", "nosuch"], "No planner is called 'nosuch'"),
        (
            ["--planner-option", "width=base"],
            "--planner-option width: the planner 'unet' has no such",
        ),
        (["-c", "4d"], "4d"),
        (["--like", "nowhere"], "--like nowhere: there is no plan.json"),
    ],
)
def test_faults_are_one_message_and_exit_code_2(phantom_dataset, tmp_path, capsys, words, message):
    assert dry_plan(phantom_dataset, tmp_path, "-q", *words) == UNUSABLE
    error = capsys.readouterr().err
    assert error.startswith("autoseg plan: ")
    assert message in error
    assert "Traceback" not in error


def test_planning_like_a_model_takes_its_network(phantom_dataset, planned_phantoms, tmp_path):
    workspace = Workspace(tmp_path / "w")
    words = ["--like", str(planned_phantoms.root), "--device", "cuda", "--no-preprocess"]
    assert plan(phantom_dataset, workspace.root, *words) == 0
    made, model = read_record(Plan, workspace.plan), read_record(Plan, planned_phantoms.plan)
    assert made.planner == model.planner
    for name, configuration in made.configurations.items():
        assert configuration.network == model.configurations[name].network
        assert configuration.spacing == model.configurations[name].spacing


def test_planning_again_keeps_the_measured_speed(planned, planned_phantoms, phantom_dataset, monkeypatch):
    monkeypatch.setattr(speed, "measure_throughput", lambda *_: pytest.fail("measured again"))
    words = ["--device", "cpu", "--planner", "unet", "--no-preprocess", "--time-per-fold", "60s", "--folds", "3"]
    assert plan(phantom_dataset, planned.root, *words) == 0
    assert read_record(Plan, planned.plan) == read_record(Plan, planned_phantoms.plan)


def test_another_time_is_measured_anew(planned, phantom_dataset, monkeypatch):
    fast = (Throughput(dimensions=3, base_features=8, macs_per_second=7e12),)
    monkeypatch.setattr(speed, "measure_throughput", lambda *_: fast)
    words = ["--device", "cpu", "--planner", "unet", "--no-preprocess", "--time-per-fold", "90s"]
    assert plan(phantom_dataset, planned.root, *words) == 0
    assert read_record(Plan, planned.plan).budget.throughput == fast


def test_a_plan_of_a_busy_moment_is_made_again_in_a_quiet_one_until_something_is_trained(
    phantom_dataset, tmp_path, monkeypatch, capsys
):
    machine = {"load": 1.0, "speed": 4e9}
    monkeypatch.setattr(speed, "measure_others_load", lambda _seconds: machine["load"])
    monkeypatch.setattr(speed, "time_product", lambda: 0.01)
    monkeypatch.setattr(speed, "count_cores", lambda: 2)

    def measure(*_):
        return (Throughput(dimensions=3, base_features=8, macs_per_second=machine["speed"]),)

    monkeypatch.setattr(speed, "measure_throughput", measure)
    workspace = Workspace(tmp_path / "w")
    words = ["--device", "cpu", "--planner", "unet", "--no-preprocess", "--time-per-fold", "60s", "-c", "3d_fullres"]

    def planned_again():
        assert plan(phantom_dataset, workspace.root, *words) == 0
        return read_record(Plan, workspace.plan), capsys.readouterr().err

    busy, said = planned_again()
    assert "other programs use 1.0 of 2 cores" in said
    same, said = planned_again()
    assert same == busy
    assert "keeping the speed" in said
    machine.update(load=0.0, speed=4e11)
    quiet, said = planned_again()
    assert "the machine is quieter (others use 0.0 of 2 cores, 1.0 then)" in said
    assert "3d_fullres is planned again for the speed that was measured now: patch" in said
    assert "it was edited" not in said
    assert (
        quiet.configurations["3d_fullres"].network.features[0] > busy.configurations["3d_fullres"].network.features[0]
    )
    checkpoint = workspace.fold("3d_fullres", "0") / "checkpoint_last.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("{}")
    machine.update(load=1.0, speed=4e9)
    trained, said = planned_again()
    assert trained == quiet
    assert "keeping the speed" in said


def edit(workspace, change):
    content = json.loads(workspace.plan.read_text())
    change(content)
    workspace.plan.write_text(json.dumps(content))


def test_a_plan_edited_by_hand_is_kept(planned, phantom_dataset):
    edit(planned, lambda content: content["configurations"]["3d_fullres"].update(batch_size=5))
    assert plan(phantom_dataset, planned.root, "--keep-plan") == 0
    assert read_record(Plan, planned.plan).configurations["3d_fullres"].batch_size == 5
    assert len(list(planned.preprocessed("3d_fullres").glob("*.b2nd"))) == 6


def test_a_plan_edited_wrongly_is_named_by_its_field(planned, phantom_dataset, capsys):
    edit(planned, lambda content: content["configurations"]["3d_fullres"].update(batch_size="five"))
    assert plan(phantom_dataset, planned.root, "--keep-plan") == UNUSABLE
    assert "configurations.3d_fullres.batch_size" in capsys.readouterr().err


def test_a_plan_for_other_data_is_not_kept(planned, phantom_dataset, capsys):
    edit(planned, lambda content: content.update(channel_names=["CT"]))
    assert plan(phantom_dataset, planned.root, "--keep-plan") == UNUSABLE
    assert "plan.json: channel_names is ('CT',), but the dataset has" in capsys.readouterr().err


SLOW = ["--device", "cpu", "--planner", "unet", "--no-preprocess", "--time-per-fold", "60s", "--folds", "3"]


def test_planning_anew_mends_a_plan_that_cannot_be_read(planned, planned_phantoms, phantom_dataset, monkeypatch):
    measured = read_record(Plan, planned.plan).budget.throughput
    monkeypatch.setattr(speed, "measure_throughput", lambda *_: measured)
    edit(planned, lambda content: content["configurations"]["3d_fullres"].update(batch_size="five"))
    assert plan(phantom_dataset, planned.root, *SLOW) == 0
    assert read_record(Plan, planned.plan) == read_record(Plan, planned_phantoms.plan)


def test_replacing_a_plan_that_was_edited_is_said(planned, phantom_dataset, capsys):
    assert plan(phantom_dataset, planned.root, *SLOW) == 0
    assert "--keep-plan keeps it" not in capsys.readouterr().err
    edit(planned, lambda content: content["configurations"]["3d_fullres"].update(batch_size=5))
    assert plan(phantom_dataset, planned.root, *SLOW) == 0
    assert "plan.json is replaced: it was edited" in capsys.readouterr().err
