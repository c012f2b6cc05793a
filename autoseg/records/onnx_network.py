"""Everything that a program without autoseg needs to predict with one exported network file.

Tested in tests/stages/test_export_onnx.py.
"""

from typing import Literal

from pydantic import Field

from autoseg.records.case import Triple
from autoseg.records.dataset import LabelEncoding, LabelValues, OrientationName
from autoseg.records.files import Record
from autoseg.records.names import FileName
from autoseg.records.network import Sizes
from autoseg.records.plan import Configuration
from autoseg.records.selection import LabelDecision, PostprocessingStep


class TensorFacts(Record):
    """An input or output of the network, float32."""

    name: str
    shape: tuple[int | str, ...]
    """Shape (batch, channels or heads, z, y, x), without z for a 2D network; a word is an axis of any size."""


class SwappedOutputs(Record):
    """What changes places in a variant that is mirrored from left to right, because labels have sides."""

    axis: int
    """Spatial axis of the patch; one of `mirror_axes`."""
    heads: tuple[int, ...]
    """Head whose logits take the place of each head's, once they are mirrored back."""
    previous_label_indices: tuple[int, ...]
    """Cascade: label index whose channel takes the place of that of each of `previous_label_indices`, before the
    network; else empty."""


class WindowConstants(Record):
    """How windows cover the preprocessed image, and how their logits are blended."""

    patch_size: Sizes
    """Shape of a window, (z, y, x), or (y, x) for a 2D network, which gets the slices one by one."""
    overlap: float
    """Smallest fraction of a window that the next one overlaps; window starts are spread evenly and rounded."""
    gaussian_sigma: tuple[float, ...]
    """Sigma in voxels of the weight of a window's voxels, centred at patch_size // 2, largest value 1."""
    gaussian_truncation: float
    """Distance in sigmas beyond which the Gaussian is zero, before the floor."""
    smallest_weight: float
    """Floor of the weights."""
    mirror_axes: tuple[int, ...]
    """Spatial axes of the patch; logits are averaged over all subsets of them, mirrored and mirrored back."""
    swap: SwappedOutputs | None = Field(default=None, exclude_if=lambda value: value is None)
    """What changes places in subsets with its axis; None: nothing."""


class ParityCheck(Record):
    """Comparison of ONNX Runtime's logits of random patches (standard normal) with those of the original network."""

    onnxruntime_version: str
    batch_sizes: tuple[int, ...]
    seed: int
    largest_difference: float
    """Largest absolute difference of logits."""
    largest_logit: float
    """Largest absolute logit of the original network."""
    tolerance: float
    """Largest difference that was allowed."""


class OnnxNetwork(Record):
    """The JSON file beside a network; docs/onnx.md says in which order its constants are used."""

    schema_version: Literal[2, 3, 4, 5] = 2
    """3 where `windows.swap` is to be heeded, 4 where `settings.neighbor_slices` is, 5 where `presence_planes` are, of
    which readers of 2 do not know."""
    guide: str
    """Where the description of all steps is found."""
    file: FileName
    """Name of the network's file, in the same folder."""
    dataset_name: str
    license: str
    """Empty: not stated."""
    configuration: FileName
    fold: FileName
    fold_files: tuple[FileName, ...]
    """Networks of all exported folds of this configuration; their logits are averaged."""
    selected: tuple[str, ...]
    """Configurations that predict by default; the probabilities of several are averaged."""
    member_weights: tuple[float, ...] = ()
    """Parts of that mean, in the order of `selected`; empty: equal ones."""
    opset: int
    input: TensorFacts
    output: TensorFacts
    channel_names: tuple[str, ...]
    """First channels of the input, in this order."""
    previous_label_indices: tuple[int, ...]
    """Cascade: after the image's channels, one 0/1 channel for each of these label indices, in this order."""
    presence_planes: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Channels that an image may lack: the last inputs are a constant plane for each, 1 where the image has it and 0
    where it lacks it. Its own input is 0 then."""
    orientation: OrientationName
    transpose: Triple
    """Transposed axis i is axis transpose[i] of the oriented image."""
    settings: Configuration
    """The planned configuration, axes transposed: spacing, normalisation, resampling, previous step, network, training.
    """
    smallest_divisor: float
    """Smallest divisor of intensities."""
    windows: WindowConstants
    labels: dict[str, LabelValues]
    encoding: LabelEncoding
    """Heads in the order of the output, which is the order of writing; activation; value in the file by label index."""
    region_thresholds: dict[str, float] = Field(default_factory=dict)
    """Region -> probability above which a voxel belongs to it in the selected model; others: one half."""
    decision: LabelDecision = "argmax"
    """How the selected model decides its final label map from probabilities."""
    postprocessing: tuple[PostprocessingStep, ...]
    """Steps of the selected model's post-processing of its label map, in this order."""
    is_refined: bool
    """Whether autoseg refines boundaries after the network, with networks that are not exported."""
    parity: ParityCheck
