"""From the words that a user types to the budget and the options of a plan."""

import argparse

import pytest

from autoseg.cli import planning_request, speed
from autoseg.cli.planning_arguments import add_planning_arguments
from autoseg.cli.planning_request import read_request
from autoseg.cli.speed import add_speed
from autoseg.errors import RecordError, UsageError
from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.stages.plan import adopt_model


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """A machine with a GPU of 26 GB."""
    monkeypatch.setattr(planning_request, "gpu_memory_gigabytes", lambda _index=0: 26.0)


@pytest.fixture
def measured(monkeypatch):
    """Every measurement that is asked for: device and architectures."""
    calls = []

    def measure(device, architectures, _folder, _progress):
        calls.append((device, tuple(architectures)))
        return tuple(
            Throughput(architecture=name, dimensions=3, base_features=8, macs_per_second=1e9) for name in architectures
        )

    monkeypatch.setattr(speed, "measure_throughput", measure)
    return calls


def parse(dataset, *words):
    parser = argparse.ArgumentParser()
    add_planning_arguments(parser)
    return parser.parse_args([str(dataset), *words])


def request(arguments):
    """Budget with the measured speed, options and device, as `plan` asks for them."""
    budget, options, device = read_request(arguments)
    return add_speed(budget, options, device, arguments), options, device


def read(dataset, *words):
    return request(parse(dataset, "-w", str(dataset / "nowhere"), *words))


@pytest.mark.parametrize(
    ("words", "name"), [((), "cuda"), (("--device", "cuda:1"), "cuda:1"), (("--device", "cpu"), None)]
)
def test_a_gpu_of_this_machine_may_resample(tmp_path, words, name):
    assert read_request(parse(tmp_path, *words))[1].resampling_device == name


def test_a_gpu_elsewhere_resamples_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(planning_request, "gpu_memory_gigabytes", lambda _index=0: None)
    assert read_request(parse(tmp_path, "--device", "cuda"))[1].resampling_device is None


def test_without_options_the_planner_decides(tmp_path, measured):
    budget, options, _ = read(tmp_path)
    assert budget == Budget(device="cuda", available_gigabytes=26.0)
    assert options.planner == "auto"
    assert options.orientation == "canonical"
    assert measured == []  # a GPU without any limit of time needs no measurement


def test_own_decisions_reach_the_budget(tmp_path, measured):
    words = ["--spacing", "3", "0.9", "0.7", "--patch-size", "40", "56", "48", "--batch-size", "3"]
    budget, *_ = read(tmp_path, *words, "--planner-option", "width=base", "--planner-option", "note = a=b ")
    assert budget.overrides == Overrides(
        spacing=(3.0, 0.9, 0.7), patch_size=(40, 56, 48), batch_size=3, options={"width": "base", "note": "a=b"}
    )


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["--mirror-axes", "x,z"], Overrides(mirror_axes="zx")),
        (["--mirror-axes", "none"], Overrides(mirror_axes="none")),
        (["--side-pairs", "none"], Overrides(side_pairs=())),
        (["--side-pairs", "a l=a r", "b=c"], Overrides(side_pairs=(("a l", "a r"), ("b", "c")))),
    ],
)
def test_mirroring_reaches_the_budget(tmp_path, measured, words, overrides):
    assert read(tmp_path, *words)[0].overrides == overrides


def test_pairs_beside_none_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--side-pairs none: given beside pairs; leave one of both out"):
        read(tmp_path, "--side-pairs", "a=b", "none")


@pytest.mark.parametrize(("words", "expected"), [((), None), (["--progressive"], True), (["--no-progressive"], False)])
def test_whether_patches_grow_reaches_the_budget(tmp_path, measured, words, expected):
    assert read(tmp_path, *words)[0].overrides.progressive is expected


def test_devices_reach_the_budget_and_the_smallest_one_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(planning_request, "gpu_memory_gigabytes", lambda index=0: [80.0, 24.0, None][index])
    budget, _, device = read(tmp_path, "--devices", "2")
    assert (budget.devices, budget.available_gigabytes, device.is_here) == (2, 24.0, True)
    budget, _, device = read(tmp_path, "--device", "cuda", "--devices", "3")  # one of them is elsewhere
    assert (budget.devices, budget.available_gigabytes, device.is_here) == (3, None, False)
    with pytest.raises(UsageError, match="--devices 3: this machine has 2 GPUs; use fewer devices"):
        read(tmp_path, "--devices", "3")
    assert read(tmp_path)[0] == Budget(device="cuda", available_gigabytes=80.0)


@pytest.mark.parametrize("asked", ["cuda:1", "mps", "xpu:0"])
def test_several_devices_need_a_name_for_all_of_them(tmp_path, asked):
    with pytest.raises(UsageError, match=f"--devices 2: {asked} is one device"):
        read(tmp_path, "--device", asked, "--devices", "2")


def test_a_pair_is_a_2d_patch(tmp_path):
    assert read(tmp_path, "--patch-size", "40", "56")[0].overrides.patch_size == (40, 56)


def test_limits_reach_the_budget(tmp_path, measured):
    words = ("--memory", "11GB", "--time-per-fold", "10min", "--latency", "5s", "-c", "2d", "3d_fullres")
    budget = read(tmp_path, *words, "--planner", "unet")[0]
    assert (budget.memory_gigabytes, budget.available_gigabytes) == (11.0, 26.0)
    assert (budget.time_per_fold_seconds, budget.latency_seconds) == (600.0, 5.0)
    assert budget.configurations == ("2d", "3d_fullres")
    assert [point.architecture for point in budget.throughput] == ["unet"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--time-per-fold", "5min"], [("cuda", ("unet",))]),
        (["--latency", "2s"], [("cuda", ("unet", "residual_unet", "unext"))]),
        (["--latency", "2s", "--planner", "resenc-l"], [("cuda", ("residual_unet",))]),
        (["--latency", "2s", "--device", "cuda:1", "--planner", "unext"], [("cuda:1", ("unext",))]),
        (["--device", "cpu", "--planner", "unet"], [("cpu", ("unet",))]),
        (["--memory", "4GB"], []),
    ],
)
def test_speed_is_measured_where_the_plan_depends_on_it(tmp_path, measured, words, expected):
    read(tmp_path, *words)
    assert measured == expected


def test_reading_the_options_measures_nothing(tmp_path, measured):
    read_request(parse(tmp_path, "--device", "cpu", "--time-per-fold", "5min"))
    assert measured == []


def test_a_gpu_elsewhere_is_not_measured(tmp_path, measured, monkeypatch):
    monkeypatch.setattr(planning_request, "gpu_memory_gigabytes", lambda _index=0: None)
    budget = read(tmp_path, "--device", "cuda", "--time-per-fold", "5min")[0]
    assert (measured, budget.throughput, budget.available_gigabytes) == ([], (), None)


def test_an_earlier_measurement_of_other_networks_does_not_do(planned_phantoms, phantom_dataset, measured):
    words = ["-w", str(planned_phantoms.root), "--device", "cpu", "--time-per-fold", "60s"]
    kept, *_ = request(parse(phantom_dataset, *words, "--planner", "unet"))
    assert kept == read_record(Plan, planned_phantoms.plan).budget
    assert measured == []
    request(parse(phantom_dataset, *words, "--planner", "unext"))
    assert measured == [("cpu", ("unext",))]


def test_like_takes_over_planner_and_orientation(planned_phantoms, phantom_dataset, measured):
    budget, options, _ = read(phantom_dataset, "--like", str(planned_phantoms.root), "--latency", "9s")
    model = read_record(Plan, planned_phantoms.plan)
    assert budget.like == adopt_model(model, str(planned_phantoms.root))
    assert (options.planner, options.orientation) == (model.planner, "canonical")
    read(phantom_dataset, "--like", str(planned_phantoms.root), "--latency", "9s", "--planner", "auto")
    assert measured == [("cuda", ("unet",))]  # the model's own kind of network


def test_like_keeps_the_models_orientation(planned_phantoms, phantom_dataset, tmp_path):
    model = read_record(Plan, planned_phantoms.plan).model_copy(update={"orientation": "as_stored"})
    write_record(model, tmp_path / "plan.json")
    words = ["--like", str(tmp_path)]
    assert read(phantom_dataset, *words, "--planner", "auto")[1].planner == "auto"
    assert read(phantom_dataset, *words)[1].orientation == "as_stored"
    assert read(phantom_dataset, *words, "--orientation", "as-stored")[1].orientation == "as_stored"
    with pytest.raises(UsageError, match=r"--orientation canonical: the model of --like was trained .* as-stored"):
        read(phantom_dataset, *words, "--orientation", "canonical")


def test_orientation_without_a_model(tmp_path):
    assert read(tmp_path, "--orientation", "as-stored")[1].orientation == "as_stored"


def test_like_names_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match=r"--like .*model: there is no plan.json"):
        read(tmp_path, "--like", str(tmp_path / "model"))


def test_like_refuses_a_damaged_plan(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(RecordError, match=r"plan.json: not a valid Plan"):
        read(tmp_path, "--like", str(tmp_path))


def test_a_plan_that_is_kept_brings_its_own_budget(planned_phantoms, phantom_dataset, measured):
    budget, options, device = request(parse(phantom_dataset, "-w", str(planned_phantoms.root), "--keep-plan"))
    plan = read_record(Plan, planned_phantoms.plan)
    assert (budget, options.planner, options.keep_plan) == (plan.budget, plan.planner, True)
    assert device.kind == "cpu"
    assert measured == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--patch-size", "40"], r"--patch-size 40: 1 number\(s\); give three .* or two"),
        (["--patch-size", "1", "2", "3", "4"], r"--patch-size 1 2 3 4: 4 number\(s\)"),
        (["--planner-option", "a=1", "--planner-option", "a=2"], "--planner-option a: given 2 times"),
        (["--device", "tpu"], "--device tpu: unknown"),
        (["--keep-plan"], "--keep-plan: .*plan.json is not there"),
        (["--keep-plan", "--batch-size", "2"], "--batch-size and --keep-plan contradict each other"),
        (["--keep-plan", "--no-progressive"], "--progressive and --keep-plan contradict each other"),
        (["--keep-plan", "--orientation", "canonical"], "--orientation and --keep-plan contradict each other"),
    ],
)
def test_what_does_not_fit_together(tmp_path, words, message):
    with pytest.raises(UsageError, match=message):
        read(tmp_path, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--spacing", "1", "1"], "expected 3 arguments"),
        (["--spacing", "1", "0", "1"], "'0' is not a number above 0"),
        (["--spacing", "1", "-2", "1"], "'-2' is not a number above 0"),
        (["--patch-size", "40", "2.5"], "'2.5' is not a whole number from 1 to 65536"),
        (["--batch-size", "0"], "'0' is not a whole number from 1 to 65536"),
        (["--latency", "5"], "'5' is not a duration"),
        (["--planner-option", "width"], "'width' is not of the form KEY=VALUE"),
        (["--planner-option", "=3"], "'=3' is not of the form KEY=VALUE"),
    ],
)
def test_words_that_cannot_be_read(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        parse(tmp_path, *words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_target_reaches_the_options(tmp_path, measured):
    assert read(tmp_path)[1].target == "labels"
    assert read(tmp_path, "--target", "labels")[1].target == "labels"
    assert read(tmp_path, "--target", "border-core")[1].target == "border_core"
    with pytest.raises(UsageError, match="--target and --keep-plan contradict each other"):
        request(parse(tmp_path, "--target", "border-core", "--keep-plan"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trials", "59s"), "too short to compare two networks. Give --trials 1 min or more"),
        (("--trials", "10min", "--devices", "2"), "trains on one device"),
        (("--trials", "10min", "--scheduler", "tcp://host:8786"), "--scheduler and --keep-plan"),
        (("--trials", "10min", "--device", "cuda:1"), "there is no such GPU here"),
        (("--trials", "10min", "--like", "model"), "--trials and --like contradict"),
        (("--trials", "10min", "--keep-plan"), "--trials and --keep-plan contradict"),
    ],
)
def test_trials_are_refused_beside_what_leaves_nothing_to_try(tmp_path, monkeypatch, words, said):
    gigabytes = {0: 26.0} if "cuda:1" in words else {0: 26.0, 1: 26.0}
    monkeypatch.setattr(planning_request, "gpu_memory_gigabytes", lambda index=0: gigabytes.get(index))
    with pytest.raises(UsageError, match=said):
        read(tmp_path, *words)


def test_trials_measure_every_network_that_may_be_tried(tmp_path, measured):
    _, options, _ = read(tmp_path, "--device", "cpu", "--trials", "10min")
    assert options.trial_seconds == 600.0
    assert options.trial_device == "cpu"
    assert set(measured[0][1]) >= {"unet", "residual_unet", "unext"}
