"""What a model predicts of one image.

Tested in tests/stages/test_predict.py.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoseg.records.case import Grid, Triple

if TYPE_CHECKING:  # numpy is not needed to show the options of a command
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object; triples are (z, y, x) in the image's own axis order."""

    id: int
    """Number of the object in the map of instances, from 1 on."""
    label: str
    value: int
    """Value of its label in the label map."""
    voxels: int
    volume_mm3: float | None
    """Volume in mm³ by the affine; None for a two-dimensional image, which has no thickness."""
    mean_probability: float | None
    """Mean probability of its label over those of its voxels that the networks decided; None where it is not known."""
    touches_border: bool
    """Whether it reaches the first or last voxel of the image, along any axis of more than one."""
    center: tuple[float, float, float]
    """Mean position of its voxels, as voxel index."""
    center_mm: tuple[float, float, float] | None
    """The same in the world (x, y, z towards right, anterior, superior), mm; None for a two-dimensional image."""
    start: Triple
    stop: Triple
    """Half-open bounding box, voxel indices."""


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The objects of one image."""

    ids: "NDArray[np.unsignedinteger]"
    """(Z, Y, X), 1 to n, on the image's own grid; 0 where the label map has background, or a border without a core."""
    table: tuple[Instance, ...]
    """The objects, by number."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A label map on the image's own grid, in the image's own axis order."""

    labels: "NDArray[np.unsignedinteger]"
    """(Z, Y, X), the dataset's own label values."""
    grid: Grid
    probabilities: "NDArray[np.float16] | None" = None
    """(K, Z, Y, X) by head, only when asked for and not written to a file."""
    uncertainty: "NDArray[np.float16] | None" = None
    """(Z, Y, X) in [0, 1], only when asked for: normalised entropy of the probabilities, before post-processing."""
    disagreement: "NDArray[np.float16] | None" = None
    """(Z, Y, X) in [0, 1], with the uncertainty and only of several networks: fraction of them that
    predict another label."""
    instances: Instances | None = None
    """Only when asked for."""
    warnings: tuple[str, ...] = ()
    """How the image deviates from the training images, one sentence each; empty where the model does not know them."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by step: read, preprocess, network, export."""
