"""Several processes that train one network together: their ranks and messages.

torchrun starts them, on one machine through `launch` or on several by its own command. Each one takes its part of
every batch; sums that the loss is made of, and everything that has to be decided alike, go through `Ranks`.
"""

import logging
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from typing_extensions import override

from autoseg.errors import UsageError
from autoseg.networks.device_types import device_type
from autoseg.system import count_cores

SIGNALLED = 128
"""Added to the number of a signal, it is the exit code of a process that the signal stopped."""

SECONDS_BETWEEN_LOOKS = 1.0
"""Interval in which a process checks whether torchrun is still running."""

_PROCESSES_HERE = "LOCAL_WORLD_SIZE"
"""torchrun's own name for how many processes it started on this machine."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, seen from one of them; the default stands for a process alone."""

    rank: int = 0
    count: int = 1
    count_here: int = 1
    """Those that share this machine's cores and memory."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes, logs and decides for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, differentiable.

        The gradient is exact on one condition: every process makes the same use of the sum, so that the gradients
        coming back are equal everywhere. After the mean over processes that DistributedDataParallel takes, the
        parameters then have the gradient of the global batch.
        """
        if self.count == 1:
            return tensor
        total: Tensor = _Sum.apply(tensor, self.count)  # type: ignore[no-untyped-call]
        return total

    def broadcast_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Give every process the numbers of the first one; the other processes' count only by how many they are."""
        if self.count == 1:
            return list(numbers)
        message = torch.tensor(numbers, dtype=torch.float64)
        dist.broadcast(message, src=0)
        received: list[float] = message.tolist()
        return received

    def agree(self, progress: float, *, stop: bool) -> tuple[float, bool]:
        """The first process's progress, and whether any process was asked to stop: the same answer everywhere."""
        if self.count == 1:
            return progress, stop
        message = torch.tensor([progress if self.is_first else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(message)
        return float(message[0]), bool(message[1] > 0)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.agree(0.0, stop=False)


class _Sum(torch.autograd.Function):
    """All-reduce; backward multiplies by the number of processes instead of summing equal gradients over them."""

    @staticmethod
    @override
    def forward(ctx: FunctionCtx, tensor: Tensor, count: int) -> Tensor:
        ctx.count = count  # type: ignore[attr-defined]
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @override
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.count, None  # type: ignore[attr-defined]


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_torchelastic_launched()


def is_first_process() -> bool:
    """Whether this process speaks to the user; also known before and after the processes are joined."""
    if dist.is_initialized():
        return dist.get_rank() == 0
    return not is_launched() or int(os.environ["RANK"]) == 0  # torchrun's own name for it


def leave(code: int) -> NoReturn:
    """End this process at once, without taking the interpreter down first; everything must be closed by now.

    gloo's threads outlive the process group, and one may still hold the last reference to a message. If it releases
    it after Python has begun to end, Python ends that thread while it runs C++, which aborts the process (SIGABRT,
    "terminate called without an active exception"): a training that succeeded would then count as failed.

    Args:
        code: Exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def device_of_process(device: torch.device) -> torch.device:
    """The device of this process: on a GPU machine its own one, by its number among the machine's processes.

    Raises:
        UsageError: If several processes are to share one GPU, or this type of device trains in one process.
    """
    row = device_type(device)
    if not is_launched() or not row.is_gpu:
        return device
    if row.backend is None:
        raise UsageError(f"device {device} trains in one process; leave --devices out, or use --device cpu")
    if str(device) != device.type:
        raise UsageError(
            f"device {device} names one GPU, but several processes need one each; use --device {device.type}"
        )
    processes, found = int(os.environ.get(_PROCESSES_HERE, "1")), row.module.device_count()
    if processes > found:  # raised in each of them, since only the first one's errors are shown
        raise UsageError(
            f"{processes} processes of this machine need a GPU each, and it has {found}. Start as many, or use "
            "--device cpu."
        )
    return torch.device(device.type, dist.get_node_local_rank())


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started; a process alone gets `Ranks()`.

    Messages on the CPU go through gloo, gradients on a GPU through the backend of its type.

    Args:
        device: Device of this process.
    """
    if dist.is_initialized():
        yield _joined_ranks()
        return
    if not is_launched():
        yield Ranks()
        return
    threading.Thread(target=_stop_without_launcher, args=(os.getppid(),), daemon=True).start()
    row = device_type(device)
    dist.init_process_group(f"cpu:gloo,{row.name}:{row.backend}" if row.is_gpu else "gloo")
    with warnings.catch_warnings():
        # kernels of one voxel lie in memory as they should, only torch has two descriptions of it
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        yield _joined_ranks()
    # only after success: after an error the others wait in an exchange, and nccl would wait for them
    dist.destroy_process_group()


def _joined_ranks() -> Ranks:
    """The joined processes; torchrun says how many are on this machine, other starters keep all of them on one."""
    count = dist.get_world_size()
    return Ranks(dist.get_rank(), count, int(os.environ.get(_PROCESSES_HERE, count)))


def _stop_without_launcher(launcher: int) -> None:
    """Ask this process to stop when the one that started it is gone; else it would continue to train without it."""
    while os.getppid() == launcher:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)


def launch(count: int, arguments: Sequence[str]) -> int:
    """Start `python -m autoseg ARGUMENTS` several times on this machine, wait, and give the exit code.

    SIGTERM and SIGINT are passed on; the processes then have 30 s to finish their step and to write a checkpoint.

    Args:
        count: Processes, one per device.
        arguments: Command and options, without the program's name.

    Returns:
        0 if every process succeeded, else the exit code of the first one that failed; 128 + n after signal n.

    Raises:
        UsageError: If torchrun started this process, which would start more without end.
    """
    if is_launched():
        raise UsageError("torchrun has started this process already; it cannot start others")
    # as torchrun's own command does, but with all cores instead of one per process
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "autoseg", *arguments)
    except SignalException as error:
        return SIGNALLED + error.sigval
    except ChildFailedError as error:
        return max(error.get_first_failure()[1].exitcode, 1)  # negative: the number of a signal
    return 0
