"""How much care a prediction takes: three ways between the best label map and the soonest one."""

from dataclasses import dataclass
from typing import Literal

SpeedName = Literal["best", "balanced", "fast"]


@dataclass(frozen=True)
class Speed:
    """What a prediction averages over."""

    most_folds: int | None
    """Of those that were chosen; None: all."""
    mirroring: bool
    overlap: float


def speed_settings(name: SpeedName) -> Speed:
    """Settings of a name.

    MEASURED
    """
    match name:
        case "best":
            return Speed(most_folds=None, mirroring=True, overlap=0.5)
        case "balanced":
            return Speed(most_folds=None, mirroring=False, overlap=0.5)
        case "fast":
            return Speed(most_folds=1, mirroring=False, overlap=0.25)
