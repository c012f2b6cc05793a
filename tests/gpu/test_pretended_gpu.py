"""The pretended GPU refuses what a real one would refuse, and sees where the host waits."""

import numpy as np
import pytest
import torch

from tests.gpu.pretended_gpu import PlaceError, PretendedGpu


@pytest.fixture
def gpu():
    with PretendedGpu() as pretended:
        yield pretended


def test_numbers_are_those_of_the_cpu(gpu):
    values = torch.arange(6.0).reshape(2, 3)
    moved = values.to("cuda")
    assert moved.device == torch.device("cuda", 0)
    assert (moved * 2 + torch.ones(3, device="cuda")).cpu().tolist() == [[1, 3, 5], [7, 9, 11]]


def on_device(*shape):
    return torch.ones(shape, device="cuda")


FAULTS = {
    "a missing device=": lambda: on_device(3) + torch.ones(3),
    "a missing .to": lambda: torch.stack([on_device(3), torch.zeros(3)]),
    "weights on the host": lambda: torch.nn.Linear(3, 2)(on_device(1, 3)),
    "numpy of a device tensor": lambda: on_device(3).numpy(),
    "an array of a device tensor": lambda: np.asarray(on_device(3)),
    "indices on the device": lambda: torch.ones(3)[torch.zeros(2, dtype=torch.long, device="cuda")],
    "a generator of the host": lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    "a generator of the device": lambda: torch.randn(3, generator=torch.Generator("cuda")),
    "pinning on the device": lambda: on_device(3).pin_memory(),
    "a stream of the host": lambda: torch.ones(3).record_stream(torch.cuda.current_stream()),
    "a gradient on the host": lambda: (on_device(3).requires_grad_() * on_device(3)).backward(torch.ones(3)),
    "a table on the host": lambda: torch.where(on_device(3) > 0, torch.ones(3), on_device(3)),
    "cat over places": lambda: torch.cat((on_device(1), torch.ones(1))),
    "a sum into the host": lambda: torch.zeros(3).add_(on_device(3)),
    "lerp over places": lambda: torch.zeros(3).lerp_(on_device(3), 0.5),
    "a mask on the host": lambda: on_device(3).masked_fill(torch.ones(3, dtype=torch.bool), 0.0),
    "a matrix on the host": lambda: on_device(2, 3) @ torch.ones(3, 2),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_planted_faults_are_refused(gpu, fault):
    with pytest.raises((PlaceError, TypeError, RuntimeError), match=r"CPU|cpu|numpy|generator|device"):
        fault()


def test_moments_left_on_the_host_are_refused(gpu):
    weight = torch.nn.Parameter(on_device(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    weight.grad = on_device(3)
    optimizer.step()
    optimizer.state[weight]["momentum_buffer"] = torch.ones(3)
    with pytest.raises(PlaceError):
        optimizer.step()


@pytest.mark.parametrize(
    ("wait", "reason"),
    [
        (lambda: on_device(3).sum().item(), "aten._local_scalar_dense.default"),
        (lambda: on_device(3).tolist(), "tolist"),
        (lambda: on_device(3).cpu(), "copy to the host"),
        (lambda: torch.ones(3).to("cuda"), "copy from pageable memory"),
        (lambda: torch.ones(3).to("cuda", non_blocking=True), "copy from pageable memory"),
        (lambda: on_device(3)[on_device(3) > 0], "indexing with a mask"),
        (lambda: torch.tensor([1.0], device="cuda"), "tensor from Python numbers"),
        (lambda: on_device(3).nonzero(), "aten.nonzero.default"),
    ],
)
def test_waits_are_noted(gpu, wait, reason):
    wait()
    assert reason in [noted.reason for noted in gpu.waits]


def test_a_pinned_copy_does_not_wait(gpu):
    torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert gpu.waits == []


def test_afterwards_there_is_no_gpu():
    with PretendedGpu():
        assert torch.cuda.is_available()
    assert torch.ones(3).device == torch.device("cpu")
