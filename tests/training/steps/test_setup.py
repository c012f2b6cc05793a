import pytest
import torch
from torch.cuda._utils import _get_device_index

from autoseg.networks.points import list_training_inputs
from autoseg.training.invented_data import NOISE_ENCODING as ENCODING
from autoseg.training.invented_data import measured_configuration
from autoseg.training.steps.run import StepSettings
from autoseg.training.steps.setup import build_initial_network, start_run, use_gpu
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


@pytest.mark.parametrize("skip", ["plain", "nested"])
def test_a_point_head_trains_the_levels_from_its_coarse_one_on(skip):
    run = start(head="points", coarse_level=1, skip=skip)
    image, target = torch.randn(2, 1, 64, 64), torch.ones(2, 64, 64, dtype=torch.int64)
    outputs = run.training_call.train()(*list_training_inputs(run.network, image, (0,)))
    assert len(run.loss.level_weights) == 2 == len(outputs) - 2
    run.loss(outputs, target).backward()
    idle = [name for name, value in run.network.named_parameters() if value.requires_grad and value.grad is None]
    frozen = [name for name, value in run.network.named_parameters() if not value.requires_grad]
    assert not idle
    lowest = "1" if skip == "nested" else "2"
    assert frozen == [f"decoder.heads.{lowest}.weight", f"decoder.heads.{lowest}.bias"]


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
