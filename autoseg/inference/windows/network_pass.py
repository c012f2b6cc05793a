"""A batch of windows through a configuration's networks: mirrored variants, folds, batch sizes and precision.

    mean_mirrored_logits: mirror -> NetworkPass: label map to channels -> batches -> mean_forward: folds -> mirror back

The precision belongs to the loaded networks, so that validation, selection and prediction compute alike: what is
scored is what is predicted. Both are learnt while the first windows are predicted, and kept for all later ones:

- batch: every candidate size predicts some windows; the smallest that is nearly as fast as the best is kept.
- precision `auto`, where the hardware computes in 16 bits: the first windows with foreground are predicted in float32
  (which is what counts) and once more in 16 bits; the latter are used from then on only if their label maps agree and
  they took less time.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autoseg.inference.windows.channel_presence import append_planes
from autoseg.inference.windows.logit_slab import CPU
from autoseg.inference.windows.mirrored_variants import Forward, mirror_variants, sum_unmirrored
from autoseg.inference.windows.pass_trials import BatchTrial, PrecisionTrial
from autoseg.networks.devices import is_out_of_memory, release_cached_memory, synchronize, use_precision
from autoseg.networks.kernels import REPEATS, tried_kernels
from autoseg.networks.layout import Normalization, choose_layout
from autoseg.networks.threads import ThreadChoice, own_threads
from autoseg.records.sides import SideSwap

logger = logging.getLogger("autoseg.predict")


def mean_forward(forwards: Sequence[Forward]) -> Forward:
    """A network pass whose logits are the mean over several networks.

    Blending windows is linear, so averaging each batch gives the same as averaging whole volumes, and only one
    volume of logits exists whatever the number of folds.

    Args:
        forwards: Networks with the same heads; at least one.

    Raises:
        ValueError: If there is none.

    References:
        nnU-Net v2 (Isensee et al. 2021): logits, not probabilities, are averaged over folds.
    """
    if not forwards:
        raise ValueError("an ensemble needs at least one network")
    first, *others = forwards
    if not others:
        return first

    def forward(windows: Tensor) -> Tensor:
        total = first(windows).to(torch.float32, copy=True)
        for other in others:
            total += other(windows)
        return total.div_(len(forwards))

    return forward


def expand_label_map(windows: Tensor, num_labels: int) -> Tensor:
    """Windows with one 0/1 channel for each label index from 1, in place of their last channel, label indices.

    Index 0, background, gets no channel; neither does the padding of windows, which is 0.

    Args:
        windows: (B, C + 1, *spatial).
        num_labels: Foreground labels; labels, even where the heads are regions.

    Returns:
        (B, C + num_labels, *spatial).

    References:
        nnU-Net v2 (Isensee et al. 2021), cascade.
    """
    indices = torch.arange(1, num_labels + 1, device=windows.device).reshape(-1, *[1] * (windows.ndim - 2))
    channels = windows[:, -1:] == indices
    return torch.cat([windows[:, :-1], channels.to(windows.dtype)], dim=1)


@dataclass
class NetworkPasses:
    """How the windows of one configuration go through its networks; shared by all cases and threads."""

    device: torch.device = CPU
    normalization: Normalization = "instance"
    """What the networks' convolutions are normalised over, which their memory layout depends on."""
    dtype: torch.dtype = torch.float32
    """Type of autocast while there is no trial, or it has not accepted another one; float32: none."""
    batch: BatchTrial = field(default_factory=BatchTrial)
    trial: PrecisionTrial | None = None
    """None: the precision is fixed."""
    seen: Counter[tuple[int, ...]] = field(default_factory=Counter)
    """Number of calls by the windows that went at a time and the shape of all of them."""
    threads: ThreadChoice = field(default_factory=own_threads)
    """Threads of the processor that compute."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_learning(self, num_windows: int) -> bool:
        """Whether a call of so many windows can still teach something about batch or precision."""
        is_open = self.trial is not None and self.trial.accepted is None
        return is_open or (num_windows > 1 and self.batch.chosen is None)

    @property
    def current_dtype(self) -> torch.dtype:
        """Type in which the next windows are computed."""
        return self.trial.candidate if self.trial is not None and self.trial.accepted else self.dtype


def choose_passes(
    precision: str, device: torch.device, normalization: Normalization, *, is_softmax: bool
) -> NetworkPasses:
    """How one configuration computes: the one rule for validation, selection and prediction.

    Args:
        precision: `fp32`, `tf32`, `bf16` or `fp16`, which are followed; or `auto`: a trial of 16 bits where the device
            computes in them, else float32.
        device: Device of the networks.
        normalization: What their convolutions are normalised over.
        is_softmax: Whether the largest head decides, head 0 for background; else every positive head is a region.

    Raises:
        UsageError: If the word is unknown, or the device cannot compute in this type.
    """
    dtype = use_precision(precision, device)
    if precision == "auto" and dtype != torch.float32:
        return NetworkPasses(device, normalization, trial=PrecisionTrial(dtype, is_softmax))
    return NetworkPasses(device, normalization, dtype)


class NetworkPass:
    """The networks of a configuration, from windows to logits in float32, both on the device of the networks.

    It splits its windows into batches, and computes in the precision that is fixed or that a trial has chosen.
    """

    def __init__(
        self,
        forward: Forward,
        passes: NetworkPasses,
        *,
        num_labels: int = 0,
        mirror_axes: Sequence[int] = (),
        swap: SideSwap | None = None,
        presence: Sequence[bool] = (),
    ) -> None:
        """Combine networks with their settings.

        Args:
            forward: Networks as one: (B, C, *spatial) -> logits (B, K, *spatial), on the device.
            passes: Device, precision and batches; shared by all calls, which add measurements.
            num_labels: Foreground labels that a cascade's label map, the last channel, is expanded to; 0: no cascade.
            mirror_axes: Spatial axes along which prediction mirrors: a trial compares labels after averaging over the
                mirrored variants where a call holds all of them.
            swap: Heads that change places when a mirrored variant is mirrored back; None: none do.
            presence: Whether the image has each channel, where images may lack some; empty: they have all.
        """
        self._presence = tuple(presence)
        self._forward = forward
        self._passes = passes
        self._num_labels = num_labels
        self._variants = mirror_variants(mirror_axes)
        self._swap = swap

    def __call__(self, windows: Tensor) -> Tensor:
        """Logits (B, K, *spatial) of windows (B, C, *spatial), for any B."""
        passes, trial = self._passes, self._passes.trial
        layout = choose_layout(windows.ndim - 2, passes.normalization, passes.device)
        windows = windows.to(passes.device, memory_format=layout)
        if self._num_labels:
            windows = expand_label_map(windows, self._num_labels)
        windows = append_planes(windows, self._presence)
        with passes.lock:
            size, is_timed = passes.batch.next_size(len(windows)), passes.is_learning(len(windows))
            passes.seen[size, *windows.shape] += 1
            is_frequent = not is_timed and passes.seen[size, *windows.shape] > REPEATS
        with tried_kernels(passes.device, are_worth_it=is_frequent), passes.threads.timed(windows.numel()):
            logits, seconds, size = self._pass_in_memory(windows, size, is_timed=is_timed)
        if trial is not None and trial.accepted and trial.candidate == torch.float16:
            return self._repeated_if_beyond_float16(windows, logits, trial, size)
        if not is_timed:
            return logits.float()
        with passes.lock:
            if not passes.threads.is_trying:
                passes.batch.record(size, len(windows), seconds)
            if trial is not None and trial.accepted is None and trial.shows_foreground(self._averaged(logits)):
                with passes.threads.applied():
                    coarse, coarse_seconds = _pass(self._forward, windows, size, trial.candidate)
                trial.compare(self._averaged(logits), self._averaged(coarse), (seconds, coarse_seconds))
        return logits.float()

    def _repeated_if_beyond_float16(self, windows: Tensor, logits: Tensor, trial: PrecisionTrial, size: int) -> Tensor:
        """The logits; in float32, from now on, where a value is beyond the range of float16."""
        if bool(torch.isfinite(logits).all()):
            return logits.float()
        trial.accepted = False
        logger.warning("precision float32 from now on: a window's values are beyond the range of float16")
        return _pass(self._forward, windows, size, self._passes.current_dtype)[0].float()

    def _pass_in_memory(self, windows: Tensor, size: int, *, is_timed: bool) -> tuple[Tensor, float, int]:
        """Logits of all windows, seconds, and how many windows went through the networks at a time: at most `size`.

        Fewer where memory runs out, for all later calls too.
        """
        passes = self._passes
        while True:
            try:
                logits, seconds = _pass(self._forward, windows, size, passes.current_dtype, is_timed=is_timed)
                return logits, seconds, size
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            # here, not above: the error holds the tensors of the failed attempt
            release_cached_memory(passes.device)
            with passes.lock:
                size = passes.batch.shrink(size)
            logger.warning(
                "the memory of %s is too small for a pass of windows; windows at a time from now on: %d",
                passes.device, size,
            )  # fmt: skip

    def _averaged(self, logits: Tensor) -> Tensor:
        """Mean over the mirrored variants where these are all of them, else the logits as they are."""
        if len(logits) % len(self._variants):
            return logits.float()
        return sum_unmirrored(logits, self._variants, self._swap)


def _pass(
    forward: Forward, windows: Tensor, size: int, dtype: torch.dtype, *, is_timed: bool = True
) -> tuple[Tensor, float]:
    """Logits of all windows, `size` at a time, under autocast unless `dtype` is float32; and seconds.

    Only a pass that is timed waits for a GPU; the seconds of another one mean nothing.
    """
    start = time.perf_counter()
    with torch.autocast(windows.device.type, dtype=dtype, enabled=dtype != torch.float32):
        parts = [forward(part) for part in torch.split(windows, size)]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        if dtype != torch.float32:
            logits = logits.float()
    if is_timed:
        synchronize(windows.device)
    return logits, time.perf_counter() - start
