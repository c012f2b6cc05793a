"""What the training images' intensities are distributed like, and where they are bright and dark.

Tested in tests/imaging/arrays/test_contrast.py and tests/stages/test_fingerprint.py.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autoseg.records.files import Record, refuse_faults

CONTRAST_LEVELS = (0.005, *(number / 32 for number in range(1, 32)), 0.995)
"""Fractions of the voxels that lie below each quantile."""

NUM_SIGNS = 12
"""Signs of the contrast that are measured of each channel (`imaging.arrays.contrast`)."""

Adaptation = Literal["none", "histogram", "statistics"]
"""How a model is adapted to an image before it is predicted. histogram: intensities are matched to those of training.
statistics: networks with batch normalisation take half of its statistics from the image."""

Quantiles = Annotated[tuple[float, ...], Field(min_length=len(CONTRAST_LEVELS), max_length=len(CONTRAST_LEVELS))]
Signs = Annotated[tuple[float, ...], Field(min_length=NUM_SIGNS, max_length=NUM_SIGNS)]


class ChannelContrast(Record):
    """One channel of the whole training images, within their nonzero part; every case weighted equally."""

    quantiles: Quantiles
    """Mean over cases of the intensities at CONTRAST_LEVELS, ascending."""
    standard_quantiles: Quantiles
    """The same of intensities of mean 0 and standard deviation 1 in each case."""
    largest_distance: float
    """Largest distance of a case's standard quantiles from the mean of the other cases'."""
    signs: Signs
    """Mean over cases of numbers that change their sign where bright and dark are swapped."""
    sign_deviations: Signs
    """Their standard deviations over cases."""
    sign_spread: float
    """Standard deviation over cases of the sign of a case's contrast, measured by the other cases: 1 is like them, -1
    is the contrary."""
    num_cases: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_faults(
            ((name,), "quantiles must ascend; plan the dataset again")
            for name in ("quantiles", "standard_quantiles")
            if any(
                later < earlier for earlier, later in zip(getattr(self, name), getattr(self, name)[1:], strict=False)
            )
        )
        return self
