"""cuDNN's kernels at prediction: all ways of a convolution are tried where windows of one shape keep coming."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

REPEATS: Final = 20
"""Passes of one shape after which trying pays. Trying takes about as long as so many passes: ten ways of each
convolution (torch's `backends.cudnn.benchmark_limit`), slow ones among them. Who waits as long as trying takes loses
half of the time at most. An estimate, not measured."""

_ONE_AT_A_TIME = threading.Lock()
"""The setting is torch's, one for the whole process: threads that set it and put it back take turns."""


@contextmanager
def tried_kernels(device: torch.device, *, are_worth_it: bool) -> Iterator[None]:
    """Let cuDNN try all its ways for shapes that are new to it, and keep the fastest; the setting is put back.

    Training has it on throughout (`training.steps.setup.use_gpu`); it stays as it is then.

    Args:
        device: Where the networks compute; nothing happens but on CUDA.
        are_worth_it: Whether the shape has come REPEATS times.
    """
    if not are_worth_it or device.type != "cuda" or torch.backends.cudnn.benchmark:
        yield
        return
    with _ONE_AT_A_TIME:
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before
