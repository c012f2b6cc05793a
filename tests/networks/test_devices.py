"""Choice of device and of the floating-point type."""

import ctypes
import platform
import subprocess
import sys

import pytest
import torch

from autoseg.errors import UsageError
from autoseg.networks.devices import choose_device, choose_dtype, keep_freed_memory, memory_format

CPU = torch.device("cpu")


def test_cpu_and_auto_without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu") == CPU
    assert choose_device("auto") == CPU


def test_auto_takes_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:²", "cuda:١", "cuda:1\n", "", "CPU", "mps"])
def test_unknown_device(name):
    with pytest.raises(UsageError, match="is unknown; use auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match=r"'cuda:2' was requested, but this machine has 2 CUDA devices"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="has 0 CUDA devices"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["cuda:257", "cuda:99999999999"])  # torch keeps an index in 8 bits
def test_numbers_beyond_those_of_torch_are_no_other_gpu(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=f"{name!r} was requested, but this machine has 2 CUDA devices"):
        choose_device(name)
    assert choose_device("cuda:01") == torch.device("cuda:1")


def test_precision_by_name():
    assert choose_dtype("fp32", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16
    assert choose_dtype("fp16", torch.device("cuda")) == torch.float16


def test_precision_refused():
    with pytest.raises(UsageError, match="precision 'half' is unknown"):
        choose_dtype("half", CPU)
    with pytest.raises(UsageError, match="'fp16' needs a CUDA device"):
        choose_dtype("fp16", CPU)


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"),
    [(True, False, torch.bfloat16), (False, True, torch.bfloat16), (False, False, torch.float32)],
)
def test_automatic_precision_on_a_cpu(monkeypatch, avx512_bf16, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_dtype("auto", CPU) == expected


FREEING = """
import resource, sys
import numpy as np
from autoseg.networks.devices import keep_freed_memory

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(2):
    np.ones(2**23)
before = page_faults()
for _ in range(4):
    np.ones(2**23)
print(page_faults() - before)
"""


def faults_of_four_arrays(mode):
    ran = subprocess.run([sys.executable, "-c", FREEING, mode], capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_without_asking_the_system():
    assert faults_of_four_arrays("keep") < 50 < faults_of_four_arrays("return")


def test_other_systems_keep_their_ways(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_c_library_without_the_option(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("shape", "strides"), [((2, 3, 4, 5), (60, 1, 15, 3)), ((2, 3, 4, 5, 6), (360, 1, 90, 18, 3))], ids=["2D", "3D"]
)
def test_the_channels_of_a_voxel_are_side_by_side(shape, strides):
    batch = torch.zeros(shape).contiguous(memory_format=memory_format(len(shape) - 2))
    assert batch.stride() == strides
