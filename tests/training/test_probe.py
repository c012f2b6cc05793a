"""Measuring speed: what is counted, what is measured, and what a measured step is made of."""

from contextlib import closing

import numpy as np
import pytest
import torch

from autoseg.costs import architectures
from autoseg.costs.architectures import forward_macs, list_operations
from autoseg.errors import TrainingError, UsageError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.networks.build import build_network
from autoseg.training import probe
from autoseg.training.data import loading
from autoseg.training.data.loading import default_workers
from autoseg.training.invented_data import NOISE_ENCODING, invent_case, measured_configuration, open_invented_batches
from autoseg.training.probe import describe_torch_device, measure_step, measure_training_speed, split_time
from autoseg.training.steps.loop import train_epoch
from tests.gpu.pretended_gpu import PretendedGpu

ARCHITECTURES = ("unet", "residual_unet", "unext")

REGIONS = make_encoding({"background": 0, "whole": (4, 7, 9), "core": 9, "ignore": 255}, (4, 9))


@pytest.fixture
def hasty(monkeypatch):
    """One step and one pass each."""
    for name in ("SECONDS_PER_TRAINING", "SECONDS_PER_PREDICTION", "SECONDS_PER_PLANNED_STEP"):
        monkeypatch.setattr(probe, name, 0.0)
    monkeypatch.setattr(probe, "PREDICTION_BATCH", 1)


def test_every_architecture_dimension_and_width_is_measured(hasty, monkeypatch):
    monkeypatch.setattr(probe, "MEASURED_FEATURES", (2, 4))
    monkeypatch.setattr(architectures, "SMALL_UNEXT_FEATURES", {2: (2, 2, 3, 4), 4: (4, 4, 5, 6)})
    measured = tuple(measure_training_speed("cpu"))
    assert [(point.architecture, point.dimensions, point.base_features) for point in measured] == [
        (architecture, dimensions, features)
        for architecture, description in architectures.ARCHITECTURES.items() if description.build_small is not None
        for dimensions in (3, 2) for features in (2, 4) if dimensions in description.dimensions
    ]  # fmt: skip
    assert all(min(point.macs_per_second, point.prediction_macs_per_second or 0.0) > 0 for point in measured)


def test_only_what_is_asked_for_is_measured(hasty, monkeypatch):
    monkeypatch.setattr(probe, "MEASURED_FEATURES", (2,))
    assert {point.architecture for point in measure_training_speed("cpu", ["residual_unet"])} == {"residual_unet"}


def test_speed_is_work_divided_by_time(monkeypatch):
    monkeypatch.setattr(probe, "_training_seconds", lambda *_: (4.0, None))
    monkeypatch.setattr(probe, "_prediction_seconds", lambda *_: 0.5)
    monkeypatch.setattr(probe, "MEASURED_FEATURES", (8,))
    volume, _ = measure_training_speed("cpu", ["unet"])
    measured = measured_configuration(3, 8)
    macs = forward_macs(measured.network, measured.patch_size)  # as planners count them
    assert volume.macs_per_second == macs * 2 / 4.0  # batches of 2
    assert volume.prediction_macs_per_second == macs * 8 / 0.5  # 8 windows


@pytest.mark.parametrize(
    ("small", "large", "speed", "launches"),
    [
        ((20, 3.0), (420, 11.0), 50.0, 2.6),
        ((20, 1.0), (420, 21.0), 20.0, 0.0),  # no launches: in proportion
        ((20, 5.0), (420, 5.0), 800.0, 4.975),  # nothing but launches: a tenth of the large one counts as computing
        ((20, 5.0), (420, 4.0), 1000.0, 4.98),  # noise
        ((100, 5.0), (200, 25.0), 5.0, 0.0),  # large ones are slower: launches are never negative
    ],
)
def test_two_sizes_give_speed_and_launches(small, large, speed, launches):
    assert split_time(small, large) == pytest.approx((speed, launches))


@pytest.fixture
def gpu(monkeypatch, hasty):
    """A pretended GPU on which small networks and patches are measured, by this process alone."""
    monkeypatch.setattr(probe, "MEASURED_FEATURES", (2,))
    monkeypatch.setattr(probe, "LARGE_PATCHES", {2: (192, 192), 3: (32, 64, 48)})
    monkeypatch.setattr(probe, "STEPS_PER_EPOCH", 2)
    monkeypatch.setattr(probe, "default_workers", lambda _device: 0)
    with PretendedGpu() as pretended:
        yield pretended


def test_a_gpu_is_measured_on_a_large_patch_too(gpu, monkeypatch):
    measured = []
    seconds = {(32, 48, 48): 0.020, (160, 160): 0.020, (32, 64, 48): 0.022, (192, 192): 0.030}

    def time(configuration, *_arguments):
        measured.append((configuration.patch_size, configuration.batch_size))
        return seconds[configuration.patch_size], None

    monkeypatch.setattr(probe, "_training_seconds", time)
    monkeypatch.setattr(probe, "_prediction_seconds", lambda _run, windows: 0.001 * windows.numel() ** 0.5)
    volume, picture = measure_training_speed("cuda", ["unet"])
    assert measured == [((32, 48, 48), 2), ((32, 64, 48), 2), ((160, 160), 4), ((192, 192), 8)]
    for point in (volume, picture):
        small = measured_configuration(point.dimensions, 2)
        macs = small.batch_size * forward_macs(small.network, small.patch_size)
        operations = len(list_operations(small.network, small.patch_size))
        assert point.seconds_per_operation is not None
        assert point.prediction_seconds_per_operation is not None
        assert operations * point.seconds_per_operation + macs / point.macs_per_second == pytest.approx(0.020)
        assert point.prediction_seconds_per_operation >= 0


def test_a_gpu_whose_memory_is_too_small_for_a_large_patch_has_the_small_one(gpu, monkeypatch):
    real = probe._training_seconds

    def fit_small(configuration, *arguments):
        if configuration.patch_size == probe.LARGE_PATCHES[configuration.network.dimensions]:
            raise torch.OutOfMemoryError("no memory left")
        return real(configuration, *arguments)

    monkeypatch.setattr(probe, "_training_seconds", fit_small)
    for point in measure_training_speed("cuda", ["unet"]):
        assert point.macs_per_second > 0
        assert point.seconds_per_operation is None


def test_steps_on_a_gpu_are_those_of_training(gpu, monkeypatch):
    """Intensities change on the device, and epochs have several steps, within which a batch is fetched ahead."""
    epochs, changed = [], []

    def watch(batches):
        for batch in batches:
            changed.append("seeds" in batch)
            yield batch

    def train(run, batches, *arguments):
        assert run.augmentation is not None
        epochs.append(run.spec.steps_per_epoch)
        return train_epoch(run, watch(batches), *arguments)

    monkeypatch.setattr(probe, "train_epoch", train)
    assert measure_step(measured_configuration(2, 2), NOISE_ENCODING, "cuda") is not None
    assert epochs == [2, 2]
    assert changed == [True] * 4


def test_a_cpu_is_measured_as_ever(hasty, monkeypatch):
    monkeypatch.setattr(probe, "MEASURED_FEATURES", (2,))
    monkeypatch.setattr(probe, "_time_large", failing(AssertionError("a large patch")))
    for point in measure_training_speed("cpu", ["unet"]):
        assert "seconds_per_operation" not in point.model_dump()
        assert "prediction_seconds_per_operation" not in point.model_dump()


def test_a_planned_step_is_measured_with_its_own_labels_and_channels(hasty):
    planned = small_configuration(measured_configuration(3, 2), patch_size=(8, 16, 24), channels=3, heads=2)
    seconds = measure_step(planned, REGIONS, "cpu")
    assert seconds is not None
    assert 0 < seconds < 60


def failing(error):
    """A function that raises."""

    def fail(*_arguments, **_options):
        raise error

    return fail


def test_a_gpu_whose_memory_is_too_small_gives_no_time(monkeypatch):
    monkeypatch.setattr(probe, "start_run", failing(torch.OutOfMemoryError("no memory left")))
    assert measure_step(measured_configuration(2, 2), REGIONS, "cpu") is None


def test_an_image_that_no_memory_can_hold_gives_no_time():
    vast = small_configuration(measured_configuration(3, 2), patch_size=(2**17,) * 3, channels=1, heads=2)  # 2^55 bytes
    with pytest.raises(MemoryError, match="Unable to allocate"):
        invent_case(vast, REGIONS)
    assert measure_step(vast, REGIONS, "cpu") is None


def test_a_network_that_no_memory_can_hold_gives_no_time():
    planned = small_configuration(measured_configuration(2, 2), patch_size=(24, 40), channels=1, heads=2)
    network = planned.network.model_copy(update={"features": (2, 2**46, 2, 2)})  # the first wide kernel: 2^53 bytes
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        build_network(network, deep_supervision=True)
    assert measure_step(planned.model_copy(update={"network": network}), REGIONS, "cpu") is None


def test_memory_that_runs_out_while_a_batch_is_prepared_gives_no_time(hasty, monkeypatch):
    monkeypatch.setattr(loading, "read_patch", failing(MemoryError()))
    assert measure_step(measured_configuration(2, 2), REGIONS, "cpu") is None


def test_other_errors_are_not_taken_for_missing_memory(hasty, monkeypatch):
    monkeypatch.setattr(loading, "read_patch", failing(ValueError("no such axis")))
    with pytest.raises(TrainingError, match="no such axis"):
        measure_step(measured_configuration(2, 2), REGIONS, "cpu")
    monkeypatch.setattr(probe, "start_run", failing(RuntimeError("shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure_step(measured_configuration(2, 2), REGIONS, "cpu")


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="device 'cuda:77' was requested"):
        measure_step(measured_configuration(2, 2), REGIONS, "cuda:77")


def test_the_invented_case_has_every_foreground_head_where_its_labels_are():
    planned = small_configuration(measured_configuration(2, 2), patch_size=(24, 40), channels=3, heads=2)
    case = invent_case(planned, REGIONS)
    assert case.array.shape == (4, 8, 30, 50)
    [labels] = case.array[3:4,]
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert set(case.locations) == {0, 1}
    for head, voxels in case.locations.items():
        found = labels[tuple(voxels.T)]
        assert len(voxels) > 0
        assert set(found) <= set(REGIONS.heads[head].indices)


def test_the_background_is_no_head_to_look_for():
    assert set(invent_case(measured_configuration(2, 2), NOISE_ENCODING).locations) == {1, 2}


def test_workers_prepare_the_same_batches():
    planned = small_configuration(measured_configuration(2, 2), patch_size=(24, 40), channels=1, heads=2)
    with (
        closing(open_invented_batches(planned, REGIONS, 0)) as alone,
        closing(open_invented_batches(planned, REGIONS, 2)) as helped,
    ):
        for _ in range(3):
            expected, batch = next(alone), next(helped)
            np.testing.assert_array_equal(batch["image"], expected["image"])
            np.testing.assert_array_equal(batch["target"], expected["target"])


def test_as_many_workers_as_in_training_prepare_batches(hasty, monkeypatch):
    used = []

    def no_workers(device: torch.device) -> int:
        used.append(device)
        return 0

    monkeypatch.setattr(probe, "default_workers", no_workers)
    assert measure_step(measured_configuration(2, 2), NOISE_ENCODING, "cpu") is not None
    assert used == [torch.device("cpu")]


@pytest.mark.parametrize(("device", "cores", "workers"), [("cuda:1", 3, 3), ("cuda", 40, 12), ("cpu", 40, 0)])
def test_workers_follow_from_the_device_and_the_cores(monkeypatch, device, cores, workers):
    monkeypatch.setattr(loading, "count_cores", lambda: cores)
    assert default_workers(torch.device(device)) == workers


def test_the_device_is_described_with_its_precision():
    assert describe_torch_device("cpu").startswith(f"the CPU, threads: {torch.get_num_threads()}, ")


def small_configuration(configuration, *, patch_size, channels, heads):
    network = configuration.network.model_copy(update={"input_channels": channels, "output_channels": heads})
    return configuration.model_copy(
        update={
            "patch_size": patch_size,
            "network": network,
            "normalization": configuration.normalization * channels,
        }
    )
