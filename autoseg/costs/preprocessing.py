"""Memory of preprocessing, which says how many cases can be worked on side by side."""

import math

from autoseg.costs.runs import preprocessed_voxels
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan

PREPROCESSING_BYTES = 14
"""Memory of preprocessing by voxel and channel, label map included, of the larger of a case's two grids. Measured: 9 to
14, for 1 to 4 channels, finer, coarser and equal spacings."""


def preprocessing_memory_bytes(plan: Plan, fingerprint: Fingerprint) -> int:
    """Memory in bytes that a process takes at most to preprocess the largest case, an estimate."""
    channels = len(plan.channel_names) + 1
    voxels = max(
        max(math.prod(case.shape), preprocessed_voxels(case, configuration, plan))
        for configuration in plan.configurations.values()
        for case in fingerprint.cases
    )
    return round(voxels * channels * PREPROCESSING_BYTES)
