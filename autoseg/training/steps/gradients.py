"""The gradients of one batch, in as much memory as there is.

    whole batch -> activations computed again in the backward pass -> half of the samples at a time -> ... -> one

A batch that runs out of memory is computed again with the next saving, which all later batches keep. Every saving costs
time and gives the same gradients, but for the order of floating-point sums.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from autoseg.networks.devices import is_out_of_memory, release_cached_memory
from autoseg.networks.points import list_training_inputs
from autoseg.networks.unet import UNet
from autoseg.training.losses.objects import ObjectLoss
from autoseg.training.losses.regularizers import regularize
from autoseg.training.steps.run import MemorySaving, TrainingRun

logger = logging.getLogger("autoseg.train")


def compute_gradients(
    run: TrainingRun, image: Tensor, target: Tensor, progress: float, maps: Sequence[Tensor] = ()
) -> Tensor:
    """Put the gradients of one batch into the parameters, with less and less memory if it does not suffice.

    Args:
        run: Its parameters get gradients, multiplied by the scale of fp16; its `saving` grows where memory is missing.
        image: (B, C, *S), on the device.
        target: Label indices, (B, *S); codes where the network finds objects.
        progress: Fraction of the training that is done, [0, 1].
        maps: Maps of the reference by level that the loss needs, as the loader made them.

    Returns:
        The loss, a scalar without gradient.

    Raises:
        RuntimeError, MemoryError: Errors of torch; out of memory only if nothing can be saved any more.
    """
    buffers = [(buffer, buffer.clone()) for buffer in run.network.buffers()]
    while True:
        run.optimizer.zero_grad(set_to_none=True)
        try:
            return _compute_once(run, image, target, progress, maps)
        except (RuntimeError, MemoryError) as error:
            saving = _next_saving(run, len(image))
            if saving is None or not is_out_of_memory(error):
                raise
        # here, not above: the error holds the tensors of the failed attempt
        _set(buffers)
        release_cached_memory(run.settings.device)
        _adopt(run, saving)


def _compute_once(run: TrainingRun, image: Tensor, target: Tensor, progress: float, maps: Sequence[Tensor]) -> Tensor:
    if isinstance(run.loss, ObjectLoss):
        return _compute_of_objects(run, image, target, progress)
    samples = run.saving.samples
    compare = partial(_compare, run=run, image=image, target=target, progress=progress, maps=maps)
    inputs = list_training_inputs(run.network, image, (run.settings.seed, run.settings.ranks.rank, run.step))
    if samples is not None and samples < len(image):
        parts = zip(*(torch.split(each, samples) for each in inputs), strict=True)
        return _compute_in_parts(run, list(parts), target, compare)
    with run.autocast():
        outputs = run.training_call(*inputs)
    loss = compare(outputs)
    run.foreground.add(_levels(outputs)[0].detach(), target)
    buffers = [(buffer, buffer.clone()) for buffer in run.network.buffers()] if run.saving.recompute else []
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    _set(buffers)  # what is computed again would count twice in the statistics of batch normalisation
    return loss.detach()


def _compare(
    outputs: Tensor | list[Tensor],
    *,
    run: TrainingRun,
    image: Tensor,
    target: Tensor,
    progress: float,
    maps: Sequence[Tensor],
) -> Tensor:
    """The loss, with the regulariser of the plan at the finest level of logits."""
    loss = run.loss(outputs, target, progress, maps)
    name = run.spec.regularizer
    if name == "none":
        return loss
    return loss + regularize(name, _levels(outputs)[0], image, target, run.encoding)


def _compute_of_objects(run: TrainingRun, image: Tensor, codes: Tensor, progress: float) -> Tensor:
    """The same for a network that finds objects, whose loss goes through it twice: for proposals and for regions."""
    with run.autocast():
        loss: Tensor = run.training_call(image, codes, progress)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _compute_in_parts(
    run: TrainingRun,
    parts: Sequence[tuple[Tensor, ...]],
    target: Tensor,
    compare: Callable[[Tensor | list[Tensor]], Tensor],
) -> Tensor:
    """The same gradients with the activations of few samples in memory.

    The loss may compare samples with each other, as the Dice of a batch does, so its gradient with respect to the
    logits of the whole batch comes first; then every part goes through the network once more, and takes its share.

    References:
        Gao et al., "Scaling deep contrastive learning batch size under memory limited setup" (GradCache), 2021.
    """
    with torch.no_grad(), run.autocast():
        outputs = [_levels(run.training_call(*part)) for part in parts]
    joined = [torch.cat(level) for level in zip(*outputs, strict=True)]
    # the voxels of points come last, and are no numbers with a gradient
    logits = [each.requires_grad_() for each in joined if each.is_floating_point()]
    run.foreground.add(logits[0].detach(), target)
    loss = compare(joined if len(joined) > 1 else joined[0])
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(run.scaler.scale(loss), logits, allow_unused=True)
    used = [level for level, gradient in enumerate(gradients) if gradient is not None]  # a level may have weight 0
    shares = [torch.split(gradient, len(parts[0][0])) for gradient in gradients if gradient is not None]
    for part, *share in zip(parts, *shares, strict=True):
        with run.autocast():
            levels = _levels(run.training_call(*part))
        torch.autograd.backward([levels[level] for level in used], share)
    return loss.detach()


def _levels(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    """All outputs, of a network with several or with one."""
    return [outputs] if isinstance(outputs, Tensor) else outputs


def _next_saving(run: TrainingRun, batch_size: int) -> MemorySaving | None:
    """What needs less memory than now; None if nothing does.

    Several processes wait for each other within a step, so none of them can repeat its part. Batch normalisation takes
    its statistics over the batch, which therefore stays whole.
    """
    if run.settings.ranks.count > 1 or not isinstance(run.network, UNet):
        return None
    if not run.saving.recompute:
        return MemorySaving(recompute=True)
    samples = (run.saving.samples or batch_size) // 2
    if samples == 0 or any(True for _ in run.network.buffers()):
        return None
    return MemorySaving(recompute=True, samples=samples)


def _adopt(run: TrainingRun, saving: MemorySaving) -> None:
    """Keep to a saving from now on, and say so; a compiled network would have to be compiled again."""
    run.saving = saving
    run.training_call = run.network
    if isinstance(run.network, UNet):
        run.network.recompute_activations = saving.recompute
    if saving.samples is None:
        how = "activations are computed again in the backward pass (a step takes about a third longer)"
    else:
        how = f"samples that go through the network at a time: {saving.samples} (a step takes about twice as long)"
    logger.warning(
        "the memory of %s is too small for a training step; from now on %s. The result stays the same.",
        run.settings.device, how,
    )  # fmt: skip


def _set(buffers: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give buffers their values: pairs of a buffer and a value."""
    for buffer, value in buffers:
        buffer.copy_(value)
