"""torch.compile for training: when it pays, and what happens where it does not work."""

import logging
import time
from typing import Literal

import torch
from torch import Tensor, nn

logger = logging.getLogger("autoseg.train")

MIN_SECONDS = 600.0
"""A training shorter than this and than MIN_STEPS ends before the time for compiling is earned back."""

MIN_STEPS = 5000


def pays_to_compile(
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
    except (RuntimeError, OSError, ImportError) as error:
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
