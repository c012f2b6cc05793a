"""Fit temperatures on voxels of held-out cases, and measure how well probabilities come true before and after.

Labels of a softmax share one temperature, which keeps the order of their probabilities: a calibrated map never
contradicts the label map. Regions have a sigmoid, and a temperature, each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from autoseg.inference.sinks.temperature import divide_logits
from autoseg.inference.sinks.uncertainty import label_probabilities
from autoseg.metrics.expected_dice import leave_out
from autoseg.records.calibration import NUM_BINS
from autoseg.records.confidence import LabelCalibration
from autoseg.records.dataset import BACKGROUND, LabelEncoding, indices_by_label

MAX_TEMPERATURE = 5.0
"""Largest temperature that is tried; its inverse is the smallest."""
NO_CHANGE = 1.0
"""Temperature that leaves probabilities as they are."""
NOT_FITTED = "Temperature: not fitted, two held-out cases in which all labels were looked for are needed."
"""Reason where there are fewer."""
SMALLEST = 1e-7
"""Smallest probability in a logarithm: one certain voxel that is wrong must not decide alone."""


@dataclass(frozen=True)
class Voxels:
    """Drawn voxels of held-out cases; see `inference.sinks.voxel_sample`."""

    probabilities: NDArray[np.float32]
    """(n, K) by head."""
    indices: NDArray[np.int16]
    """Label indices of the reference, (n,)."""
    weights: NDArray[np.float32]
    """Number of voxels that each one stands for, (n,)."""


@dataclass(frozen=True)
class LearntTemperatures:
    """Temperatures, and what they change."""

    temperatures: dict[str, float]
    """Temperatures by head; NO_CHANGE where they do not help."""
    errors: dict[str, LabelCalibration]
    """Errors by label, on folds that the temperatures were not fitted on."""
    reason: str
    """One sentence."""


def learn_temperatures(cases: Sequence[Voxels], folds: Sequence[str], encoding: LabelEncoding) -> LearntTemperatures:
    """Fit temperatures on all cases; keep those that lower the Brier score of folds that they were not fitted on.

    Args:
        cases: Voxels of each held-out case.
        folds: Fold of each case.
        encoding: Label encoding of the heads.
    """
    unchanged = {head.name: NO_CHANGE for head in encoding.heads}
    if len(cases) < 2:
        return LearntTemperatures(unchanged, {}, NOT_FITTED)
    before, after = [], []
    for learnt, tested in leave_out(folds):
        known = fit_temperatures(join_voxels(_where(cases, learnt)), encoding)
        before += _where(cases, tested)
        after += [calibrate(case, known, encoding) for case in _where(cases, tested)]
    errors = measure_calibration(join_voxels(before), join_voxels(after), encoding)
    fitted = fit_temperatures(join_voxels(cases), encoding)
    gains = {label: error.brier_before - error.brier_after for label, error in errors.items()}
    if encoding.activation == "softmax":
        kept = fitted if sum(gains.values()) > 0 else unchanged
    else:
        kept = {name: value if gains.get(name, 0.0) > 0 else NO_CHANGE for name, value in fitted.items()}
    return LearntTemperatures(kept, errors, _describe(fitted, kept, errors))


def join_voxels(parts: Sequence[Voxels]) -> Voxels:
    """All voxels of several cases, at least one case."""
    return Voxels(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.weights for part in parts]),
    )


def fit_temperatures(voxels: Voxels, encoding: LabelEncoding) -> dict[str, float]:
    """Temperatures by head that make the references most likely; 1 for a region without likely voxels.

    References:
        Guo et al. 2017: the temperature minimises the negative logarithm of the likelihood of held-out data.
    """
    if encoding.activation == "softmax":
        own = _label_masks(voxels, encoding)
        temperature = _fit_softmax(voxels, own, encoding) if len(voxels.indices) else 1.0
        return {head.name: temperature for head in encoding.heads}
    return {
        head.name: _fit_sigmoid(voxels, place, np.isin(voxels.indices, head.indices))
        for place, head in enumerate(encoding.heads)
    }


def calibrate(voxels: Voxels, temperatures: dict[str, float], encoding: LabelEncoding) -> Voxels:
    """The same voxels with the probabilities that the temperatures give."""
    divisors = torch.tensor([temperatures[head.name] for head in encoding.heads])
    calibrated = divide_logits(
        torch.from_numpy(voxels.probabilities.T), divisors, is_softmax=encoding.activation == "softmax"
    )
    return Voxels(calibrated.numpy().T, voxels.indices, voxels.weights)


def measure_calibration(before: Voxels, after: Voxels, encoding: LabelEncoding) -> dict[str, LabelCalibration]:
    """Errors of each foreground label or region with voxels in which it was likely before.

    Args:
        before: Voxels with the probabilities of the networks.
        after: The same with calibrated ones.
        encoding: Label encoding of the heads.

    References:
        Naeini et al. 2015, expected calibration error, with NUM_BINS bins of equal width; Brier 1950.
    """
    masks = _label_masks(before, encoding)
    found = {}
    for place, name in enumerate(indices_by_label(encoding)):
        old, new = (_of_labels(voxels, encoding)[place] for voxels in (before, after))
        likely = old >= 1 / NUM_BINS
        if name == BACKGROUND or not likely.any():
            continue
        is_true, weights = masks[place][likely].astype(np.float64), before.weights[likely].astype(np.float64)
        found[name] = LabelCalibration(
            voxels=round(weights.sum()),
            error_before=_calibration_error(old[likely], is_true, weights),
            error_after=_calibration_error(new[likely], is_true, weights),
            brier_before=float(np.average((old[likely] - is_true) ** 2, weights=weights)),
            brier_after=float(np.average((new[likely] - is_true) ** 2, weights=weights)),
        )
    return found


def _where(cases: Sequence[Voxels], mask: NDArray[np.bool_]) -> list[Voxels]:
    return [case for case, is_wanted in zip(cases, mask, strict=True) if is_wanted]


def _describe(fitted: Mapping[str, float], kept: Mapping[str, float], errors: Mapping[str, LabelCalibration]) -> str:
    values = sorted({f"{value:.2f}" for value in fitted.values()})
    named = values[0] if len(values) == 1 else ", ".join(f"{name} {value:.2f}" for name, value in fitted.items())
    refused = [name for name, value in kept.items() if value != fitted[name]]
    answer = "yes" if not refused else "no" if len(refused) == len(kept) else f"not for {', '.join(refused)}"
    if not errors:
        return f"Temperature {named}: {answer}, no label is likely anywhere."
    figures = [
        float(np.mean([getattr(error, figure) for error in errors.values()]))
        for figure in ("error_before", "error_after", "brier_before", "brier_after")
    ]
    return (
        f"Temperature {named}: {answer}, calibration error {figures[0]:.4f} before, {figures[1]:.4f} after; Brier "
        f"score {figures[2]:.4f} before, {figures[3]:.4f} after (means over labels, on folds that it has not seen)."
    )


def _of_labels(voxels: Voxels, encoding: LabelEncoding) -> NDArray[np.float64]:
    """Probabilities by label, (L, n)."""
    heads = torch.from_numpy(np.ascontiguousarray(voxels.probabilities.T))
    return label_probabilities(heads, encoding).numpy().astype(np.float64)


def _label_masks(voxels: Voxels, encoding: LabelEncoding) -> NDArray[np.bool_]:
    """Whether each voxel truly has each label, (L, n)."""
    return np.array([np.isin(voxels.indices, indices) for indices in indices_by_label(encoding).values()])


def _calibration_error(
    values: NDArray[np.float64], is_true: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    bins = np.clip((values * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    gaps = np.bincount(bins, weights=weights * (values - is_true), minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _fit_softmax(voxels: Voxels, own: NDArray[np.bool_], encoding: LabelEncoding) -> float:
    def loss(logarithm: float) -> float:
        temperatures = {head.name: exp(logarithm) for head in encoding.heads}
        of_labels = _of_labels(calibrate(voxels, temperatures, encoding), encoding)
        true = np.where(own, of_labels, 0.0).sum(axis=0)
        return -float(np.average(np.log(np.maximum(true, SMALLEST)), weights=voxels.weights))

    return _minimize(loss)


def _fit_sigmoid(voxels: Voxels, place: int, own: NDArray[np.bool_]) -> float:
    values = voxels.probabilities[:, place].astype(np.float64)
    likely = values >= 1 / NUM_BINS
    if not likely.any():
        return 1.0
    values = np.clip(values[likely], SMALLEST, 1 - SMALLEST)
    logits, own, weights = np.log(values / (1 - values)), own[likely], voxels.weights[likely]

    def loss(logarithm: float) -> float:
        signed = np.where(own, logits, -logits) / exp(logarithm)
        return float(np.average(np.logaddexp(0, -signed), weights=weights))

    return _minimize(loss)


def _minimize(loss: Callable[[float], float]) -> float:
    bound = log(MAX_TEMPERATURE)
    return exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-3}).x)
