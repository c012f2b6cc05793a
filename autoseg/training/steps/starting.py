"""Everything that a training step needs, built once before the first step."""

import logging
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autoseg.networks.build import build_network
from autoseg.networks.devices import memory_format
from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import Configuration, TrainingSpec
from autoseg.training.data.augmentation.on_device import DeviceAugmentation
from autoseg.training.data.batch import Share
from autoseg.training.distributed import Ranks
from autoseg.training.losses import SegmentationLoss, build_loss
from autoseg.training.steps.averaging import WeightAverage
from autoseg.training.steps.compiling import compile_network
from autoseg.training.steps.loop import TrainingRun
from autoseg.training.steps.optimizer import build_optimizer

logger = logging.getLogger("autoseg.train")


def start_run(
    configuration: Configuration,
    spec: TrainingSpec,
    encoding: LabelEncoding,
    device: torch.device,
    precision: torch.dtype,
    *,
    seed: int,
    ranks: Ranks | None = None,
    compiled: bool = False,
    augmentation: DeviceAugmentation | None = None,
    prepare: Callable[[nn.Module], None] = lambda _network: None,
) -> TrainingRun:
    """Build network, loss and optimiser for the first step.

    Args:
        configuration: Describes the network.
        spec: The configuration's schedule, with the user's overrides.
        encoding: Labels of the dataset.
        device: Where to compute.
        precision: Type of autocast; float32: none.
        seed: Seed of the initial weights.
        ranks: Processes that train together; None: this one alone.
        compiled: Compile the training call.
        augmentation: What the training loader leaves to the device; None: nothing.
        prepare: Called with the new network, to load other weights or to freeze some.
    """
    torch.manual_seed(seed)
    if device.type == "cuda":
        use_gpu(device)
    ranks = ranks or Ranks()
    layout = memory_format(configuration.network.dimensions)
    network: nn.Module = build_network(configuration.network, deep_supervision=True)
    prepare(network)
    loss = build_loss(
        encoding,
        name=spec.loss,
        batch_dice=spec.batch_dice,
        num_outputs=_num_outputs(configuration),
        across_ranks=ranks.sum,
    )
    _freeze_weightless_heads(network, loss)
    network = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    return TrainingRun(
        network=network,
        training_call=_training_call(network, configuration, device, precision, ranks, compiled=compiled),
        loss=loss,
        optimizer=build_optimizer(network, spec),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        average=None if spec.weight_average_decay is None else WeightAverage(network, spec.weight_average_decay),
        spec=spec,
        encoding=encoding,
        device=device,
        precision=precision,
        ranks=ranks,
        augmentation=augmentation,
    )


def use_gpu(device: torch.device) -> None:
    """Make a GPU the current one, to which pinned memory belongs; let cuDNN try its ways for the one batch shape."""
    if device.index is not None:  # without a number it means the current one, and torch refuses to set it
        torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True


def _training_call(
    network: nn.Module,
    configuration: Configuration,
    device: torch.device,
    precision: torch.dtype,
    ranks: Ranks,
    *,
    compiled: bool,
) -> nn.Module:
    """The network itself, compiled, or in parallel; all of them share its parameters."""
    call = network
    if compiled:
        samples = len(Share(ranks.rank, ranks.count).samples(configuration.batch_size))
        image = torch.zeros((samples, configuration.network.input_channels, *configuration.patch_size), device=device)
        layout = memory_format(image.ndim - 2)
        call = compile_network(network, image.contiguous(memory_format=layout), precision)
    if ranks.count == 1:
        return call
    if any(True for _ in network.buffers()):
        logger.info("batch normalisation: every process takes the statistics of its own part of the batch")
    return DistributedDataParallel(call)


def _freeze_weightless_heads(network: nn.Module, loss: SegmentationLoss) -> None:
    """The head of the lowest level never gets a gradient, and several processes would wait for one."""
    for level, weight in enumerate(loss.level_weights):
        if weight == 0.0:
            network.get_submodule(f"decoder.heads.{level}").requires_grad_(requires_grad=False)


def _num_outputs(configuration: Configuration) -> int:
    """One per decoder level with deep supervision, else one."""
    network = configuration.network
    return len(network.features) - 1 if network.deep_supervision else 1
