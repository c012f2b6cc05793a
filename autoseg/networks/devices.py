"""Which device computes, in which floating-point type, and with which memory; asked by training and by prediction."""

import ctypes
import re
import sys
from typing import Final

import torch

from autoseg.errors import PredictionError, TrainingError, UsageError
from autoseg.networks.device_types import DEVICE_TYPES, DeviceType, device_type

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt's options in glibc's malloc.h."""

_OUT_OF_MEMORY: Final = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Words of a RuntimeError when memory is missing: torch's allocator on a CPU, CUDA, cuDNN, cuBLAS."""

_FIRST_FAULTY_CUDNN, _FIRST_SOUND_CUDNN = 90800, 91500
"""Versions 9.8.0 and 9.15.0 in the form that torch gives."""

MAX_KEPT_BYTES: Final = 2**30
"""A freed block up to this size is kept for the next one; tensors of a training step are smaller as a rule."""


def choose_device(name: str) -> torch.device:
    """The device with this name.

    Args:
        name: `auto` (a CUDA device when there is one, else the CPU), `cpu`, `cuda`, `cuda:N`, `mps`, `xpu` or `xpu:N`.

    Raises:
        UsageError: If the name is unknown, or the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"(cpu|mps)|(cuda|xpu)(?::([0-9]+))?", name)
    if match is None:
        raise UsageError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N; mps, xpu or xpu:N")
    row, number = DEVICE_TYPES[match[1] or match[2]], match[3]
    found = row.module.device_count() if not row.has_numbers or row.module.is_available() else 0
    if int(number or 0) >= found:
        raise UsageError(
            f"device {name!r} was requested, but this machine has {found} {row.title} devices; use auto or cpu"
        )
    return torch.device(row.name) if number is None else torch.device(row.name, int(number))


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type in which convolutions are computed; weights and sums stay float32.

    Args:
        precision: `auto`, `fp32`, `tf32`, `bf16` or `fp16`. `auto` takes bf16 where the hardware computes in it: GPUs
            from NVIDIA's Ampere on, Intel's, CPUs with AVX512-BF16 or AMX. Older GPUs get fp16, others fp32.
        device: Where it is computed.

    Raises:
        UsageError: If the precision is unknown, or the device does not compute in it.
    """
    if precision == "auto":
        return _automatic_dtype(device)
    if precision not in _DTYPES:
        raise UsageError(f"precision {precision!r} is unknown; use auto, fp32, tf32, bf16 or fp16")
    row = device_type(device)
    if precision not in row.precisions:
        others = ", ".join(reversed(row.precisions))
        raise UsageError(f"precision '{precision}' needs a CUDA device; use {others} or auto on {_with_article(row)}")
    return _DTYPES[precision]


def use_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of `choose_dtype`; a GPU computes float32 with the 10 bits of TF32 only where that is asked for by name.

    torch's own default is TF32 in convolutions, which is no reference to compare 16 bits with. The setting is torch's
    and holds for the whole process.

    Raises:
        UsageError: See `choose_dtype`.
    """
    dtype = choose_dtype(precision, device)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    return dtype


def describe_faulty_versions(device: torch.device) -> str:
    """What is known to be wrong with the installed torch or cuDNN, in a sentence; empty if nothing is.

    References:
        github.com/pytorch/pytorch: issue 163539 (wrong 3D convolutions in 16 bits, cuDNN 9.8 to 9.14), pull request
        167024 (TF32, 9.10.2 to 9.15), issue 130256 (transposed 3D convolutions on mps, torch 2.8).
    """
    if device.type == "mps" and torch.__version__ < "2.8":
        return f"torch {torch.__version__} lacks transposed 3D convolutions on mps; install torch 2.8 or later"
    if device.type != "cuda":
        return ""
    version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    if version is None or not _FIRST_FAULTY_CUDNN <= version < _FIRST_SOUND_CUDNN:
        return ""
    return (
        f"cuDNN {version // 10000}.{version // 100 % 100}.{version % 100} is known to give wrong 3D convolutions of "
        "large images; install a torch that brings cuDNN 9.15 or later"
    )


def _automatic_dtype(device: torch.device) -> torch.dtype:
    row = device_type(device)
    if not row.is_gpu:
        return torch.bfloat16 if _cpu_computes_bf16() else torch.float32
    if "bf16" not in row.precisions:
        return torch.float32
    with row.module.device(device):
        if row.module.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
    return torch.float16 if row.has_scaler else torch.float32


def _with_article(row: DeviceType) -> str:
    return row.name if row.is_gpu else f"a {row.title}"


def _cpu_computes_bf16() -> bool:
    # oneDNN also accepts bf16 on plain AVX512, but emulates it there more slowly than float32
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_freed_memory() -> bool:
    """Let this process, and those it forks later, reuse freed memory instead of handing it back to the system.

    Every step allocates and frees the same tensors. glibc returns large ones to the system at once, which then has to
    clear every page again. Time of a training step that this saves, planned U-Net, 40 x 56 x 40, bf16, one core, pages
    of 4 KiB: 4 to 9 % with 8 features and batch 2, 13 % with 32 and batch 9. The price: the process does not shrink
    before it ends, and its peak was up to 4 % higher.

    Returns:
        Whether the C library took it; False on systems without glibc, where nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, MAX_KEPT_BYTES) and mallopt(_TRIM_THRESHOLD, -1))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is what was missing; torch's own error says so, but not that of a CPU or of CUDA's libraries."""
    if isinstance(error, TrainingError) and error.__cause__ is not None:  # so the loader passes errors on
        return is_out_of_memory(error.__cause__)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def check_device_works(device: torch.device) -> None:
    """Find out whether a GPU still computes: after an error of a kernel it refuses everything until the process ends.

    Raises:
        PredictionError: If it does not.
    """
    try:
        synchronize(device)
    except RuntimeError as error:
        raise PredictionError(
            f"{device} does not compute any more ({str(error).splitlines()[0]}). Run the same command again, with "
            "--skip-existing to keep what is done; if it happens again, with --device cpu."
        ) from error


def why_no_gpu() -> str:
    """Why torch cannot compute on a GPU; empty where it can."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return "torch sees no device, perhaps because CUDA_VISIBLE_DEVICES hides all"


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has computed all that it was given; a CPU has."""
    row = device_type(device)
    if row.is_gpu:
        row.module.synchronize(*([device] if row.has_numbers else []))


def free_memory_bytes(device: torch.device) -> int:
    """Bytes of a GPU that this process can still take, those included that it has reserved and does not use."""
    row = device_type(device)
    if not row.has_numbers:  # Apple's GPU, which shares the machine's memory
        return max(int(row.module.recommended_max_memory() - row.module.current_allocated_memory()), 0)
    free, _ = row.module.mem_get_info(device)
    return int(free + row.module.memory_reserved(device) - row.module.memory_allocated(device))


def total_memory_bytes(device: torch.device) -> int:
    """Bytes of a GPU's memory, for all processes together; of Apple's, what one process should take."""
    row = device_type(device)
    if not row.has_numbers:
        return int(row.module.recommended_max_memory())
    return int(row.module.mem_get_info(device)[1])


def forget_peak_memory(device: torch.device) -> None:
    """Measure the peak of a GPU's memory from now on, where it is measured."""
    row = device_type(device)
    if row.has_numbers:
        row.module.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of the memory that a GPU's allocator has held, which others could not have; on mps what it holds now."""
    row = device_type(device)
    peak = row.module.max_memory_reserved(device) if row.has_numbers else row.module.driver_allocated_memory()
    return int(peak)


def release_cached_memory(device: torch.device) -> None:
    """Hand the blocks that a GPU's allocator keeps without using them back, so that they can be cut again."""
    row = device_type(device)
    if row.is_gpu:
        row.module.empty_cache()
