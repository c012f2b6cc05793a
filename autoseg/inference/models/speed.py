"""Three settings of prediction, from the best label map to the fastest one."""

from dataclasses import dataclass
from typing import Literal

SpeedName = Literal["best", "balanced", "fast"]


@dataclass(frozen=True)
class Speed:
    """Folds and windows that a prediction averages over."""

    max_folds: int | None
    """Maximum number of the chosen folds; None: all."""
    mirroring: bool
    overlap: float


def speed_settings(name: SpeedName) -> Speed:
    """Settings of one of the three names.

    Measured on models trained by nnU-Net with mirroring, narrow ones (4 and 8 features), against reference label maps;
    seconds of the networks on one core, float32:

    | model, images | best | balanced | fast |
    |---|---|---|---|
    | hippocampus, 3D, two folds, one window each, 12 | Dice 0.854, 19.4 s | 0.853, 2.7 s | 0.853, 1.6 s |
    | ACDC, 2D, one fold, 6 | 0.764, 16.2 s | 0.698, 4.3 s | 0.698, 4.5 s |
    | ACDC, 3D, one fold, 36 windows or more, 3 (cavity) | 0.832, 129 s | 0.747, 14.5 s | 0.714, 8.5 s |

    The ACDC models are weak and gain much from mirroring. A model trained without mirroring, as those planned for a
    limited time are, loses nothing with `balanced`. Windows without any overlap were hardly faster (6.8 s).
    """
    match name:
        case "best":
            return Speed(max_folds=None, mirroring=True, overlap=0.5)
        case "balanced":
            return Speed(max_folds=None, mirroring=False, overlap=0.5)
        case "fast":
            return Speed(max_folds=1, mirroring=False, overlap=0.25)
