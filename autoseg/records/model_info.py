"""What `autoseg info` says of a model, without loading a network.

Tested in tests/stages/test_inspect.py.
"""

from typing import Literal

from pydantic import Field, NonNegativeInt

from autoseg.records.dataset import LabelValues
from autoseg.records.files import Record


class ConfigurationInfo(Record):
    """One configuration of a model, trained or only planned."""

    folds: tuple[str, ...]
    """Folds with weights; empty: not trained."""
    architecture: str
    network_name: str = Field(default="", exclude_if=lambda value: value == "")
    """Name of a network of another package."""
    spacing: tuple[float, ...]
    """Spacing that images are resampled to, in mm (pixels for pictures), by the axes of `patch_size`."""
    patch_size: tuple[int, ...]
    """Shape of a patch in voxels, (y, x) or (z, y, x) after the plan's transpose."""
    parameters: NonNegativeInt
    """Number of weights of the network of one fold."""
    previous_configuration: str | None
    """Configuration whose label maps a cascade begins with."""


class ModelInfo(Record):
    """What a model expects and predicts, where it is from, and how good it was found to be."""

    schema_version: Literal[1] = 1
    model: str
    """Path as it was given."""
    kind: Literal["workspace", "exported"]
    requires: tuple[str, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Distributions that the networks need beside autoseg."""
    missing: tuple[str, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Those of them that are not installed here: the model cannot predict without them."""
    dataset_name: str
    channel_names: tuple[str, ...]
    """Channels in the order in which prediction expects them."""
    labels: dict[str, LabelValues]
    """Name -> value(s) in label maps."""
    file_ending: str
    """Ending of the dataset's files; prediction reads others too."""
    trials: str = ""
    """Which candidates were tried before the plan was decided, and why one was taken; empty: rules decided."""
    selected: tuple[str, ...]
    """Configurations that predict by default; the probabilities of several are averaged."""
    postprocessing: tuple[str, ...]
    """Names of the post-processing steps, in order."""
    configurations: dict[str, ConfigurationInfo]
    mean_foreground_dice: float | None
    """Cross-validated mean foreground Dice; None: not known."""
    label_dice: dict[str, float | None]
    """Cross-validated Dice by label or region; empty: not known."""
    num_cases: NonNegativeInt | None
    """Number of cases that the plan was made from; None: not known."""
    weights_bytes: NonNegativeInt
    """Size of all weights files."""
    license: str
    """Licence as stated at export; empty: not stated."""
    created: str
    """Date of the export in UTC; empty for a workspace."""
    autoseg_version: str
    """Version that exported the model or planned the workspace; empty: not known."""
    plan_hash: str
