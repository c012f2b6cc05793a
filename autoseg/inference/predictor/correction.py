"""A label map that is corrected by clicks: the network of the configuration `interactive`, near the clicks alone.

    label map, clicks -> grid of the network -> image, nearness to clicks, label map -> network -> own grid

Voxels farther from all clicks than these reach keep their label, and the clicked voxels get theirs for certain. Only
the box around the clicks goes through the network, so that answers come quickly in large images too.

Tested in tests/stages/test_correct.py.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import PredictionError
from autoseg.imaging.arrays.clicks import PlacedClick, box_around, make_click_maps, squared_distances
from autoseg.imaging.arrays.labels import decode_label_map, encode_label_map
from autoseg.imaging.arrays.preprocessing import labels_on_grid
from autoseg.imaging.formats.volume import AnyArray, Volume, orient_array, restore_array
from autoseg.inference.models.case_logits import stream_case_logits
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.click_places import place_clicks, position_on_grid
from autoseg.inference.predictor.prepared_case import PreparedCase
from autoseg.inference.predictor.region_of_interest import enlarge, surround
from autoseg.inference.restoring.restore import LabelIndices, LogitStream, restore_labels
from autoseg.records.case import PreprocessedCase, Slices3
from autoseg.records.clicks import Click, ClickSettings
from autoseg.records.dataset import LabelEncoding
from autoseg.records.prediction import Prediction


def correct_volume(predictor: CasePredictor, volume: Volume, labels: AnyArray, clicks: Sequence[Click]) -> Prediction:
    """Correct the label map of an image.

    Args:
        predictor: The model, with networks for corrections.
        volume: Image (C, Z, Y, X) in stored order, with its grid.
        labels: Label values to correct, (Z, Y, X) in stored order; not changed.
        clicks: Voxels and the labels that they should have; none: the label map stays as it is.

    Raises:
        PredictionError: If the model has no such networks, the label map has another shape than the image or unknown
            values, a click is outside the image or its label unknown, or the image does not fit the model.
    """
    alone = correcting_alone(predictor)
    return correct_prepared(alone, alone.prepare(volume), labels, clicks)


def correcting_alone(predictor: CasePredictor) -> CasePredictor:
    """The same model with nothing but its networks for corrections; they prepare images for `correct_prepared`.

    Raises:
        PredictionError: If there are none.
    """
    if predictor.correcting is None:
        raise PredictionError(
            f"{predictor.plan.dataset_name}: the model has no trained network that corrects label maps by clicks. "
            "Plan with -c interactive, train it (autoseg-train WORKSPACE -c interactive), and predict with its folds."
        )
    members = (predictor.correcting,)
    return replace(predictor, members=members, coarse_pass=None, refiners=None, postprocessing=(), decision="argmax")


def correct_prepared(alone: CasePredictor, case: PreparedCase, labels: AnyArray, clicks: Sequence[Click]) -> Prediction:
    """Correct the label map of an image that was prepared by `correcting_alone`; see `correct_volume`."""
    encoding = alone.plan.encoding
    indices = _encode(labels, case, encoding)
    placed = place_clicks(clicks, case.grid, encoding)
    corrected = indices.copy()
    if placed:
        answer = _answer(alone, case, indices, placed)
        _put_answer(corrected, answer, placed, case.grid.spacing, _settings(alone.members[0]).reach_mm)
    return Prediction(
        labels=decode_label_map(corrected, encoding),
        grid=case.grid,
        warnings=case.warnings,
        seconds=case.clock.seconds,
    )


def _settings(loaded: LoadedConfiguration) -> ClickSettings:
    settings = loaded.configuration.clicks
    if settings is None:
        raise ValueError(f"{loaded.name} has no clicks")
    return settings


def _encode(labels: AnyArray, case: PreparedCase, encoding: LabelEncoding) -> NDArray[np.int16]:
    if labels.shape != case.grid.shape:
        raise PredictionError(
            f"the label map to correct has the shape {labels.shape}, expected {case.grid.shape} (z, y, x), "
            "that of the image. Give the label map of this image, on its own grid."
        )
    try:
        return encode_label_map(labels, encoding)
    except ValueError as error:
        raise PredictionError(f"the label map to correct is not of this model: {error}") from error


def _answer(
    alone: CasePredictor, case: PreparedCase, indices: NDArray[np.int16], clicks: Sequence[PlacedClick]
) -> LabelIndices:
    """What the network says to the clicks, label indices in stored order; means nothing far from them."""
    (loaded,), encoding = alone.members, alone.plan.encoding
    record, image = case.records[loaded.name], case.images[loaded.name]
    resampling = loaded.configuration.resampling
    known = np.where(indices < len(encoding.values), indices, 0).astype(np.uint16)  # without the ignore label
    previous = labels_on_grid(orient_array(known, case.orientation), record, resampling)
    shape = orient_array(indices, case.orientation).shape
    places = [
        PlacedClick(click.index, position_on_grid(click.position, case.orientation, shape, record)) for click in clicks
    ]
    region = _find_region(places, loaded, record)
    maps = _make_maps(image[:, *region], places, region, loaded, len(encoding.values) - 1)
    with alone.reserve(case) as storage:
        settings = replace(case.windows, storage=storage, mirroring=False)
        slices = stream_case_logits(
            loaded, image[:, *region], previous[region], settings, record.absent_channels, list(maps)
        )
        is_softmax = encoding.activation == "softmax"
        whole = surround(slices, region, record.shape, len(encoding.heads), is_softmax=is_softmax)
        answer = restore_labels([LogitStream(whole, record, resampling)], encoding, clock=case.clock)
    return restore_array(answer, case.orientation)


def _find_region(places: Sequence[PlacedClick], loaded: LoadedConfiguration, record: PreprocessedCase) -> Slices3:
    """The box of all clicks' surroundings on the network's grid, at least as large as a window."""
    shape, settings = record.shape, _settings(loaded)
    boxes = [box_around(place.position, shape, record.spacing, settings.reach_mm) for place in places]
    z, y, x = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    patch_size = (1, *loaded.configuration.patch_size)[-3:]
    everywhere = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    return enlarge((z, y, x), shape, shape, patch_size) or everywhere


def _make_maps(
    image: NDArray[np.float32],
    places: Sequence[PlacedClick],
    region: Slices3,
    loaded: LoadedConfiguration,
    num_labels: int,
) -> NDArray[np.float32]:
    """Channels of the clicks in a region, (labels, Z, Y, X); for a 2D network each in its own slice alone."""
    shifted = [
        PlacedClick(place.index, tuple(at - side.start for at, side in zip(place.position, region, strict=True)))
        for place in places
    ]
    settings = _settings(loaded)
    if loaded.configuration.network.dimensions == 3:
        return make_click_maps(image, shifted, num_labels, loaded.configuration.spacing, settings)
    maps = np.zeros((num_labels + 1, *image.shape[1:]), dtype=np.float32)
    for depth in {place.position[0] for place in shifted}:
        flat = [PlacedClick(place.index, place.position[1:]) for place in shifted if place.position[0] == depth]
        maps[:, depth] = make_click_maps(image[:, depth], flat, num_labels, loaded.configuration.spacing, settings)
    return maps


def _put_answer(
    corrected: NDArray[np.int16],
    answer: LabelIndices,
    clicks: Sequence[PlacedClick],
    spacing: Sequence[float],
    reach_mm: float,
) -> None:
    """Take the answer over where a click reaches, by a ruler, and the clicked labels themselves."""
    for click in clicks:
        box = box_around(click.position, corrected.shape, spacing, reach_mm)
        start = [at - side.start for at, side in zip(click.position, box, strict=True)]
        near = squared_distances(start, corrected[box].shape, spacing) <= reach_mm**2
        corrected[box][near] = answer[box][near]
    for click in clicks:
        corrected[click.position] = click.index
