"""What one fold's training consists of, decided before the first step."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from autoseg.records.plan import Configuration, Plan, Split, TrainingSpec, hash_of, model_hash
from autoseg.training.data.loading import default_workers
from autoseg.training.data.sampling import SliceableLabels
from autoseg.training.distributed import Ranks
from autoseg.training.options import TrainingOptions


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
    split: Split
    previous: Mapping[str, SliceableLabels] | None = None
    """Cascade: the previous configuration's label maps by case, on the preprocessed grids."""
    previous_origins: tuple[str, ...] = ()
    """Cascade: which weights made those maps; other maps make another training."""
    options: TrainingOptions
    device: torch.device
    precision: torch.dtype
    ranks: Ranks = field(default_factory=Ranks)
    open_pretrained: Callable[[Path], AbstractContextManager[Path]] = nullcontext
    """From what `options.pretrained` names to a folder with its weights; an exported model is unpacked meanwhile."""

    @property
    def spec(self) -> TrainingSpec:
        """The schedule."""
        return self.configuration.training

    @property
    def model_hash(self) -> str:
        """Of all that the plan says about the model."""
        return model_hash(self.plan, self.name)

    @property
    def cases_hash(self) -> str:
        """Of the training cases' ids, and of the origins of a cascade's label maps."""
        cases = sorted(self.split.training)
        return hash_of([cases, self.previous_origins] if self.previous_origins else cases)

    @property
    def workers(self) -> int:
        """Processes that prepare batches for this one."""
        if self.options.workers is not None:
            return self.options.workers
        return default_workers(self.device, ranks_here=self.ranks.count_here)
