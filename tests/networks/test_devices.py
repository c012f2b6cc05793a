"""Choice of device and of the floating-point type."""

import contextlib
import ctypes
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.torch_version import TorchVersion

from autoseg.errors import PredictionError, UsageError
from autoseg.networks.devices import (
    check_device_works,
    choose_device,
    choose_dtype,
    describe_faulty_versions,
    is_out_of_memory,
    keep_freed_memory,
    use_precision,
    why_no_gpu,
)

CPU = torch.device("cpu")

GPU = torch.device("cuda", 0)


def test_cpu_and_auto_without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu") == CPU
    assert choose_device("auto") == CPU


def test_auto_takes_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    "name", ["gpu", "cuda:", "cuda:x", "cuda:²", "cuda:١", "cuda:1\n", "", "CPU", "mps:0", "xpu:", "xpu:1\n"]
)
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


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("mps", "auto", torch.float32), ("mps", "fp32", torch.float32), ("mps", "bf16", None), ("mps", "fp16", None),
        ("xpu", "bf16", torch.bfloat16), ("xpu", "fp16", torch.float16), ("xpu", "tf32", None),
    ],
)  # fmt: skip
def test_precision_on_gpus_of_other_makers(name, precision, expected):
    device = torch.device(name, 0)
    if expected is not None:
        assert choose_dtype(precision, device) == expected
        return
    with pytest.raises(UsageError, match=f"precision '{precision}' needs a CUDA device; use .*fp32 or auto on {name}"):
        choose_dtype(precision, device)


@pytest.mark.parametrize(("computes_bf16", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_automatic_precision_of_intel_has_no_scaler_to_fall_back_on(monkeypatch, computes_bf16, expected):
    monkeypatch.setattr(torch.xpu, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda including_emulation: computes_bf16)
    assert choose_dtype("auto", torch.device("xpu", 0)) == expected


def test_gpus_of_other_makers_are_taken_by_name_only(monkeypatch):
    for module, number in ((torch.mps, 1), (torch.xpu, 2)):
        monkeypatch.setattr(module, "is_available", lambda: True)
        monkeypatch.setattr(module, "device_count", lambda number=number: number)
    assert choose_device("auto") == CPU
    assert choose_device("mps") == torch.device("mps")
    assert choose_device("xpu:1") == torch.device("xpu:1")
    with pytest.raises(UsageError, match=r"'xpu:2' was requested, but this machine has 2 Intel \(xpu\) devices"):
        choose_device("xpu:2")


@pytest.mark.parametrize(("version", "is_faulty"), [("2.7.1", True), ("2.8.0", False), ("2.13.0+cpu", False)])
def test_a_torch_without_3d_networks_on_apple_is_named(monkeypatch, version, is_faulty):
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    assert ("install torch 2.8" in describe_faulty_versions(torch.device("mps"))) is is_faulty


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


@pytest.fixture
def tf32():
    """torch's settings, which are those of the whole process, as they were."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    yield lambda: [backend.allow_tf32 for backend in backends]
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


def test_float32_is_float32_unless_tf32_is_asked_for_by_name(tf32):
    for precision, expected in (("tf32", [True, True]), ("fp32", [False, False]), ("bf16", [False, False])):
        assert use_precision(precision, GPU) == (torch.bfloat16 if precision == "bf16" else torch.float32)
        assert tf32() == expected


def test_tf32_is_refused_on_a_cpu():
    with pytest.raises(UsageError, match="'tf32' needs a CUDA device"):
        use_precision("tf32", torch.device("cpu"))


@pytest.mark.parametrize(
    ("version", "is_faulty"),
    [(90701, False), (90800, True), (91002, True), (91400, True), (91500, False), (None, False)],
)
def test_versions_of_cudnn_that_are_known_to_be_wrong_are_named(monkeypatch, version, is_faulty):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    sentence = describe_faulty_versions(GPU)
    assert ("known to give wrong 3D convolutions" in sentence) is is_faulty
    assert describe_faulty_versions(torch.device("cpu")) == ""


def test_a_gpu_that_does_not_compute_any_more_is_found(monkeypatch):
    def fail(_device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    check_device_works(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    check_device_works(GPU)
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(
        PredictionError, match=r"^cuda:0 does not compute any more \(CUDA error: an illegal.*encountered\)"
    ):
        check_device_works(GPU)


def test_why_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert why_no_gpu().endswith("is built without CUDA")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert "CUDA_VISIBLE_DEVICES" in why_no_gpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert why_no_gpu() == ""


@pytest.mark.parametrize(
    "words",
    ["CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED when calling"],
)
def test_every_library_has_its_words_for_missing_memory(words):
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(ValueError(words))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
