"""Cost of predicting a typical case, to compare configurations and ensembles."""

import math

from autoseg.costs.windows import count_windows, resampled_shape
from autoseg.records.case import Triple
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Plan


def prediction_macs(plan: Plan, fingerprint: Fingerprint, name: str) -> int:
    """Multiply-accumulates of one network of a configuration, and of the cascade steps before it, on the median case.

    Args:
        plan: Plan with the configuration.
        fingerprint: Training cases; the one with the median number of voxels counts.
        name: Configuration name.

    Returns:
        Multiply-accumulates of all windows and their mirrored variants; 0 if the plan does not say what a window costs.
    """
    configuration = plan.configurations[name]
    ranked = sorted(fingerprint.cases, key=lambda case: math.prod(case.cropped_shape))
    shape = _planned_shape(ranked[len(ranked) // 2], plan.transpose, configuration.spacing)
    windows = count_windows(shape, configuration.patch_size) << len(configuration.training.mirror_axes)
    previous = configuration.previous_configuration
    earlier = 0 if previous is None else prediction_macs(plan, fingerprint, previous)
    return earlier + windows * configuration.estimates.macs


def _planned_shape(case: CaseFingerprint, transpose: Triple, target: tuple[float, ...]) -> Triple:
    """Shape at the target spacing in voxels; a spacing of two axes keeps the slices."""
    z, y, x = transpose
    shape = (case.cropped_shape[z], case.cropped_shape[y], case.cropped_shape[x])
    spacing = (case.spacing[z], case.spacing[y], case.spacing[x])
    first, second, third = (*spacing[: 3 - len(target)], *target)
    return resampled_shape(shape, spacing, (first, second, third))
