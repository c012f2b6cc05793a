"""Everything that a training step needs, built once before the first step; compiled where that pays."""

import logging
import time
from subprocess import SubprocessError
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autoseg.networks.build import build_network
from autoseg.networks.device_types import device_type
from autoseg.networks.layout import choose_layout, place_network
from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import Configuration
from autoseg.training.data.augmentation.on_device import build_device_augmentation
from autoseg.training.data.batch import Share
from autoseg.training.losses import SegmentationLoss, build_loss
from autoseg.training.steps.averaging import WeightAverage
from autoseg.training.steps.optimizer import build_optimizer
from autoseg.training.steps.run import StepSettings, TrainingRun

logger = logging.getLogger("autoseg.train")

MIN_SECONDS = 600.0
"""A training shorter than this and than MIN_STEPS ends before the time for compiling is earned back."""

MIN_STEPS = 5000


def build_initial_network(configuration: Configuration, seed: int) -> nn.Module:
    """The network with deep supervision and freshly drawn weights, on the CPU."""
    torch.manual_seed(seed)
    network: nn.Module = build_network(configuration.network, deep_supervision=True)
    return network


def start_run(
    network: nn.Module, configuration: Configuration, encoding: LabelEncoding, settings: StepSettings
) -> TrainingRun:
    """Bring a network to its device, and build loss and optimiser for its first step.

    Args:
        network: Network with the weights to start from, on the CPU; what is frozen in it stays as it is.
        configuration: Configuration of the network, with the user's overrides in its schedule.
        encoding: Labels of the dataset.
        settings: How steps are computed.
    """
    spec, device, row = configuration.training, settings.device, device_type(settings.device)
    if row.has_numbers:
        use_gpu(device)
    loss = build_loss(
        encoding,
        name=spec.loss,
        batch_dice=spec.batch_dice,
        num_outputs=_num_outputs(configuration),
        across_ranks=settings.ranks.sum,
    )
    _freeze_weightless_heads(network, loss)
    network = place_network(network, configuration.network, device)
    return TrainingRun(
        network=network,
        average=None if spec.weight_average_decay is None else WeightAverage(network, spec.weight_average_decay),
        training_call=_training_call(network, configuration, settings),
        loss=loss,
        optimizer=build_optimizer(network, spec),
        scaler=torch.amp.GradScaler(device.type, enabled=row.has_scaler and settings.precision == torch.float16),
        augmentation=build_device_augmentation(configuration) if row.is_gpu else None,
        copy_stream=row.module.Stream(device) if row.has_streams else None,
        spec=spec,
        encoding=encoding,
        settings=settings,
        layout=_layout(configuration, device),
    )


def use_gpu(device: torch.device) -> None:
    """Make a GPU the current one, to which pinned memory belongs; let cuDNN try its ways for the one batch shape."""
    if device.index is not None:  # without a number it means the current one, and torch refuses to set it
        device_type(device).module.set_device(device)
    torch.backends.cudnn.benchmark = True


def _training_call(network: nn.Module, configuration: Configuration, settings: StepSettings) -> nn.Module:
    """The network itself, compiled, or in parallel; all of them share its parameters."""
    call, ranks = network, settings.ranks
    if settings.compiled:
        samples = len(Share(ranks.rank, ranks.count).samples(configuration.batch_size))
        shape = (samples, configuration.network.input_channels, *configuration.patch_size)
        layout = _layout(configuration, settings.device)
        image = torch.zeros(shape, device=settings.device).contiguous(memory_format=layout)
        call = compile_network(network, image, settings.precision)
    if ranks.count == 1:
        return call
    if any(True for _ in network.buffers()):
        logger.info("batch normalisation: every process takes the statistics of its own part of the batch")
    return DistributedDataParallel(call)


def _layout(configuration: Configuration, device: torch.device) -> torch.memory_format:
    return choose_layout(configuration.network.dimensions, configuration.network.normalization, device)


def _freeze_weightless_heads(network: nn.Module, loss: SegmentationLoss) -> None:
    """The head of the lowest level never gets a gradient, and several processes would wait for one."""
    for level, weight in enumerate(loss.level_weights):
        if weight == 0.0:
            network.get_submodule(f"decoder.heads.{level}").requires_grad_(requires_grad=False)


def _num_outputs(configuration: Configuration) -> int:
    """One per decoder level with deep supervision, else one."""
    network = configuration.network
    return len(network.features) - 1 if network.deep_supervision else 1


def should_compile(
    choice: Literal["auto", "on", "off"], device: torch.device, steps: int, seconds: float | None
) -> bool:
    """Whether to compile: as chosen, else on a GPU for a long training only.

    On a CPU it does not pay: one core, torch 2.13, bf16, plain U-Net of 8 to 64 feature maps, batch 2 of
    (40, 56, 40): compiling took 66 s, a step then 0.25 s instead of 0.19 s.

    Args:
        choice: The user's.
        device: Where it trains.
        steps: Planned for the whole training.
        seconds: Promised for the training; None: the steps decide.
    """
    if choice != "auto":
        return choice == "on"
    is_long = steps > MIN_STEPS if seconds is None else seconds > MIN_SECONDS
    return is_long and device.type == "cuda"


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
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        _train_once(compiled.train(), image, precision)
    except (RuntimeError, OSError, ImportError, SubprocessError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("torch.compile does not work here, so the network is not compiled: %s", reason)
        return network
    finally:
        network.zero_grad(set_to_none=True)
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    logger.info("compiled the network in %.0f s", time.monotonic() - began)
    return compiled


def _train_once(network: nn.Module, image: Tensor, precision: torch.dtype) -> None:
    """Forward and backward, so that both are compiled."""
    with torch.autocast(image.device.type, precision, enabled=precision != torch.float32):
        outputs = network(image)
    levels = [outputs] if isinstance(outputs, Tensor) else outputs
    torch.stack([logits.float().mean() for logits in levels]).sum().backward()  # type: ignore[no-untyped-call]
