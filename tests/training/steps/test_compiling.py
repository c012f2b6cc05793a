import pytest
import torch
from torch import nn
from typing_extensions import override

from autoseg.training.steps.compiling import compile_network, pays_to_compile

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("choice", "device", "steps", "seconds", "expected"),
    [
        ("on", CPU, 1, 1.0, True),
        ("off", CUDA, 10**6, None, False),
        ("auto", CPU, 10**6, 1e6, False),
        ("auto", CUDA, 5001, None, True),
        ("auto", CUDA, 5000, None, False),
        ("auto", CUDA, 10**6, 600.0, False),
        ("auto", CUDA, 10, 601.0, True),
    ],
)
def test_compiling_pays_on_a_gpu_for_a_long_training(choice, device, steps, seconds, expected):
    assert pays_to_compile(choice, device, steps, seconds) is expected


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU())


def test_where_compiling_fails_the_network_is_used_as_it_is(monkeypatch, caplog):
    class Failing(nn.Module):
        @override
        def forward(self, _image):
            raise RuntimeError("no compiler\nand many more lines")

    monkeypatch.setattr(torch, "compile", lambda _network, **_options: Failing())
    network = small_network()
    assert compile_network(network, torch.zeros(2, 1, 4, 6), torch.float32) is network
    assert caplog.messages == ["torch.compile does not work here, so the network is not compiled: no compiler"]


def test_trying_it_out_leaves_the_network_as_it_was(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_options: network)
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    compile_network(network, torch.randn(2, 1, 4, 6), torch.float32)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


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
