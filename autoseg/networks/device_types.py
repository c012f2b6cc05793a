"""What torch can do on each type of device; asked wherever code depends on the type. The table is at the end.

Tested in tests/gpu/test_other_gpus.py and tests/networks/test_devices.py.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Final

import torch

Stream = torch.cuda.Stream | torch.xpu.Stream
Event = torch.cuda.Event | torch.xpu.Event


@dataclass(frozen=True, kw_only=True)
class DeviceType:
    """One type of device."""

    name: str
    """Name that torch has for it."""
    title: str
    """Name for a user."""
    precisions: tuple[str, ...]
    """Values of --precision that it computes in, `auto` left aside."""
    has_float64: bool
    has_streams: bool
    """Whether copies from pinned memory run beside the computation, in streams with events."""
    has_numbers: bool
    """Whether there may be several of them in a machine, told apart by a number."""
    backend: str | None
    """Torch's backend through which several processes exchange gradients; None: one process only."""

    @property
    def is_gpu(self) -> bool:
        """Whether it computes beside the processor, which prepares its batches meanwhile."""
        return self.name != "cpu"

    @property
    def has_scaler(self) -> bool:
        """Whether losses can be scaled, without which small gradients vanish in fp16: the scaler divides in float64."""
        return "fp16" in self.precisions and self.has_float64

    @property
    def module(self) -> ModuleType:
        """torch.cuda, torch.xpu or torch.mps; torch.cpu for the processor."""
        module: ModuleType = torch.get_device_module(self.name)
        return module


def device_type(device: torch.device) -> DeviceType:
    """The row of a device; that of the CPU for types that compute nothing, such as meta."""
    return DEVICE_TYPES.get(device.type, DEVICE_TYPES["cpu"])


DEVICE_TYPES: Final = {
    row.name: row
    for row in (
        DeviceType(
            name="cpu",
            title="CPU",
            precisions=("fp32", "bf16"),
            has_float64=True,
            has_streams=False,
            has_numbers=False,
            backend="gloo",
        ),
        DeviceType(
            name="cuda",
            title="CUDA",
            precisions=("fp32", "tf32", "bf16", "fp16"),
            has_float64=True,
            has_streams=True,
            has_numbers=True,
            backend="nccl",
        ),
        # transposed 3D convolutions in float32 only, since torch 2.8: github.com/pytorch/pytorch, issues 130256, 160739
        DeviceType(
            name="mps",
            title="Apple (mps)",
            precisions=("fp32",),
            has_float64=False,
            has_streams=False,
            has_numbers=False,
            backend=None,
        ),
        # several of Intel's graphics cards lack float64: docs.pytorch.org, "Getting started on Intel GPU"
        DeviceType(
            name="xpu",
            title="Intel (xpu)",
            precisions=("fp32", "bf16", "fp16"),
            has_float64=False,
            has_streams=True,
            has_numbers=True,
            backend="xccl",
        ),
    )
}
"""Rows by name. Those of mps and xpu follow torch's documentation; autoseg was never run on either."""
