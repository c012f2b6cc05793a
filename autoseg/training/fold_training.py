"""What one fold's training consists of, decided before the first step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from autoseg.records.plan import Configuration, Plan, Split, TrainingSpec
from autoseg.training.distributed import Ranks
from autoseg.training.options import CompileChoice
from autoseg.training.sampling import SliceableLabels


@dataclass(frozen=True, kw_only=True)
class FoldTraining:
    """What to train, with what, and where."""

    folder: Path
    """models/<configuration>/fold_<k>."""
    preprocessed: Path
    plan: Plan
    name: str
    configuration: Configuration
    """The plan's, with the user's overrides in its schedule."""
    fold: str
    model_hash: str
    cases_hash: str
    split: Split
    previous: Mapping[str, SliceableLabels] | None = None
    """Cascade: the previous configuration's label maps by case, on the preprocessed grids."""
    device: torch.device
    precision: torch.dtype
    ranks: Ranks = field(default_factory=Ranks)
    compile: CompileChoice = "off"
    seed: int
    workers: int
    restart: bool
    pretrained: Path | None = None
    freeze_encoder: bool = False

    @property
    def spec(self) -> TrainingSpec:
        """The schedule."""
        return self.configuration.training
