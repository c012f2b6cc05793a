"""Memory of preprocessing, which says how many cases can be worked on side by side, and its time of resampling."""

import math

from autoseg.costs.runs import preprocessed_voxels
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Configuration, Plan

PREPROCESSING_BYTES = 14
"""Memory of preprocessing by voxel and channel, label map included, of the larger of a case's two grids. Measured: 9 to
14, for 1 to 4 channels, finer, coarser and equal spacings."""

RESAMPLING_MACS_PER_SECOND = 11e9
"""Multiply-accumulates of resampling that a core does in a second: measured with cubic splines, 96 x 160 x 144 to
125 x 128 x 173."""

MIN_RESAMPLING_SECONDS = 60.0
"""Estimated time of resampling in each process below which a GPU is not asked for: loading torch and starting the GPU
takes several seconds in each of them."""


def preprocessing_memory_bytes(plan: Plan, fingerprint: Fingerprint) -> int:
    """Memory in bytes that a process takes at most to preprocess the largest case, an estimate."""
    channels = len(plan.channel_names) + 1
    voxels = max(
        max(math.prod(case.shape), preprocessed_voxels(case, configuration, plan))
        for configuration in plan.configurations.values()
        for case in fingerprint.cases
    )
    return round(voxels * channels * PREPROCESSING_BYTES)


def resampling_seconds(plan: Plan, fingerprint: Fingerprint) -> float:
    """Time that one core takes to resample the images of all cases for all configurations, an estimate."""
    macs = sum(
        _resampling_macs(case, configuration, plan)
        for name, configuration in plan.configurations.items()
        if configuration.preprocessed_as == name
        for case in fingerprint.cases
    )
    return len(plan.channel_names) * macs / RESAMPLING_MACS_PER_SECOND


def _resampling_macs(case: CaseFingerprint, configuration: Configuration, plan: Plan) -> float:
    """Multiply-accumulates of one channel: every axis is a product with a matrix, shrinking axes first."""
    axes = plan.transpose[-len(configuration.spacing) :]  # a 2D configuration keeps the slices of the first axis
    voxels, macs = float(math.prod(case.cropped_shape)), 0.0
    factors = {axis: case.spacing[axis] / spacing for axis, spacing in zip(axes, configuration.spacing, strict=True)}
    for axis, factor in sorted(factors.items(), key=lambda item: item[1]):
        size = case.cropped_shape[axis]
        if round(size * factor) != size:
            voxels *= factor
            macs += voxels * size
    return macs
