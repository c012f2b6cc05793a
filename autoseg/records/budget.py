"""What a plan has to respect: device, memory, time, and what the user decided.

Tested in tests/records/test_plan.py.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from autoseg.records.case import Triple
from autoseg.records.encoders import EncoderName
from autoseg.records.external import ExternalNetwork, NetworkCosts
from autoseg.records.files import Record
from autoseg.records.losses import Regularizer
from autoseg.records.network import Architecture, NetworkSpec, NormalizationSpec, ResamplingSpec, Size, Sizes

DeviceName = Literal["cpu", "cuda", "mps", "xpu"]
"""Type of a device, as torch names it: the processor, a GPU of NVIDIA, of Apple, of Intel."""

AxisLetters = Literal["all", "none", "z", "y", "x", "zy", "zx", "yx", "zyx"]
"""Axes of patches."""

CaseSampling = Literal["uniform", "balanced"]
"""How the cases of patches with foreground are drawn."""

MAX_NEIGHBOR_SLICES = 8
"""Largest number of neighbouring slices on each side."""

NeighborSlices = Annotated[int, Field(ge=0, le=MAX_NEIGHBOR_SLICES)]

Contrasts = Literal["usual", "random"]
"""Whether training images get random contrasts, for scanners and sequences that they do not show."""


class Throughput(Record):
    """Measured speed of a small network on the device that will train."""

    architecture: Architecture = "unet"
    dimensions: Literal[2, 3]
    base_features: PositiveInt
    """Feature maps at full resolution of the measured network."""
    macs_per_second: PositiveFloat
    """Multiply-accumulates of the forward pass, divided by the seconds of the whole training step
    (augmentation, forward, backward, update)."""
    prediction_macs_per_second: PositiveFloat | None = None
    """The same, divided by the seconds of a forward pass alone; None: not measured."""
    seconds_per_operation: NonNegativeFloat | None = Field(default=None, exclude_if=lambda value: value is None)
    """Seconds that a training step takes for each operation of the network, however small it is: a GPU's launches.
    The speeds are those beside it, from a small and a large patch. None: a small patch alone was measured, with all
    that its step takes in its speed."""
    prediction_seconds_per_operation: NonNegativeFloat | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """The same for a forward pass alone."""


class MeasuredThroughput(Record):
    """What `autoseg doctor --measure-speed FILE` writes."""

    throughput: tuple[Throughput, ...]


class NetworkToMeasure(Record):
    """What a process is asked that counts the costs of a network of another package."""

    network: NetworkSpec
    patch_sizes: tuple[Sizes, ...]
    """Patches that it is counted on, from small to large."""
    device: DeviceName | None
    """Where its steps are timed; None: nowhere."""
    timed_patch_size: Sizes


class MeasuredNetwork(Record):
    """What that process answers."""

    costs: NetworkCosts
    throughput: Throughput | None = None
    """None: not timed, or there is no such device here."""


class MeasuredMachine(Record):
    """What the speed of a machine depends on; a measurement holds for machines that are equal in all of it."""

    autoseg: str
    """Version."""
    torch: str
    """Version."""
    processor: str
    """Name of the processor."""
    threads: PositiveInt
    """Threads that numerical libraries use."""
    device: str
    """Name of the GPU and its number, such as `NVIDIA H200, cuda:0`; `cpu` for the processor."""


class KeptSpeed(Record):
    """Measured speed of a machine, kept for the next plan; with it, how busy the machine was."""

    machine: MeasuredMachine
    measured: str
    """Date and time of the measurement, ISO 8601."""
    product_seconds: PositiveFloat
    """Seconds of a fixed matrix product, right before the measurement."""
    others_load: Annotated[float, Field(ge=0)] = Field(default=0.0, exclude_if=lambda value: value == 0.0)
    """Cores that other programs used, right before the measurement; 0 also in files of older versions."""
    gpu_busy_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of time in which the GPU worked for others, right before the measurement; None: not known."""
    throughput: tuple[Throughput, ...]
    has_large_patches: bool = False
    """Whether large patches were measured too where a GPU was; False in files of older versions."""


class Overrides(Record):
    """Decisions of the user, which a planner keeps; it takes the others."""

    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Target spacing at full resolution, mm, (z, y, x) before the plan's transpose."""
    patch_size: Annotated[Sizes, Field(min_length=2, max_length=3)] | None = None
    """Voxels, axes as in the plan: a pair is meant for 2D, a triple for the 3D configurations."""
    batch_size: Size | None = None
    """Batch size of every configuration."""
    mirror_axes: AxisLetters | None = Field(default=None, exclude_if=lambda value: value is None)
    """`all`, `none`, or letters of `zyx`, of which a patch mirrors those that it has; a 2D patch has the last two."""
    side_pairs: tuple[tuple[str, str], ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Names of labels, left and right, that change places where an image is mirrored from left to right; empty: none
    do. None: as their names say."""
    progressive: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    """Whether training begins with smaller patches that grow; None: the planner decides."""
    case_sampling: CaseSampling | None = Field(default=None, exclude_if=lambda value: value is None)
    """Which cases patches with foreground come from."""
    regularizer: Regularizer | None = Field(default=None, exclude_if=lambda value: value is None)
    """What is added to the loss on voxels with the ignore label; None: nothing."""
    contrasts: Contrasts | None = Field(default=None, exclude_if=lambda value: value is None)
    """Augmentation of contrasts; None: nnU-Net's."""
    neighbor_slices: NeighborSlices | None = Field(default=None, exclude_if=lambda value: value is None)
    """Neighbouring slices on each side in the configuration 2.5d; None: the planner decides."""
    options: dict[str, str] = Field(default_factory=dict)
    """Settings that belong to one planner."""


class AdoptedConfiguration(Record):
    """One configuration of a model that training starts from."""

    spacing: tuple[PositiveFloat, ...]
    """mm, axes follow the model's transpose."""
    patch_size: Sizes
    network: NetworkSpec
    resampling: ResamplingSpec
    normalization: tuple[NormalizationSpec, ...]
    """Normalisation of each channel of the model."""
    neighbor_slices: NeighborSlices = Field(default=0, exclude_if=lambda value: value == 0)
    """Neighbouring slices on each side that the network gets too."""


class AdoptedModel(Record):
    """A model whose topology, spacing and normalisation a plan takes over, so that its weights fit."""

    model: str
    """Name that the user gave."""
    planner: str
    channel_names: tuple[str, ...]
    transpose: Triple
    configurations: dict[str, AdoptedConfiguration]


class Budget(Record):
    """Limits and overrides that a plan has to respect."""

    device: DeviceName = "cuda"
    devices: PositiveInt = Field(default=1, exclude_if=lambda value: value == 1)
    """Devices that train one network together, each with its part of every batch; limits of memory are those of one."""
    memory_gigabytes: NonNegativeFloat | None = None
    """Training memory to plan for; None: the planner's own, nnU-Net's presets name one each."""
    available_gigabytes: NonNegativeFloat | None = None
    """Memory of the device that was found; limits the planner's own; None: unknown."""
    time_per_fold_seconds: PositiveFloat | None = None
    """Wall-clock time for one fold, its final validation included; None: the full schedule."""
    latency_seconds: PositiveFloat | None = None
    """Longest prediction of a median case; None: no limit."""
    throughput: tuple[Throughput, ...] = ()
    """Measured on the training device; empty: planned without a measurement."""
    configurations: tuple[str, ...] = ()
    """Requested configurations; empty: all that make sense."""
    overrides: Overrides = Overrides()
    like: AdoptedModel | None = None
    """Start from this model."""
    finds_objects: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether the planned networks get heads that find objects in place of their decoder; sizes and schedule count what
    these heads cost."""
    installed_weights: tuple[EncoderName, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Published weights of encoders that are installed where the plan is made."""
    external_networks: tuple[ExternalNetwork, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Networks of other packages that the planner was asked for, with what was counted on them."""
