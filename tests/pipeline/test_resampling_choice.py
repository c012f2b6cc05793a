"""Who resamples the images while a dataset is preprocessed: the CPU unless a GPU is worth its start."""

import sys

import pytest
import torch

from autoseg.cluster.dask_workers import DaskCluster
from autoseg.device_resampling import DeviceResampler
from autoseg.imaging.arrays.resampling import resample_on_cpu
from autoseg.pipeline import PlannedDataset, PlanningOptions, planning, write_plan
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from tests.builders import make_case_fingerprint, make_dataset, make_fingerprint, make_plan
from tests.gpu.pretended_gpu import PretendedGpu

GPU = DeviceResampler(torch.device("cuda", 0))


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """What resamples for options and workers, where resampling takes a core 300 s."""
    used = []
    monkeypatch.setattr(
        planning, "_preprocess", lambda _planned, _workspace, _workers, resampler, _bar: used.append(resampler)
    )
    monkeypatch.setattr(planning, "resampling_seconds", lambda _plan, _fingerprint: 300.0)
    names = [f"case{number}" for number in range(8)]
    plan = make_plan({"3d_fullres": (1.0, 1.0, 1.0)})
    cases = [make_case_fingerprint(name, (6, 7, 8)) for name in names]
    splits = Splits(folds=(Split(training=("case1",), validation=("case0",)),), reason="")
    planned = PlannedDataset(make_dataset(names, plan), make_fingerprint(cases, plan), plan, splits)

    def choose(workers, **options):
        write_plan(planned, Workspace(tmp_path), PlanningOptions(max_memory=10**12, **options), workers=workers)
        return used.pop()

    return choose


@pytest.mark.parametrize(
    ("device", "workers", "expected"),
    [
        (None, 1, resample_on_cpu),
        ("cuda:0", 1, GPU),
        ("cuda:0", 5, GPU),
        ("cuda:0", 6, resample_on_cpu),  # 50 s of each
        ("cuda:0", DaskCluster("tcp://nowhere:1"), resample_on_cpu),
        ("cuda:3", 1, resample_on_cpu),  # no such GPU
    ],
)
def test_a_gpu_resamples_where_that_takes_long(chosen, device, workers, expected):
    with PretendedGpu():
        assert chosen(workers, resampling_device=device) == expected


def test_where_it_takes_no_time_torch_is_not_loaded(chosen, monkeypatch):
    monkeypatch.setattr(planning, "resampling_seconds", lambda _plan, _fingerprint: 59.0)
    monkeypatch.setitem(sys.modules, "autoseg.device_resampling", None)
    assert chosen(1, resampling_device="cuda:0") is resample_on_cpu
