"""The device that is checked, and how to measure time and memory on it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoseg.networks.device_types import device_type
from gpu_checks.results import Finding, SkippedError

CPU = torch.device("cpu")
WARM_UP_CALLS = 3
"""Calls before a measurement: kernels are chosen and memory is reserved in them."""


@dataclass(frozen=True)
class Machine:
    """Where and how the checks run."""

    device: torch.device
    folder: Path
    """Folder for files that are gone afterwards."""
    is_tiny: bool = False
    """Whether everything is so small that the checks themselves can be tested on a CPU."""
    hippocampus: Path | None = None
    """The dataset Task04_Hippocampus of the Decathlon, if it was given."""

    @property
    def has_gpu(self) -> bool:
        """Whether the device is a GPU, of whatever kind."""
        return device_type(self.device).is_gpu

    @property
    def has_cuda(self) -> bool:
        """Whether memory and waits of the device can be measured, for which only CUDA has functions."""
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """The device as commands call it."""
        return str(self.device)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Words of all precisions that the device computes in, fp32 first."""
        return device_type(self.device).precisions

    @property
    def fast_precision(self) -> str:
        """The precision that speed is measured in."""
        return "bf16" if "bf16" in self.precisions else "fp32"

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.has_gpu:
            device_type(self.device).module.synchronize()

    def need_cuda(self) -> None:
        """Leave a check that measures what only CUDA has functions for.

        Raises:
            SkippedError: On other devices.
        """
        if not self.has_cuda:
            raise SkippedError(f"this is measured on a CUDA device only, not on {self.device.type}")

    def judge(self, finding: Finding) -> Finding:
        """The finding with its aim, which was set for a GPU of a server; without it on a CPU."""
        return finding if self.has_gpu else replace(finding, aim="", is_reached=None)

    def start_peak(self) -> None:
        """Hand unused memory back and measure the peak from here on."""
        if self.has_cuda:
            self.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gigabytes(self) -> float:
        """Memory that was reserved at the peak: what other programs could not have; 0 without CUDA."""
        return torch.cuda.max_memory_reserved(self.device) / 1e9 if self.has_cuda else 0.0

    def peak_tensor_gigabytes(self) -> float:
        """Memory that tensors took at the peak, without what the allocator keeps; 0 without CUDA."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.has_cuda else 0.0

    def seconds_of(self, work: Callable[[], object]) -> float:
        """Seconds of one call, until the device has done it."""
        self.synchronize()
        began = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - began

    def take_turns(self, candidates: Sequence[Callable[[], object]], seconds: float) -> list[float]:
        """Median seconds of a call of each candidate; they take turns for so long, after some calls to warm up."""
        limit = 0.0 if self.is_tiny else seconds
        for work in candidates:
            for _ in range(1 if self.is_tiny else WARM_UP_CALLS):
                work()
        took: list[list[float]] = [[] for _ in candidates]
        end = time.perf_counter() + limit
        while not took[0] or time.perf_counter() < end:
            for measured, work in zip(took, candidates, strict=True):
                measured.append(self.seconds_of(work))
        return [statistics.median(measured) for measured in took]
