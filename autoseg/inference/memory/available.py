"""How much memory and disk this process has and may still take.

Tested in tests/inference/memory/test_estimate.py.
"""

import shutil
import tempfile
from dataclasses import dataclass

import torch

from autoseg.system import measure_available_memory, measure_resident_memory

DEVICE_FRACTION = 0.9
"""Of a GPU's free memory that is counted on; the rest is lost between blocks."""

PROGRAM_BYTES = 600_000_000
"""Interpreter and libraries, where the system does not say what the process holds."""


@dataclass(frozen=True)
class Room:
    """Bytes that there are."""

    resident: int
    """What the process holds before a case: program, weights, and the image as it was read."""
    limit: int | None
    """For the whole process; None: not known."""
    is_limit_set: bool
    """By the user; else it is what the machine can give."""
    device: int | None
    """Free memory of a GPU; None without one."""
    disk: int
    """Free in the folder of temporary files."""


def measure_room(max_memory: int | None, device: torch.device, image_bytes: int) -> Room:
    """Ask the system.

    Args:
        max_memory: Bytes that the process may hold; None: what the machine has free, where the system says it.
        device: Of the networks.
        image_bytes: Of the image as read, counted where the system does not say what the process holds.
    """
    resident = measure_resident_memory()
    if resident is None:
        resident = PROGRAM_BYTES + image_bytes
    available = measure_available_memory()
    return Room(
        resident=resident,
        limit=max_memory if max_memory is not None or available is None else resident + available,
        is_limit_set=max_memory is not None,
        device=_free_device_bytes(device) if device.type == "cuda" else None,
        disk=shutil.disk_usage(tempfile.gettempdir()).free,
    )


def _free_device_bytes(device: torch.device) -> int:
    """What nobody has, and what this process has reserved and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(DEVICE_FRACTION * (free + unused))
