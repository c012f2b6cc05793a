"""Probabilities that come true as often as they say: logits divided by a temperature, slab by slab."""

from collections.abc import Mapping

import torch
from torch import Tensor

from autoseg.inference.restoring.restore import ProbabilitySink
from autoseg.records.case import PreprocessedCase
from autoseg.records.confidence import Confidence
from autoseg.records.dataset import LabelEncoding


class CalibratedSink:
    """Hands probabilities on to another sink as the temperatures change them; a `ProbabilitySink`."""

    def __init__(self, sink: ProbabilitySink, temperatures: Mapping[str, float], encoding: LabelEncoding) -> None:
        """Calibrate for one sink.

        Args:
            sink: What receives the calibrated probabilities.
            temperatures: Temperature of each head by its name.
            encoding: Label encoding of the heads.
        """
        self._sink = sink
        self._temperatures = torch.tensor([temperatures[head.name] for head in encoding.heads])
        self._activation = encoding.activation

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Calibrate and hand on some rows of the cropped box; see `ProbabilitySink`."""
        calibrated = divide_logits(probabilities, self._temperatures, is_softmax=self._activation == "softmax")
        self._sink.write(record, start, stop, calibrated)


def calibrated(
    sink: ProbabilitySink | None, confidence: Confidence | None, encoding: LabelEncoding
) -> ProbabilitySink | None:
    """The sink behind a model's temperatures; the sink itself if there are none that change something."""
    if sink is None or confidence is None or all(value == 1 for value in confidence.temperatures.values()):
        return sink
    return CalibratedSink(sink, confidence.temperatures, encoding)


def divide_logits(probabilities: Tensor, temperatures: Tensor, *, is_softmax: bool) -> Tensor:
    """Probabilities of logits divided by temperatures, from those of the logits themselves.

    The logarithms of probabilities are logits up to a constant, so this is exact for one network; of an ensemble it is
    the mean that is calibrated.

    Args:
        probabilities: (K, ...) by head.
        temperatures: (K,), above 0; for a softmax all equal, so that the most probable head stays the same.
        is_softmax: Whether the heads exclude each other; else each has a sigmoid of its own.

    Returns:
        Tensor (K, ...) in [0, 1]; where all temperatures are 1, the probabilities up to rounding.

    References:
        Guo et al. 2017, "On calibration of modern neural networks", temperature scaling. Ensembles: Rahaman and Thiery
        2021, pool first, then calibrate.
    """
    divisors = temperatures.to(probabilities.device).reshape(-1, *[1] * (probabilities.ndim - 1))
    smallest = torch.finfo(torch.float32).tiny
    logarithms = probabilities.float().clamp(min=smallest).log_()
    if is_softmax:
        return logarithms.div_(divisors).softmax(dim=0)
    logarithms -= (1 - probabilities.float()).clamp_(min=smallest).log_()
    return logarithms.div_(divisors).sigmoid_()
