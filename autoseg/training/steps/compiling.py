"""Compilation of the network's training call: whether it is earned back is measured before the first step.

    steps as they are, measured -> too few remain for what compiling usually takes? -> not compiled
    compile, measured -> the same steps, measured -> steps that earn it back < steps that remain -> compiled

A decision stands in the fold's checkpoints, so that a training that resumes decides the same. Shapes are fixed:
compiled code is used for batches like the first one, and nothing is compiled again.
"""

import logging
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from subprocess import SubprocessError
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.devices import is_out_of_memory, release_cached_memory, synchronize
from autoseg.networks.points import list_training_inputs
from autoseg.records.checkpoint import CompilingTrial
from autoseg.training.steps.run import StepSettings

logger = logging.getLogger("autoseg.train")

TRIED_ON = frozenset({"cuda"})
"""Types of devices on which `auto` measures. On a CPU plan, options and seed determine the weights, so no measurement
may; and two U-Nets that were measured gain little (0.19 s a step instead of 0.25 s) or lose (0.23 s instead of 0.12 s).
"""

USUAL_SECONDS = 120.0
"""Time that compiling is expected to take before it is tried. Measured: 66 s and 179 s on one core, torch 2.13."""

MAX_COST_FRACTION = 0.05
"""Fraction of the time that remains which compiling may be expected to take; steps become some 10 to 30 % faster."""

MIN_STEPS = 1000
"""Steps below which nothing is measured: even steps of a second would not earn compiling back."""

TRIAL_SEED = (0,)
"""Seed of what a network takes besides an image; its values do not matter either."""

WARM_UP_STEPS = 2
MEASURED_STEPS = 5


def choose_compiling(
    choice: Literal["auto", "on", "off"],
    device: torch.device,
    steps: int,
    seconds: float | None,
    earlier: CompilingTrial | None,
) -> bool | None:
    """Whether the training call is compiled; None: a trial decides, see `try_compiling`.

    Args:
        choice: The user's.
        device: Where it trains.
        steps: Optimiser steps that remain.
        seconds: Training time that remains where it was promised; None: the steps decide.
        earlier: What was decided when the training began, which holds on the same type of device.
    """
    if choice != "auto":
        return choice == "on"
    if earlier is not None and earlier.device == device.type:
        logger.info("%s, as when the training began", "compiled" if earlier.compiled else "not compiled")
        return earlier.compiled
    if device.type not in TRIED_ON:
        return False
    is_long = steps >= MIN_STEPS if seconds is None else MAX_COST_FRACTION * seconds >= USUAL_SECONDS
    return None if is_long else False


def try_compiling(network: nn.Module, image: Tensor, settings: StepSettings) -> tuple[nn.Module, CompilingTrial]:
    """Measure steps as they are and compiled, and decide; of several processes the first one's figures decide.

    Args:
        network: On its device.
        image: Image with the shape and layout of every batch, (B, C, *S); its values do not matter.
        settings: How steps are computed, with the steps or the time that remain.

    Returns:
        What computes training steps from now on: the network, or its compiled code; and the decision with its figures.
    """
    device, inputs = settings.device.type, list_training_inputs(network, image, TRIAL_SEED)
    (plain,) = settings.ranks.broadcast_numbers([_seconds_of_step(network, inputs, settings.precision)])
    if not math.isfinite(plain):
        logger.info("not compiled: a step does not fit into the memory of %s", settings.device)
        return network, CompilingTrial(compiled=False, device=device, steps_left=settings.steps_left)
    steps = settings.steps_left if settings.seconds_left is None else math.floor(settings.seconds_left / plain)
    trial = CompilingTrial(compiled=False, device=device, steps_left=steps, step_seconds=plain)
    if MAX_COST_FRACTION * steps * plain < USUAL_SECONDS:
        logger.info(
            "not compiled: %d steps of %.3f s remain; compiling takes some %.0f s, more than %.0f %% of that",
            steps, plain, USUAL_SECONDS, 100 * MAX_COST_FRACTION,
        )  # fmt: skip
        return network, trial
    began = time.monotonic()
    call = compile_network(network, image, settings.precision)
    taken = time.monotonic() - began
    faster = math.inf if call is network else _seconds_of_step(call, inputs, settings.precision)
    taken, faster = settings.ranks.broadcast_numbers([taken, faster])
    earned_back = taken / (plain - faster) if faster < plain else math.inf
    trial = trial.model_copy(
        update={
            "compiled": earned_back < steps,
            "compiling_seconds": taken,
            "compiled_step_seconds": faster if math.isfinite(faster) else None,
        }
    )
    logger.info("%s", _describe(trial, earned_back))
    return (call if trial.compiled else network), trial


def compile_network(network: nn.Module, image: Tensor, precision: torch.dtype) -> nn.Module:
    """Compile the network's training call for one shape; its parameters, and their names, stay the network's own.

    Args:
        network: On its device.
        image: Image with the shape and memory format of every batch, (B, C, *S); its values do not matter.
        precision: Type of autocast; float32: none.

    Returns:
        A module that calls the compiled code; the network itself, and one line in the log, where compiling fails.
    """
    began = time.monotonic()
    compiled: nn.Module = torch.compile(network, dynamic=False)  # type: ignore[assignment]  # a module gives a module
    try:
        with _left_as_it_was(network):
            _train_once(compiled.train(), list_training_inputs(network, image, TRIAL_SEED), precision)
    except (RuntimeError, OSError, ImportError, SubprocessError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("torch.compile does not work here, so the network is not compiled: %s", reason)
        return network
    logger.info("compiled the network in %.0f s", time.monotonic() - began)
    return CompiledOnce(compiled)


class CompiledOnce(nn.Module):
    """Compiled code for one kind of batch; any other kind is computed without it, because compiling takes minutes."""

    def __init__(self, compiled: nn.Module) -> None:
        super().__init__()
        self.compiled = compiled

    @override
    def forward(self, *inputs: Tensor) -> Tensor | list[Tensor]:
        """What the network gives for an image (B, C, *S), and what else it takes in training."""
        with torch.compiler.set_stance("eager_on_recompile"):
            outputs: Tensor | list[Tensor] = self.compiled(*inputs)
        return outputs


def _describe(trial: CompilingTrial, earned_back: float) -> str:
    """The decision with its figures."""
    if trial.compiled_step_seconds is None:
        return "not compiled: compiling failed"
    figures = (
        f"a step takes {trial.compiled_step_seconds:.3f} s instead of {trial.step_seconds:.3f} s (forward and backward)"
    )
    if not math.isfinite(earned_back):
        return f"not compiled: {figures}"
    return (
        f"{'compiled' if trial.compiled else 'not compiled'}: {figures}; {earned_back:.0f} steps earn the "
        f"{trial.compiling_seconds:.0f} s of compiling back, {trial.steps_left} remain"
    )


def _seconds_of_step(call: nn.Module, inputs: Sequence[Tensor], precision: torch.dtype) -> float:
    """Median time of forward and backward; infinite where they do not fit into memory."""
    seconds = []
    try:
        with _left_as_it_was(call):
            for _ in range(WARM_UP_STEPS + MEASURED_STEPS):
                began = time.perf_counter()
                _train_once(call.train(), inputs, precision)
                synchronize(inputs[0].device)
                seconds.append(time.perf_counter() - began)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        release_cached_memory(inputs[0].device)
        return math.inf
    return statistics.median(seconds[WARM_UP_STEPS:])


@contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Give a network its statistics of batch normalisation back, and take gradients away."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        for buffer, before in buffers:
            buffer.copy_(before)


def _train_once(network: nn.Module, inputs: Sequence[Tensor], precision: torch.dtype) -> None:
    """Forward and backward, so that both are compiled."""
    with torch.autocast(inputs[0].device.type, precision, enabled=precision != torch.float32):
        outputs = network(*inputs)
    levels = [outputs] if isinstance(outputs, Tensor) else outputs
    torch.stack([logits.float().mean() for logits in levels]).sum().backward()  # type: ignore[no-untyped-call]
