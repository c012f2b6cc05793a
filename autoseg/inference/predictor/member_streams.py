"""Logits of one configuration for a prepared image, after the cascade steps and the coarse pass before it.

Tested in tests/stages/test_predict_cascade.py and tests/inference/predictor/test_region_of_interest.py.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.arrays.preprocessing import labels_on_grid
from autoseg.inference.models.case_logits import stream_case_logits
from autoseg.inference.models.image_statistics import with_image_statistics
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.predictor.prepared_case import PreparedCase
from autoseg.inference.predictor.region_of_interest import CoarsePass, surround
from autoseg.inference.restoring.restore import LogitStream, restore_labels, restore_on_grid
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.records.dataset import LabelEncoding


def open_stream(
    member: LoadedConfiguration,
    case: PreparedCase,
    storage: SlabStorage,
    encoding: LabelEncoding,
    coarse_pass: CoarsePass | None = None,
) -> LogitStream:
    """Logits of one configuration; the cascade steps before it run here, on the whole image.

    Args:
        member: Networks, and the cascade steps before them.
        case: The prepared image.
        storage: Place of the sums of windows.
        encoding: Labels or regions.
        coarse_pass: What finds the region of interest; None: the whole image is predicted.
    """
    image, record = case.images[member.name], case.records[member.name]
    labels = None if member.previous is None else _predict_previous(member, member.previous, case, storage, encoding)
    region = None
    if coarse_pass is not None:
        with case.clock.step("network"):
            region = coarse_pass.find_region(member, case.images, labels, case.absent_channels(member.name))
    if region is not None:
        image, labels = image[:, *region], None if labels is None else labels[region]
    windows = replace(case.windows, storage=storage)
    if case.takes_statistics:
        with case.clock.step("network"):
            member = with_image_statistics(member, image, labels, windows, record.absent_channels)
    slices = stream_case_logits(member, image, labels, settings=windows, absent_channels=record.absent_channels)
    if region is not None:
        is_softmax = encoding.activation == "softmax"
        slices = surround(slices, region, record.shape, len(encoding.heads), is_softmax=is_softmax)
    return LogitStream(slices, record, member.configuration.resampling, member.weight)


def _predict_previous(
    member: LoadedConfiguration,
    previous: LoadedConfiguration,
    case: PreparedCase,
    storage: SlabStorage,
    encoding: LabelEncoding,
) -> NDArray[np.integer]:
    """Label map of the previous cascade step, which runs here, on the grid of `member`."""
    stream = open_stream(previous, case, storage, encoding)
    grid = case.records[member.name]
    if member.configuration.previous_labels == "logits":
        return restore_on_grid(stream, grid, encoding, case.clock)
    labels = restore_labels([stream], encoding, clock=case.clock)
    return labels_on_grid(labels, grid, member.configuration.resampling)
