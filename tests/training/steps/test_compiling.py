"""Whether compiling is earned back, with planted times; and that compiled code is for one kind of batch."""

import logging
import math
import time

import pytest
import torch
from torch import nn
from typing_extensions import override

from autoseg.records.checkpoint import CompilingTrial
from autoseg.training.distributed import Ranks
from autoseg.training.steps import compiling
from autoseg.training.steps.compiling import choose_compiling, compile_network, try_compiling
from autoseg.training.steps.run import StepSettings

CPU, CUDA, XPU = torch.device("cpu"), torch.device("cuda"), torch.device("xpu")
IMAGE = torch.zeros(2, 1, 4, 6)


def decided(device, *, compiled):
    return CompilingTrial(compiled=compiled, device=device, steps_left=5000, step_seconds=0.2)


@pytest.mark.parametrize(
    ("choice", "device", "steps", "seconds", "earlier", "expected"),
    [
        ("on", CPU, 1, 1.0, decided("cpu", compiled=False), True),
        ("off", CUDA, 10**6, None, decided("cuda", compiled=True), False),
        ("auto", CPU, 10**6, None, None, False),
        ("auto", CPU, 10**6, 1e6, None, False),
        ("auto", CUDA, 1000, None, None, None),
        ("auto", CUDA, 999, None, None, False),
        ("auto", CUDA, 10**6, 600.0, None, False),
        ("auto", CUDA, 10, 2400.0, None, None),
        ("auto", XPU, 10**6, None, None, False),
        ("auto", CUDA, 5, None, decided("cuda", compiled=True), True),
        ("auto", CUDA, 5, 60.0, decided("cuda", compiled=True), True),
        ("auto", CUDA, 10**6, None, decided("cuda", compiled=False), False),
        ("auto", CUDA, 10**6, None, decided("cpu", compiled=False), None),
        ("auto", CPU, 10**6, None, decided("cuda", compiled=True), False),
    ],
)
def test_what_is_measured_and_what_is_clear(choice, device, steps, seconds, earlier, expected):
    assert choose_compiling(choice, device, steps, seconds, earlier) is expected


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU())


@pytest.fixture
def planted(monkeypatch):
    """A network and a compiler that take the seconds that a test plants, on a clock of their own."""
    seconds = {"plain": 0.5, "compiling": 60.0, "compiled": 0.3}
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    torch.manual_seed(0)

    class Network(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.inner = small_network()

        @override
        def forward(self, image):
            self.calls += 1
            # what is measured begins after the first steps, in which libraries start
            now[0] += seconds["plain"] * (1 if self.calls > compiling.WARM_UP_STEPS else 50)
            return self.inner(image)

    class Compiled(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.is_compiled = network, False

        @override
        def forward(self, image):
            if seconds["compiling"] == math.inf:
                raise RuntimeError("no compiler\nand many more lines")
            now[0] += seconds["compiled"] if self.is_compiled else seconds["compiling"]
            self.is_compiled = True
            return self.network.inner(image)

    compiled = []

    def pretend_to_compile(network, **options):
        assert options == {"dynamic": False}
        compiled.append(network)
        return Compiled(network)

    monkeypatch.setattr(torch, "compile", pretend_to_compile)
    return Network(), seconds, compiled


def settings(steps=20_000, seconds=None, ranks=None):
    return StepSettings(CPU, torch.float32, ranks or Ranks(), steps_left=steps, seconds_left=seconds)


def test_what_earns_the_compiling_back_is_compiled(planted, caplog):
    caplog.set_level(logging.INFO, "autoseg.train")
    network, _, _ = planted
    call, trial = try_compiling(network, IMAGE, settings())
    assert call is not network
    assert (trial.compiled, trial.device, trial.steps_left) == (True, "cpu", 20_000)
    measured = (trial.step_seconds, trial.compiled_step_seconds, trial.compiling_seconds)
    assert measured == pytest.approx((0.5, 0.3, 60.0))
    assert caplog.messages[-1] == (
        "compiled: a step takes 0.300 s instead of 0.500 s (forward and backward); 300 steps earn the 60 s of "
        "compiling back, 20000 remain"
    )


@pytest.mark.parametrize(
    ("times", "steps", "seconds", "words"),
    [
        ({"compiled": 0.6}, 20_000, None, "not compiled: a step takes 0.600 s instead of 0.500 s"),
        (
            {"compiled": 0.49},
            5_000,
            None,
            "s (forward and backward); 6000 steps earn the 60 s of compiling back, 5000 remain",
        ),
        ({"compiling": 1500.0}, 1, 3_000.0, "; 7500 steps earn the 1500 s of compiling back, 6000 remain"),
        ({"compiling": math.inf}, 20_000, None, "not compiled: compiling failed"),
    ],
)
def test_what_does_not_is_not_compiled(planted, caplog, times, steps, seconds, words):
    caplog.set_level(logging.INFO, "autoseg.train")
    network, planted_seconds, compiled = planted
    planted_seconds.update(times)
    call, trial = try_compiling(network, IMAGE, settings(steps, seconds))
    assert call is network
    assert compiled == [network]
    assert not trial.compiled
    assert words in caplog.messages[-1]


@pytest.mark.parametrize(("steps", "seconds"), [(4_799, None), (10**6, 2_399.0)])
def test_too_short_a_rest_is_not_risked(planted, caplog, steps, seconds):
    caplog.set_level(logging.INFO, "autoseg.train")
    network, _, compiled = planted
    call, trial = try_compiling(network, IMAGE, settings(steps, seconds))
    assert (call, compiled, trial.compiled) == (network, [], False)
    assert "remain; compiling takes some 120 s, more than 5 % of that" in caplog.messages[-1]


def test_a_step_that_does_not_fit_into_memory_is_not_compiled(caplog):
    class Large(nn.Module):
        @override
        def forward(self, _image):
            raise torch.OutOfMemoryError("CUDA out of memory")

    network = Large()
    call, trial = try_compiling(network, IMAGE, settings())
    assert call is network
    assert trial == CompilingTrial(compiled=False, device="cpu", steps_left=20_000)


def test_the_first_process_decides_for_all(planted):
    class Second(Ranks):
        @override
        def broadcast_numbers(self, numbers):
            return [0.5] if len(numbers) == 1 else [60.0, 0.3]

    network, seconds, _ = planted
    seconds.update(plain=0.1, compiled=0.4)
    call, trial = try_compiling(network, IMAGE, settings(ranks=Second()))
    assert call is not network
    assert (trial.step_seconds, trial.compiled_step_seconds) == (0.5, 0.3)


def test_measuring_leaves_the_network_as_it_was(planted):
    network, _, _ = planted
    before = {name: value.clone() for name, value in network.state_dict().items()}
    call, _ = try_compiling(network, torch.randn(2, 1, 4, 6), settings())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert {id(parameter) for parameter in call.parameters()} == {id(parameter) for parameter in network.parameters()}


def test_where_compiling_fails_the_network_is_used_as_it_is(monkeypatch, caplog):
    class Failing(nn.Module):
        @override
        def forward(self, _image):
            raise RuntimeError("no compiler\nand many more lines")

    monkeypatch.setattr(torch, "compile", lambda _network, **_options: Failing())
    network = small_network()
    assert compile_network(network, IMAGE, torch.float32) is network
    assert caplog.messages == ["torch.compile does not work here, so the network is not compiled: no compiler"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_nothing_is_compiled_again(monkeypatch):
    """Neither for another shape nor in another mode; what is computed stays the same."""
    compilations = []

    def record(graph, _inputs):
        compilations.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **options: real(network, backend=record, **options))
    network = small_network()
    call = compile_network(network, IMAGE, torch.float32)
    assert len(compilations) == 1
    for image in (torch.randn(2, 1, 4, 6), torch.randn(1, 1, 4, 6), torch.randn(2, 1, 5, 7)):
        network.eval()
        expected = network(image)
        torch.testing.assert_close(call.eval()(image), expected)
    call.train()(torch.randn(2, 1, 4, 6))
    assert len(compilations) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_and_eager_steps_are_the_same(caplog):
    network = small_network()
    names = list(network.state_dict())
    image = torch.randn(2, 1, 4, 6)
    compiled = compile_network(network, image, torch.float32)
    if compiled is network:
        pytest.skip(f"no compiler here: {caplog.text}")
    assert list(network.state_dict()) == names
    torch.testing.assert_close(compiled.eval()(image), network.eval()(image), rtol=1e-5, atol=1e-6)
    compiled.train()(image).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
