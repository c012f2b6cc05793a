"""The plan: the only configuration of a run. Data alone: enumerated words and numbers, never an import path."""

import hashlib
import json
from typing import Literal

from autoseg.records.budget import Budget
from autoseg.records.case import Triple
from autoseg.records.dataset import LabelEncoding, LabelValues, OrientationName
from autoseg.records.files import Record

Scalar = str | int | float | bool | None
JsonValue = Scalar | tuple[Scalar, ...] | tuple[tuple[Scalar, ...], ...]


class NetworkSpec(Record):
    """A network, complete enough to build it. Sizes per axis are (z, y, x), or (y, x) for a 2D network."""

    architecture: Literal["unet"]
    dimensions: Literal[2, 3]
    input_channels: int
    output_channels: int
    """Heads: see LabelEncoding."""
    features: tuple[int, ...]
    """Feature maps per level, full resolution first."""
    strides: tuple[tuple[int, ...], ...]
    """Per level, of its first convolution; all ones at level 0."""
    kernel_sizes: tuple[tuple[int, ...], ...]
    """Per level."""
    encoder_convolutions: tuple[int, ...]
    """Convolutions per level."""
    decoder_convolutions: tuple[int, ...]
    """Convolutions per decoder level, full resolution first; one entry fewer than levels."""


class NormalizationSpec(Record):
    """Intensity normalisation of one channel; the numbers are the dataset's foreground statistics, used by `ct`."""

    scheme: Literal["zscore", "ct", "rescale_0_1", "rgb_0_1", "none"]
    use_mask: bool = False
    """zscore only: statistics inside the nonzero mask, zero outside."""
    mean: float = 0.0
    std: float = 1.0
    lower: float = 0.0
    """0.5 percentile, clipping bound of `ct`."""
    upper: float = 0.0
    """99.5 percentile, clipping bound of `ct`."""


class ResamplingSpec(Record):
    """Spline orders, and how slices far apart are treated."""

    image_order: int = 3
    label_order: int = 1
    logits_order: int = 1
    through_plane_order: int = 0
    """Order along the axis that is resampled separately."""
    separate_through_plane: Literal["auto", "always", "never"] = "auto"
    """auto: when the largest spacing is more than `anisotropy_threshold` times the smallest."""
    anisotropy_threshold: float = 3.0


class TrainingSpec(Record):
    """The schedule and its constants."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.99
    """sgd only, Nesterov."""
    weight_decay: float = 3e-5
    schedule: Literal["poly", "cosine"] = "poly"
    """Learning rate over progress in [0, 1]; poly has the exponent 0.9."""
    warmup_fraction: float = 0.0
    """Share of the progress over which the learning rate rises linearly from 0."""
    epochs: int = 1000
    steps_per_epoch: int = 250
    validation_steps: int = 50
    time_per_fold_seconds: float | None = None
    """Wall-clock promise for the fold, final validation included. The clock then decides how many steps are done;
    epochs and steps per epoch are what the measured speed makes of it."""
    foreground_fraction: float = 0.33
    """Share of a batch's patches that must contain foreground."""
    gradient_clip: float = 12.0
    mirror_axes: tuple[int, ...]
    """Spatial axes of the patch mirrored in training and at prediction; 0 is the first of `patch_size`."""
    batch_dice: bool
    """Dice over the whole batch instead of per sample."""
    weight_average_decay: float | None = None
    """Decay per step of an exponential moving average of the weights; None: no average."""


class Estimates(Record):
    """What the network costs, computed without building it."""

    feature_map_elements: int
    """nnU-Net's proxy: elements of all convolution outputs, batch 1."""
    parameters: int
    macs: int
    """Convolution multiply-accumulates of one forward pass, batch 1."""
    training_memory_bytes: int
    """Peak of a training step at the planned batch size."""


class Configuration(Record):
    """One trainable set-up. 3D: triples (z, y, x); 2D: pairs (y, x); axes follow the plan's transpose."""

    spacing: tuple[float, ...]
    """Target spacing, mm."""
    median_shape: tuple[float, ...]
    """Median over cases at the target spacing, voxels."""
    patch_size: tuple[int, ...]
    batch_size: int
    network: NetworkSpec
    normalization: tuple[NormalizationSpec, ...]
    """One per channel."""
    resampling: ResamplingSpec
    training: TrainingSpec
    estimates: Estimates
    preprocessed_as: str
    """Name of the configuration whose preprocessed arrays this one uses (its own, but for a cascade)."""
    previous_configuration: str | None = None
    """Cascade: whose label maps are appended to the input, one channel per foreground label."""


class Decision(Record):
    """One decision of the planner, with one sentence of reason."""

    what: str
    value: JsonValue
    reason: str


class Plan(Record):
    """Everything that training and prediction need to know."""

    schema_version: Literal[1] = 1
    dataset_name: str
    planner: str
    budget: Budget
    channel_names: tuple[str, ...]
    labels: dict[str, LabelValues]
    """Name -> value(s) in the files."""
    encoding: LabelEncoding
    orientation: OrientationName
    file_ending: str = ".nii.gz"
    """Of the training images."""
    transpose: Triple
    """Transposed axis i is working axis transpose[i]: the axis of largest spacing comes first."""
    configurations: dict[str, Configuration]
    decisions: tuple[Decision, ...]


def model_hash(plan: Plan, configuration: str) -> str:
    """Hash of everything in a plan that a trained model depends on: what goes in, what comes out, the network.

    Schedule, batch and estimates do not enter: a training may go on with another number of epochs.
    """
    settings = plan.configurations[configuration].model_dump(
        mode="json", exclude={"training", "estimates", "batch_size"}
    )
    shared = plan.model_dump(mode="json", include={"encoding", "orientation", "transpose", "channel_names"})
    return hash_of([settings, shared])


def hash_of(value: object) -> str:
    """Short hash of a JSON value; equal values have equal hashes, whatever the order of their keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


class Split(Record):
    """Case ids of one fold."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


class Splits(Record):
    """The cross-validation; index in `folds` is the fold's name."""

    schema_version: Literal[1] = 1
    folds: tuple[Split, ...]
    reason: str
    """How cases were divided: seed, groups."""
