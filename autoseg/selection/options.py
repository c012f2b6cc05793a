"""What `select` tries.

Tested in tests/stages/test_select.py and tests/cli/test_select.py.
"""

from dataclasses import dataclass

from autoseg.records.contrast import Adaptation
from autoseg.training.refinement import RefinementOptions


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """What is tried besides single configurations, and how validation cases are predicted again for it."""

    ensembles: bool = True
    """Also try pairs; predicts validation cases again, once with each configuration."""
    member_weights: bool = True
    """Also try other weights than half and half for the best pair; predicts its validation cases again."""
    thresholds: bool = True
    """Also try thresholds other than one half if the model has regions; predicts the winner's cases again."""
    expected_dice: bool = True
    """Also try labels that are decided by their expected Dice in each case; predicts the winner's cases again."""
    refinement: RefinementOptions | None = None
    """Settings of boundary refinement; None: do not try it. Post-processing is chosen on refined label maps."""
    adaptation: Adaptation = "none"
    """Also try whether adapting images does harm, and which way; predicts the winner's cases again."""
    confidence: bool = True
    """Also learn how far the winner's probabilities can be trusted; predicts its cases again."""
    device: str = "auto"
    """Device of these predictions: a name of `choose_device`."""
    precision: str = "auto"
    """Precision of these predictions: auto, fp32, tf32, bf16 or fp16; the same rule as prediction."""
    max_memory: int | None = None
    """Bytes that label maps may take which are worked on at the same time; None: what is free. Fewer threads are used
    then."""
