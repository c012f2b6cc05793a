"""The benchmark of training measures the loop that trains: on a GPU, most of the augmentation is the device's."""

import bench_training
import pytest
import torch

from autoseg.networks.devices import choose_device
from autoseg.records.files import write_record
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from autoseg.stages.describe import describe_dataset
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.testing import write_phantom_dataset
from autoseg.training.data.augmentation.on_device import DeviceAugmentation
from tests.builders import make_plan
from tests.gpu.pretended_gpu import PretendedGpu


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    folder = tmp_path_factory.mktemp("bench")
    write_phantom_dataset(folder / "phantoms", training=1, held_out=0)
    description = describe_dataset(folder / "phantoms")
    plan = make_plan({"3d_fullres": (3.0, 2.6, 2.9)}, labels=description.labels)
    workspace = Workspace(folder / "w")
    write_record(plan, workspace.plan)
    preprocess_dataset(description, plan, workspace, ("3d_fullres",), 1)
    split = Split(training=("phantom_000",), validation=())
    write_record(Splits(folds=(split,), reason="by hand"), workspace.splits)
    return workspace


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bench_training, "SECONDS_PER_TURN", 0.0)
    monkeypatch.setattr(bench_training, "MIN_TURNS", 2)
    monkeypatch.setattr(bench_training, "default_workers", lambda _device: 0)


@pytest.fixture(autouse=True)
def torch_settings():
    """torch's settings, which are those of the whole process, as they were."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32
    yield
    cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = before


def test_a_gpu_augments_what_it_is_measured_on(workspace, monkeypatch):
    augmented, change = [], DeviceAugmentation.__call__

    def count(augmentation, image, target, seeds):
        augmented.append(len(image))
        return change(augmentation, image, target, seeds)

    monkeypatch.setattr(DeviceAugmentation, "__call__", count)
    with PretendedGpu():
        bench = bench_training.Bench(workspace, None, choose_device("auto"), "fp32")
        rows = [name for name, *_ in bench.measure_loop(0.0)]
        assert not torch.backends.cudnn.allow_tf32
    assert augmented == 3 * [bench.configuration.batch_size]  # one epoch before the turns, of one step each
    assert rows[-1] == "device busy"


def test_a_cpu_leaves_augmentation_to_the_loader(workspace):
    bench = bench_training.Bench(workspace, "3d_fullres", torch.device("cpu"), "fp32")
    assert "whole loop, real batches" in [name for name, *_ in bench.measure_loop(0.0)]
    assert "seeds" not in next(bench._batches(0))
