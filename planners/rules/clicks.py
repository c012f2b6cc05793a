"""How far a click reaches that corrects a label map.

A click is about one structure, so it reaches about as far as structures are wide; no farther than a quarter of the
patch, so that its surroundings are seen, and that answers are quick.

References:
    Own rule. Wang et al., "DeepIGeoS", IEEE TPAMI 2019, for networks that are corrected by clicks.
"""

import math
import statistics

from autoseg.records.clicks import ClickSettings
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Configuration
from planners.rules import Decided

PATCH_FRACTION = 0.25
"""Largest reach as a fraction of the longest edge of the patch."""

MIN_REACH_VOXELS = 4
"""Smallest reach in voxels of the finest axis: a click is about more than its own voxel."""


def choose_clicks(fingerprint: Fingerprint, corrected: Configuration) -> Decided[ClickSettings]:
    """Settings of the clicks that correct the label maps of a configuration.

    Args:
        fingerprint: Volumes of the labels.
        corrected: Configuration whose label maps are corrected.
    """
    widths = [
        _width_mm(facts.volume_mm3, case)
        for case in fingerprint.cases
        for facts in case.labels.values()
        if facts.voxels
    ]
    longest = max(edge * size for edge, size in zip(corrected.patch_size, corrected.spacing, strict=True))
    limit = PATCH_FRACTION * longest
    width = statistics.median(widths) if widths else limit
    reach = max(min(width, limit), MIN_REACH_VOXELS * min(corrected.spacing))
    reason = (
        f"About as far as labels are wide ({width:.3g} mm in the median), no farther than a quarter of the patch "
        f"({limit:.3g} mm)."
    )
    return Decided(ClickSettings(reach_mm=round(reach, 1)), reason)


def _width_mm(volume_mm3: float, case: CaseFingerprint) -> float:
    """Edge of a cube of a label's volume; of a square of its area where the case has a single slice."""
    if 1 not in case.shape:
        return math.cbrt(volume_mm3)
    return math.sqrt(volume_mm3 / case.spacing[case.shape.index(1)])
