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
from autoseg.networks.devices import is_out_of_memory, release_cached_memory, synchronize, use_precision
from autoseg.networks.kernels import REPEATS, tried_kernels
from autoseg.networks.layout import Normalization, choose_layout
from autoseg.networks.threads import ThreadChoice, own_threads
from autoseg.records.sides import SideSwap

logger = logging.getLogger("autoseg.predict")

TIMED_CALLS = 2
"""Calls that are timed for each batch size, after a first one that selects kernels."""

KNEE = 0.97
"""A batch size is chosen if its speed is at least this fraction of the best speed: smaller ones need less memory."""

MIN_DICE = 0.9995
"""Dice of every label between 16 bits and float32. Label maps must agree with 0.999, and windows are only a sample."""

ENOUGH_VOXELS = 20_000
"""Foreground voxels after which the comparison is decided."""

MAX_COMPARISONS = 12
"""Calls with foreground after which the comparison is decided in any case."""


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
class BatchTrial:
    """Finds the batch size while windows are predicted: from the largest down, until it gets slower."""

    chosen: int | None = None
    limit: int | None = None
    """Windows that fit into the device's memory at a time; None: it has not run out yet."""
    _seconds: dict[int, list[float]] = field(default_factory=dict)

    def next_size(self, num_windows: int) -> int:
        """The size to use for a call of this many windows."""
        largest = 1 << (num_windows.bit_length() - 1)
        if self.limit is not None:
            largest = min(largest, self.limit)
        if self.chosen is not None:
            if largest <= max(self._seconds):
                return self.chosen
            self.chosen = None  # calls were smaller so far
        size = largest
        while size > 1 and len(self._seconds.get(size, ())) > TIMED_CALLS:
            size //= 2
        return size

    def shrink(self, size: int) -> int:
        """The next smaller size, and the largest from now on, because `size` windows did not fit into memory."""
        self.limit = size // 2
        self.chosen = None
        self._seconds = {tried: values for tried, values in self._seconds.items() if tried <= self.limit}
        return self.limit

    def record(self, size: int, num_windows: int, seconds: float) -> None:
        """Add the seconds of a call; decide once smaller sizes were tried or are slower."""
        if num_windows < 2 or num_windows % size:
            return
        times = self._seconds.setdefault(size, [])
        times.append(seconds / num_windows)
        best = {tried: min(values[1:]) for tried, values in self._seconds.items() if len(values) > TIMED_CALLS}
        if size not in best:
            return
        fastest = min(best.values())
        if size == 1 or size // 2 in best or best[size] * KNEE > fastest:
            self.chosen = min(tried for tried, value in best.items() if value * KNEE <= fastest)


@dataclass
class PrecisionTrial:
    """Compares a 16-bit type with float32 on the first windows that show foreground."""

    candidate: torch.dtype
    is_softmax: bool
    """Whether the largest head decides, head 0 for background; else every positive head is a region."""
    accepted: bool | None = None
    """None: not decided yet."""
    _seconds: list[tuple[float, float]] = field(default_factory=list)
    _common: Tensor | None = None
    _sizes: Tensor | None = None

    def compare(self, exact: Tensor, coarse: Tensor, seconds: tuple[float, float]) -> None:
        """Compare the logits of one call, float32 first; decide after enough voxels, and log the reason."""
        common, sizes = self._overlap(exact, coarse)
        self._common = common if self._common is None else self._common + common
        self._sizes = sizes if self._sizes is None else self._sizes + sizes
        self._seconds.append(seconds)
        enough = int(self._sizes.sum()) >= 2 * ENOUGH_VOXELS and len(self._seconds) > TIMED_CALLS
        if enough or len(self._seconds) >= MAX_COMPARISONS:
            seen = self._sizes > 0
            self._decide(float((self._common[seen] / self._sizes[seen]).min()))

    def shows_foreground(self, logits: Tensor) -> bool:
        """Whether these logits have foreground, which the comparison needs."""
        if self.is_softmax:
            return bool((logits[:, 1:].amax(1) > logits[:, 0]).any())
        return bool((logits > 0).any())

    def _decide(self, lowest: float) -> None:
        exact, coarse = (min(values) for values in zip(*self._seconds[1:], strict=True))
        self.accepted = lowest >= MIN_DICE and coarse < exact
        name = str(self.candidate).removeprefix("torch.")
        logger.info(
            "precision %s: %s agrees with float32 on the first windows with Dice %.4f (%s needed), %.1f times as fast",
            name if self.accepted else "float32", name, lowest, MIN_DICE, exact / coarse,
        )  # fmt: skip

    def _overlap(self, exact: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """For each foreground head, twice the number of common voxels, and the sum of both numbers of voxels."""
        heads = exact.shape[1]
        if self.is_softmax:
            first, second = (logits.argmax(1).flatten() for logits in (exact, coarse))
            common, *sizes = (
                torch.bincount(labels, minlength=heads)[1:] for labels in (first[first == second], first, second)
            )
        else:
            masks = [logits.movedim(1, 0).flatten(1) > 0 for logits in (exact, coarse)]
            common, *sizes = (mask.sum(1) for mask in (masks[0] & masks[1], *masks))
        return 2 * common, sizes[0] + sizes[1]


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
