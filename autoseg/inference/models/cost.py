"""What predicting a typical case costs, counted beforehand: to say what an ensemble costs more."""

import math

from autoseg.costs.windows import count_windows, resampled_shape
from autoseg.records.case import Triple
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Plan


def prediction_macs(plan: Plan, fingerprint: Fingerprint, name: str) -> int:
    """Multiply-accumulates of one network of a configuration, and of the stages before it, on the median case.

    Args:
        plan: Has the configuration.
        fingerprint: The case with the median number of voxels is taken.
        name: Configuration.

    Returns:
        Of all windows and their mirrored variants; 0 when the plan does not know what a window costs.
    """
    configuration = plan.configurations[name]
    ranked = sorted(fingerprint.cases, key=lambda case: math.prod(case.cropped_shape))
    shape = _planned_shape(ranked[len(ranked) // 2], plan.transpose, configuration.spacing)
    windows = count_windows(shape, configuration.patch_size) << len(configuration.training.mirror_axes)
    previous = configuration.previous_configuration
    earlier = 0 if previous is None else prediction_macs(plan, fingerprint, previous)
    return earlier + windows * configuration.estimates.macs


def _planned_shape(case: CaseFingerprint, transpose: Triple, target: tuple[float, ...]) -> Triple:
    """Voxels at the target spacing; a pair leaves slices alone."""
    z, y, x = transpose
    shape = (case.cropped_shape[z], case.cropped_shape[y], case.cropped_shape[x])
    spacing = (case.spacing[z], case.spacing[y], case.spacing[x])
    first, second, third = (*spacing[: 3 - len(target)], *target)
    return resampled_shape(shape, spacing, (first, second, third))
