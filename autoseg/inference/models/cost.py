"""What predicting a typical case costs, counted beforehand: to say what an ensemble costs more."""

import math

from autoseg.inference.windows.sliding_window import count_windows
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
    shape = [case.cropped_shape[axis] for axis in transpose]
    spacing = [case.spacing[axis] for axis in transpose]
    wanted = [*spacing[: 3 - len(target)], *target]
    z, y, x = (max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, wanted, strict=True))
    return z, y, x
