"""Everything that a training step needs, built once before the first step; compiled where that pays."""

import logging

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autoseg.networks.build import build_network
from autoseg.networks.detection.mask_rcnn import MaskRCNN
from autoseg.networks.device_types import device_type
from autoseg.networks.layout import choose_layout, place_network
from autoseg.networks.unet import UNet
from autoseg.records.checkpoint import CompilingTrial
from autoseg.records.dataset import LabelEncoding
from autoseg.records.mirrored_sides import find_training_swap
from autoseg.records.network import NetworkSpec, list_head_levels
from autoseg.records.plan import Configuration
from autoseg.training.data.augmentation.on_device import build_device_augmentation
from autoseg.training.data.batch import Share
from autoseg.training.losses import SegmentationLoss, build_loss
from autoseg.training.losses.objects import ObjectLoss
from autoseg.training.steps.averaging import WeightAverage
from autoseg.training.steps.compiling import compile_network, try_compiling
from autoseg.training.steps.optimizer import build_optimizer
from autoseg.training.steps.run import StepSettings, TrainingRun

logger = logging.getLogger("autoseg.train")


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
    network = place_network(network, configuration.network, device)
    loss: SegmentationLoss | ObjectLoss
    if isinstance(network, MaskRCNN):
        loss, trial = ObjectLoss(network), None
        call = _in_parallel(loss, settings)
    else:
        loss = build_loss(
            encoding,
            name=spec.loss,
            batch_dice=spec.batch_dice,
            num_outputs=len(list_head_levels(configuration.network)),
            across_ranks=settings.ranks.sum,
            has_points=configuration.network.head == "points",
        )
        _freeze_weightless_heads(network, loss, configuration.network)
        call, trial = _training_call(network, configuration, settings)
    swap = find_training_swap(spec, encoding)
    return TrainingRun(
        network=network,
        average=None if spec.weight_average_decay is None else WeightAverage(network, spec.weight_average_decay),
        training_call=call,
        loss=loss,
        optimizer=build_optimizer(network, spec),
        scaler=torch.amp.GradScaler(device.type, enabled=row.has_scaler and settings.precision == torch.float16),
        augmentation=build_device_augmentation(configuration, swap=swap) if row.is_gpu else None,
        copy_stream=row.module.Stream(device) if row.has_streams else None,
        spec=spec,
        encoding=encoding,
        settings=settings,
        compiling=trial,
        layout=_layout(configuration, device),
    )


def use_gpu(device: torch.device) -> None:
    """Make a GPU the current one, to which pinned memory belongs; let cuDNN try its ways for the one batch shape."""
    if device.index is not None:  # without a number it means the current one, and torch refuses to set it
        device_type(device).module.set_device(device)
    torch.backends.cudnn.benchmark = True


def _training_call(
    network: nn.Module, configuration: Configuration, settings: StepSettings
) -> tuple[nn.Module, CompilingTrial | None]:
    """The network itself, compiled, or in parallel; all of them share its parameters. And what a trial decided."""
    call, trial, ranks = network, None, settings.ranks
    if settings.compiled is not False:
        samples = len(Share(ranks.rank, ranks.count).samples(configuration.batch_size))
        shape = (samples, configuration.network.input_channels, *configuration.patch_size)
        layout = _layout(configuration, settings.device)
        image = torch.zeros(shape, device=settings.device).contiguous(memory_format=layout)
        if settings.compiled:
            call = compile_network(network, image, settings.precision)
        else:
            call, trial = try_compiling(network, image, settings)
    return _in_parallel(call, settings, finds_unused=not isinstance(network, UNet)), trial


def _in_parallel(call: nn.Module, settings: StepSettings, *, finds_unused: bool = False) -> nn.Module:
    """The call itself, or with gradients that all processes share; some parameters may have none in a step."""
    if settings.ranks.count == 1:
        return call
    if any(True for _ in call.buffers()):
        logger.info("batch normalisation: every process takes the statistics of its own part of the batch")
    return DistributedDataParallel(call, find_unused_parameters=finds_unused)


def _layout(configuration: Configuration, device: torch.device) -> torch.memory_format:
    return choose_layout(configuration.network.dimensions, configuration.network.normalization, device)


def _freeze_weightless_heads(network: nn.Module, loss: SegmentationLoss, spec: NetworkSpec) -> None:
    """The head of the lowest level never gets a gradient, and several processes would wait for one.

    Which of its parameters belong to it only a network made here can tell; see `_training_call` for others.
    """
    if not isinstance(network, UNet):
        return
    first = 0 if spec.skip == "nested" else spec.coarse_level
    for position, weight in enumerate(loss.level_weights, start=first):
        if weight == 0.0:
            network.get_submodule(f"decoder.heads.{position}").requires_grad_(requires_grad=False)
