"""What the server and the process that has the models send each other.

Tested in tests/server/test_model_process.py.
"""

from dataclasses import dataclass, field
from pathlib import Path

from autoseg.inference.models.label_colors import LabelColor

IMAGE_NAME = "image"
"""Name of every job's case; what users call their files becomes no part of a path."""

LABEL_MAP = "label-map"
SEGMENTATION = "segmentation"
UNCERTAINTY = "uncertainty"
DISAGREEMENT = "disagreement"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How all models predict; the server itself does without torch, and so without `PredictionOptions`."""

    speed: str = "best"
    """Name in `stages.predict.SPEEDS`."""
    device: str = "auto"
    precision: str = "auto"
    max_memory: int | None = None
    """Bytes that the process may use; None: what the machine has free."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What clients are told about a model."""

    name: str
    channels: tuple[str, ...]
    labels: tuple[LabelColor, ...]
    """Foreground values of label maps, ascending, with names and colours."""
    background: int
    """Value of the background."""
    dimensions: int
    """2 or 3: what its networks see at once."""
    description: str


@dataclass(frozen=True, kw_only=True)
class PredictionTask:
    """One image for one model."""

    model: str
    images: tuple[Path, ...]
    """One file, or one for each channel."""
    folder: Path
    """Folder for the results."""
    ending: str
    """Ending of the label map, which decides its format."""
    uncertainty: bool = False
    """Whether maps of entropy and disagreement are written."""
    slices: bool = False
    """Whether slices can be shown afterwards (`server.slices`)."""
    max_image_bytes: int
    """Largest image in memory, as its header gives it."""


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """One label in the result."""

    label: str
    values: tuple[int, ...]
    """Values in the label map; a region has several."""
    voxels: int
    volume_ml: float | None
    """None for a two-dimensional image, which has no thickness."""
    mean_intensities: dict[str, float | None]
    """Mean of the image by channel; None without voxels."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What became of a task: files and numbers, or an error."""

    error: str = ""
    """Reason why there is no label map; empty if there is one."""
    status: int = 200
    """HTTP status of the outcome."""
    files: dict[str, str] = field(default_factory=dict)
    """Names of files in the task's folder by kind: label-map, segmentation (DICOM), uncertainty,
    disagreement."""
    statistics: tuple[LabelFacts, ...] = ()
    centers: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    """Mean voxel index (x, y, z) by label value, of those that are present, in the file's own axis order."""
    notes: tuple[str, ...] = ()
    """Assumptions of the reader, and deviations from the training images; one sentence each."""
    seconds: float = 0.0
