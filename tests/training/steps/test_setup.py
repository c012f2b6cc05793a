import pytest
import torch
from torch import nn
from torch.cuda._utils import _get_device_index
from typing_extensions import override

from autoseg.training.probe import NOISE_ENCODING as ENCODING
from autoseg.training.probe import measured_configuration
from autoseg.training.steps.run import StepSettings
from autoseg.training.steps.setup import build_initial_network, compile_network, should_compile, start_run, use_gpu
from tests.training.small_runs import start_on_cpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def start(architecture="unet", **network):
    configuration = measured_configuration(2, 8, architecture)
    configuration = configuration.model_copy(update={"network": configuration.network.model_copy(update=network)})
    return start_on_cpu(configuration, ENCODING)


@pytest.mark.parametrize("architecture", ["unet", "residual_unet", "unext"])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_loss_expects_as_many_outputs_as_the_network_gives(architecture, deep_supervision):
    run = start(architecture, deep_supervision=deep_supervision)
    outputs = run.training_call.train()(torch.zeros(2, 1, 64, 64))
    expected = 3 if deep_supervision else 1
    assert len(run.loss.level_weights) == expected
    assert expected == (1 if isinstance(outputs, torch.Tensor) else len(outputs))


def test_every_trained_parameter_gets_a_gradient():
    run = start(deep_supervision=True)
    loss = run.loss(run.training_call.train()(torch.randn(2, 1, 64, 64)), torch.ones(2, 64, 64, dtype=torch.int64))
    loss.backward()
    idle = [name for name, value in run.network.named_parameters() if value.requires_grad and value.grad is None]
    frozen = [name for name, value in run.network.named_parameters() if not value.requires_grad]
    assert not idle
    assert frozen == ["decoder.heads.2.weight", "decoder.heads.2.bias"]


def test_what_is_frozen_beforehand_is_not_optimised():
    configuration = measured_configuration(2, 8)
    network = build_initial_network(configuration, 0)
    network.get_submodule("encoder").requires_grad_(requires_grad=False)
    run = start_run(network, configuration, ENCODING, StepSettings(CPU, torch.float32))
    optimised = {id(value) for group in run.optimizer.param_groups for value in group["params"]}
    assert optimised
    assert not any(id(value) in optimised for value in run.network.get_submodule("encoder").parameters())


@pytest.mark.parametrize(("name", "numbers"), [("cuda", []), ("cuda:1", [1])])
def test_a_gpu_without_a_number_is_the_current_one(monkeypatch, name, numbers):
    chosen = []
    # what set_device does first; the rest of it needs a GPU
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(_get_device_index(device)))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    use_gpu(torch.device(name))
    assert chosen == numbers


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
    assert should_compile(choice, device, steps, seconds) is expected


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
