"""What a model says about one image."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoseg.records.case import Grid


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A label map on the image's own grid, in the image's own axis order."""

    labels: NDArray[np.unsignedinteger]
    """(Z, Y, X), the dataset's own label values."""
    grid: Grid
    probabilities: NDArray[np.float16] | None = None
    """(K, Z, Y, X) by head, only when asked for."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by step: read, preprocess, network, export."""
