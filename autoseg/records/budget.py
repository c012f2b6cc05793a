"""What training may use: device, memory, time."""

from typing import Literal

from autoseg.records.files import Record


class Throughput(Record):
    """Measured speed of one training step of a small U-Net on the device that will train."""

    dimensions: Literal[2, 3]
    base_features: int
    """Feature maps at full resolution of the measured network."""
    macs_per_second: float
    """Convolution multiply-accumulates of the forward pass, divided by the seconds of the whole step
    (augmentation, forward, backward, update)."""


class Budget(Record):
    """The limits a plan has to respect."""

    device: Literal["cpu", "cuda"] = "cuda"
    memory_gigabytes: float = 8.0
    """Training memory of the device; nnU-Net's reference is 8 GB."""
    time_per_fold_seconds: float | None = None
    """Wall-clock time for one fold, its final validation included; None: the full schedule."""
    throughput: tuple[Throughput, ...] = ()
    """Measured on the training device; empty: planned without a measurement."""
    configurations: tuple[str, ...] = ()
    """Configurations asked for; empty: all that make sense."""
