"""What the prediction of an unlabelled case says of it: uncertainty, disagreement, and what the case looks like.

Tested in tests/stages/test_suggest.py.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.prepared_case import PreparedCase
from autoseg.inference.restoring.restore import StepClock
from autoseg.inference.sinks.uncertainty import fold_disagreement
from autoseg.records.dataset import BACKGROUND, LabelEncoding, indices_by_label
from autoseg.records.prediction import OutputChoices, Prediction
from autoseg.records.suggestions import CaseSigns

MIN_ENTROPY = 0.1
"""Entropy, as a fraction of the largest, from which on a voxel counts although it is background."""
PERCENTILES = (5, 25, 50, 75, 95)
"""Percentiles of the normalised intensities among the features."""
GRID = 4
"""Cells along each axis in which the mean intensity is a feature."""


def measure_signs(predictor: CasePredictor, case: PreparedCase, name: str, origin: str) -> tuple[CaseSigns, Prediction]:
    """Predict a case and measure what it says.

    Args:
        predictor: The model.
        case: The prepared image; its preprocessed images are released.
        name: Case id.
        origin: Hash of weights, settings and images, for the record.

    Returns:
        The signs, and the prediction with its label map.

    Raises:
        PredictionError: If more memory is needed than is allowed.
    """
    prediction = predictor.predict(case, OutputChoices(uncertainty=True, statistics=True))
    disagreement = prediction.disagreement
    if disagreement is None:
        disagreement = _compare_variants(predictor, case, prediction)
    foreground = prediction.labels != predictor.plan.encoding.values[0]
    entropy = np.zeros(foreground.shape) if prediction.uncertainty is None else prediction.uncertainty
    expected = [own.value for own in prediction.expected_dice.values()]
    signs = CaseSigns(
        case=name,
        origin=origin,
        uncertainty=mean_where(entropy, foreground | (entropy >= MIN_ENTROPY)),
        disagreement=None if disagreement is None else mean_where(disagreement, foreground | (disagreement > 0)),
        expected_dice=min(expected, default=None),
        features=_describe(predictor, case, prediction.labels),
    )
    case.images.clear()
    return signs, prediction


def mean_where(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Mean of values in [0, 1] within a mask; 0 for an empty mask."""
    return float(min(values[mask].mean(dtype=np.float64), 1.0)) if mask.any() else 0.0


def _compare_variants(
    predictor: CasePredictor, case: PreparedCase, prediction: Prediction
) -> NDArray[np.float16] | None:
    """Disagreement of one network, mirrored along one axis or none, with its mean; None where it is not mirrored."""
    if not predictor.windows.mirroring or len(predictor.members) > 1 or not predictor.members[0].mirror_axes:
        return None
    member = predictor.members[0]
    variants = (_mirrored(member, axes) for axes in ((), *((axis,) for axis in member.mirror_axes)))
    own = (_predict_labels(replace(predictor, members=(variant,)), case) for variant in variants)
    return fold_disagreement(prediction.labels, own)


def _mirrored(member: LoadedConfiguration, axes: tuple[int, ...]) -> LoadedConfiguration:
    return replace(member, mirror_axes=axes)


def _predict_labels(predictor: CasePredictor, case: PreparedCase) -> NDArray[np.unsignedinteger]:
    """Label map; the preprocessed images of the case stay."""
    return predictor.predict(replace(case, images=dict(case.images), clock=StepClock())).labels


def _describe(
    predictor: CasePredictor, case: PreparedCase, labels: NDArray[np.unsignedinteger]
) -> dict[str, tuple[float, ...]]:
    """Features by kind: intensities, means in a coarse grid, and volumes of labels as logarithms."""
    image = case.images[predictor.members[-1].name]
    volumes = label_volumes(labels, predictor.plan.encoding, float(np.prod(case.grid.spacing)))
    intensities = [float(value) for channel in image for value in np.percentile(channel, PERCENTILES)]
    return {
        "intensities": tuple(intensities),
        "appearance": tuple(coarse_means(image[0]).ravel().tolist()),
        "volumes": tuple(float(np.log1p(volume)) for volume in volumes.values()),
    }


def coarse_means(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Means of an array (Z, Y, X) in GRID x GRID x GRID cells; an axis with fewer voxels repeats them."""
    found: NDArray[np.floating] = values
    for axis, size in enumerate(values.shape):
        cells = [slice(size * cell // GRID, max(-(-size * (cell + 1) // GRID), 1)) for cell in range(GRID)]
        along = np.moveaxis(found, axis, 0)
        found = np.stack([along[cell].mean(axis=0, dtype=np.float64) for cell in cells], axis=axis)
    return found.astype(np.float64)


def label_volumes(
    labels: NDArray[np.unsignedinteger], encoding: LabelEncoding, voxel_mm3: float
) -> Mapping[str, float]:
    """Volume in mm³ of every label or region in a label map of file values, by name."""
    return {
        name: float(np.isin(labels, [encoding.values[index] for index in indices]).sum() * voxel_mm3)
        for name, indices in indices_by_label(encoding).items()
        if name != BACKGROUND
    }
