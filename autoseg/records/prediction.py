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
    uncertainty: NDArray[np.float16] | None = None
    """(Z, Y, X) in [0, 1], only when asked for: normalised entropy of the probabilities, before post-processing."""
    disagreement: NDArray[np.float16] | None = None
    """(Z, Y, X) in [0, 1], with the uncertainty and only of several networks: share of them that say otherwise."""
    warnings: tuple[str, ...] = ()
    """How the image departs from the training images, one sentence each; empty where the model does not know them."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by step: read, preprocess, network, export."""
