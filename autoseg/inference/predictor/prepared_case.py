"""An image that waits for its prediction.

Tested in tests/stages/test_predictor.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.formats.volume import Template, Volume
from autoseg.inference.memory.promises import CaseEstimate
from autoseg.inference.restoring.restore import StepClock
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.records.case import Grid, Orientation, PreprocessedCase


@dataclass(frozen=True)
class PreparedCase:
    """An image, preprocessed for all networks; predicted once."""

    template: Template
    """Header of the image, with its grid in stored order."""
    volume: Volume | None
    """The image as it was read; None if its array was overwritten."""
    notes: tuple[str, ...]
    """Assumptions of the reader, one sentence each."""
    orientation: Orientation
    """Way from stored to working axes."""
    estimate: CaseEstimate
    """Memory that it needs."""
    windows: WindowSettings
    """How windows cover it."""
    images: dict[str, NDArray[np.float32]]
    """Preprocessed images (C, Z, Y, X) by configuration name, earlier steps of cascades included."""
    records: dict[str, PreprocessedCase]
    """Record of the preprocessing, by configuration name."""
    crop: NDArray[np.float32] | None
    """The normalised crop (C, Z, Y, X) at the image's own resolution, for refiners; None without any."""
    warnings: tuple[str, ...]
    """Deviations of the image from the training images, one sentence each."""
    takes_statistics: bool
    """Whether networks take statistics of normalisation from this image."""
    clock: StepClock
    """Seconds by step, so far."""

    def absent_channels(self, configuration_name: str) -> tuple[int, ...]:
        """Numbers of the channels that the image lacks, as one configuration was preprocessed."""
        return self.records[configuration_name].absent_channels

    @property
    def grid(self) -> Grid:
        """Grid of the image in stored order."""
        return self.template.grid

    @property
    def array_bytes(self) -> int:
        """Bytes of its preprocessed images."""
        crop = 0 if self.crop is None else self.crop.nbytes
        return crop + sum(image.nbytes for image in self.images.values())

    @property
    def is_flat(self) -> bool:
        """Whether the image has two dimensions, and so no volumes."""
        return self.template.file_dimensions == 2
