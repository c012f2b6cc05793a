"""How a model predicts: all that a user may choose, and three speeds.

Tested in tests/stages/test_predictor.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.records.contrast import Adaptation
from autoseg.records.selection import LabelDecision
from autoseg.system import ThreadOption


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How a model predicts."""

    configuration: str | None = None
    """Configuration name; None: the choice of selection.json (with its folds and post-processing), else the first of
    3d_cascade_fullres, 3d_fullres, 3d_lowres and 2d that is trained. A cascade includes its earlier steps."""
    folds: Sequence[str] | None = None
    """Fold names; None: those in selection.json if it chose the configuration, else all trained ones except `all`,
    unless only that exists."""
    max_folds: int | None = None
    """Maximum number of folds; None: all."""
    checkpoint: str = "final"
    """final or best."""
    device: str = "auto"
    """A name of `choose_device`."""
    precision: str = "auto"
    """auto, fp32, tf32, bf16 or fp16. `auto` takes 16 bits where the hardware has them and label maps of the first
    windows agree with those of float32 (`inference.windows.network_pass`)."""
    threads: ThreadOption = "auto"
    """Threads on a CPU; auto: what is fastest beside other programs."""
    mirroring: bool = True
    """Whether logits are averaged over variants of the image mirrored along the axes that training mirrored: up to 8
    (2D: 4) times the work. A plan for limited time mirrors none, and there is nothing to average."""
    mirror_axes: str | None = None
    """Axes of the patch that are mirrored whatever training mirrored: letters of `zyx`, of which a 2D patch has the
    last two, or `all`; None: the axes of the training."""
    overlap: float = 0.5
    """Smallest fraction of a window that it has in common with the next one, [0, 1)."""
    region_of_interest: bool = False
    """Whether a coarse pass (3d_lowres if it is trained, else the halved image) finds the foreground first, and only
    its surroundings are predicted. Saves most of the work where foreground fills little of the image; a structure that
    the coarse pass misses is lost."""
    decision: LabelDecision | None = None
    """How labels follow from probabilities; None: as selection.json says, else argmax."""
    adapt: Adaptation | None = None
    """How all images are adapted; None: images with another contrast than the training images, as selection.json
    says."""
    refine: bool = True
    """Whether boundaries are refined if selection.json says so. Saved probabilities are those before refinement."""
    nested_levels: int | None = None
    """Levels of a U-Net++ that predict; None: all. Fewer are faster."""
    accept_other_plan: bool = False
    """Whether weights that were trained for another plan than the model's may be used, with a warning and as the
    plan says: its spacing, normalisation and labels."""
    max_memory: int | None = None
    """Approximate limit in bytes of the whole process, from reading to writing; None: what the machine has free. Where
    RAM does not suffice, sums of windows are kept in a temporary file (in TMPDIR); label maps do not depend on it."""


SPEEDS = {
    "best": PredictionOptions(),
    "balanced": PredictionOptions(mirroring=False),
    "fast": PredictionOptions(mirroring=False, overlap=0.25, max_folds=1),
}
"""From the best label map to the fastest one; what they cost and lose stands in docs/benchmarks.md."""
