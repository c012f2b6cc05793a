"""Which device computes, and in which floating-point type; asked by training and by prediction."""

import re

import torch

from autoseg.errors import UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device with this name.

    Args:
        name: `auto` (a CUDA device when there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: If the name is unknown, or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::([0-9]+))?", name)
    if match is None:
        raise UsageError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= found:
        raise UsageError(f"device {name!r} was asked for, but this machine has {found} CUDA devices; use auto or cpu")
    return torch.device("cuda") if match[1] is None else torch.device("cuda", int(match[1]))


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type in which convolutions are computed; weights and sums stay float32.

    Args:
        precision: `auto`, `fp32`, `bf16` or `fp16`. `auto` takes bf16 where the hardware computes in it: GPUs from
            NVIDIA's Ampere on, CPUs with AVX512-BF16 or AMX. Older GPUs get fp16, other CPUs fp32.
        device: Where it is computed.

    Raises:
        UsageError: If the word is unknown, or fp16 is asked for on a CPU.
    """
    if precision == "auto":
        return _automatic_dtype(device)
    if precision not in _DTYPES:
        raise UsageError(f"precision {precision!r} is unknown; use auto, fp32, bf16 or fp16")
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision 'fp16' needs a CUDA device; use bf16, fp32 or auto on a CPU")
    return _DTYPES[precision]


def _automatic_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_computes_bf16() else torch.float32


def _cpu_computes_bf16() -> bool:
    # oneDNN also accepts bf16 on plain AVX512, but emulates it there more slowly than float32
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
