"""cuDNN's setting: on within the block, and afterwards as it was, whatever other threads do."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from autoseg.networks.kernels import tried_kernels

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _torch_setting():
    before = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(("device", "are_worth_it"), [(CPU, True), (GPU, False), (GPU, True)])
def test_on_where_it_pays_and_put_back(before, device, are_worth_it):
    torch.backends.cudnn.benchmark = before
    with tried_kernels(device, are_worth_it=are_worth_it):
        assert torch.backends.cudnn.benchmark == (before or (device == GPU and are_worth_it))
    assert torch.backends.cudnn.benchmark == before


def test_an_error_puts_it_back():
    torch.backends.cudnn.benchmark = False
    with pytest.raises(RuntimeError), tried_kernels(GPU, are_worth_it=True):
        raise RuntimeError
    assert not torch.backends.cudnn.benchmark


class SlowSetting:
    """Stands for torch's, and lets other threads in after every question."""

    def __init__(self):
        self.value = False

    @property
    def benchmark(self):
        value = self.value
        time.sleep(0.0005)
        return value

    @benchmark.setter
    def benchmark(self, value):
        self.value = value


def test_threads_leave_it_as_it_was(monkeypatch):
    setting = SlowSetting()
    monkeypatch.setattr(torch.backends, "cudnn", setting)

    def work(_number):
        for _ in range(40):
            with tried_kernels(GPU, are_worth_it=True):
                time.sleep(0.0005)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not setting.value
