"""All that a program without autoseg needs to predict with one exported network file."""

from typing import Literal

from pydantic import Field

from autoseg.records.case import Triple
from autoseg.records.dataset import LabelEncoding, LabelValues, OrientationName
from autoseg.records.files import Record
from autoseg.records.network import Sizes
from autoseg.records.plan import Configuration
from autoseg.records.postprocessing import PostprocessingStep


class TensorFacts(Record):
    """An input or output of the network, float32."""

    name: str
    shape: tuple[int | str, ...]
    """A word stands for an axis of any size. (batch, channels or heads, z, y, x); without z for a 2D network."""


class WindowConstants(Record):
    """How patches tile the preprocessed image, and how their logits are blended."""

    patch_size: Sizes
    """Voxels, (z, y, x), or (y, x) for a 2D network, which gets every slice on its own."""
    overlap: float
    """Least share of a window that it has in common with the next one; window starts are spread evenly and rounded."""
    gaussian_sigma: tuple[float, ...]
    """Voxels; of the weight of a window's voxels, centred at patch_size // 2, largest value 1."""
    gaussian_truncation: float
    """Sigmas; the Gaussian is zero beyond, before the floor."""
    smallest_weight: float
    """Floor of those weights."""
    mirror_axes: tuple[int, ...]
    """Spatial axes of the patch; logits are averaged over all subsets of them, mirrored and mirrored back."""


class ParityCheck(Record):
    """Logits of random patches (standard normal) by ONNX Runtime against those of the original network."""

    onnxruntime_version: str
    batch_sizes: tuple[int, ...]
    seed: int
    largest_difference: float
    """Absolute."""
    largest_logit: float
    """Absolute, of the original network."""
    tolerance: float
    """Largest difference that was allowed."""


class OnnxNetwork(Record):
    """The JSON file beside a network; `steps` says in which order its constants are used."""

    schema_version: Literal[1] = 1
    file: str
    """Name of the network's file, in the same folder."""
    dataset_name: str
    license: str
    """Empty: not stated."""
    configuration: str
    fold: str
    fold_files: tuple[str, ...]
    """Networks of all exported folds of this configuration; their logits are averaged."""
    selected: tuple[str, ...]
    """Configurations that predict when nothing else is asked for; the probabilities of several are averaged."""
    opset: int
    input: TensorFacts
    output: TensorFacts
    channel_names: tuple[str, ...]
    """First channels of the input, in this order."""
    previous_label_indices: tuple[int, ...]
    """Cascade: after the image's channels, one 0/1 channel for each of these label indices, in this order."""
    orientation: OrientationName
    transpose: Triple
    """Transposed axis i is axis transpose[i] of the oriented image."""
    settings: Configuration
    """As planned, axes transposed: spacing, normalisation, resampling, previous stage, network; and the training."""
    smallest_divisor: float
    """Floor of what intensities are divided by."""
    windows: WindowConstants
    labels: dict[str, LabelValues]
    encoding: LabelEncoding
    """Heads in the order of the output, which is that of painting; activation; value in the file by label index."""
    region_thresholds: dict[str, float] = Field(default_factory=dict)
    """Of the selected model: region -> probability above which a voxel belongs to it; others: one half."""
    postprocessing: tuple[PostprocessingStep, ...]
    """Of the selected model, in this order, on its label map."""
    steps: tuple[str, ...]
    parity: ParityCheck
