from math import cos, pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoseg.records.training import TrainingSpec
from autoseg.training.steps.optimizer import build_optimizer, learning_rate, set_learning_rate, step_unless


def spec(**changes) -> TrainingSpec:
    return TrainingSpec(mirror_axes=(), batch_dice=False, **changes)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 3, 3), nn.InstanceNorm3d(3, affine=True))


def test_sgd_is_nesterov_with_decay_on_every_parameter():
    network = small_network()
    optimizer = build_optimizer(network, spec())
    weights = {name: parameter.detach().clone().double() for name, parameter in network.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in weights.items()}
    for step in range(3):
        for name, parameter in network.named_parameters():
            gradient = torch.full_like(parameter, 0.1 * (step + 1))
            parameter.grad = gradient
            decayed = gradient.double() + 3e-5 * weights[name]
            velocity[name] = decayed if step == 0 else 0.99 * velocity[name] + decayed
            weights[name] -= 0.01 * (decayed + 0.99 * velocity[name])
        optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), weights[name], rtol=1e-5, atol=1e-6)


def test_adamw_decays_kernels_but_neither_biases_nor_normalisation():
    network = small_network()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = build_optimizer(network, spec(optimizer="adamw", learning_rate=0.1, weight_decay=0.5))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(network.named_parameters())
    torch.testing.assert_close(after["0.weight"].detach(), before["0.weight"] * (1 - 0.1 * 0.5))
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[name], before[name])


def test_adamw_first_step_is_the_learning_rate_against_the_gradients_sign():
    network = small_network()
    before = network.state_dict()["0.bias"].clone()
    optimizer = build_optimizer(network, spec(optimizer="adamw", learning_rate=0.003))
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, -2.0)
    optimizer.step()
    torch.testing.assert_close(network.state_dict()["0.bias"], before + 0.003)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_memory_format_of_the_weights_does_not_change_the_steps(name):
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last_3d):
        network = small_network().to(memory_format=memory_format)  # type: ignore[call-overload]
        optimizer = build_optimizer(network, spec(optimizer=name))
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            optimizer.zero_grad()
            # not .square() alone: of a normalised tensor its sum is constant, and the gradient rounding noise
            network(torch.randn(2, 2, 5, 6, 7, generator=generator)).relu().square().sum().backward()
            optimizer.step()
        results.append(network[0].weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_momentum_zero_is_allowed():
    network = small_network()
    before = network.state_dict()["0.bias"].clone()
    optimizer = build_optimizer(network, spec(momentum=0.0, weight_decay=0.0))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(network.state_dict()["0.bias"], before - 0.01)


def test_frozen_parameters_are_left_out():
    network = small_network()
    network[0].requires_grad_(False)
    groups = build_optimizer(network, spec(optimizer="adamw")).param_groups
    assert sum(parameter.numel() for group in groups for parameter in group["params"]) == 6


def test_learning_rate_is_set_in_every_group():
    optimizer = build_optimizer(small_network(), spec(optimizer="adamw"))
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [3e-5, 0.0]


@pytest.mark.parametrize("optimizer_type", ["sgd", "adamw"])
@pytest.mark.parametrize("is_bad", [False, True])
def test_in_fp16_a_step_is_skipped_although_its_gradients_are_finite(optimizer_type, is_bad):
    network = small_network()
    optimizer = build_optimizer(network, spec(optimizer=optimizer_type))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    scaler.scale(network(torch.randn(1, 2, 4, 5, 6)).square().mean()).backward()
    scaler.unscale_(optimizer)
    step_unless(torch.tensor(is_bad), optimizer, scaler)
    stayed = [torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert all(stayed) == is_bad
    assert scaler.get_scale() == (4.0 if is_bad else 8.0)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.01), (500, 0.005359), (999, 1.995e-5), (1000, 0.0)])
def test_poly_gives_the_published_values(epoch, expected):
    assert learning_rate(epoch / 1000, spec()) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_cosine_falls_from_peak_to_zero(progress):
    value = learning_rate(progress, spec(schedule="cosine", learning_rate=0.003))
    assert value == pytest.approx(0.003 * (1 + cos(pi * progress)) / 2, abs=1e-12)


def test_warmup_rises_linearly_and_the_schedule_runs_over_the_rest():
    warm = spec(warmup_fraction=0.2)
    assert learning_rate(0.0, warm) == 0.0
    assert learning_rate(0.05, warm) == pytest.approx(0.0025)
    assert learning_rate(0.2, warm) == pytest.approx(0.01)
    assert learning_rate(0.6, warm) == pytest.approx(0.01 * 0.5**0.9)
    assert learning_rate(1.0, warm) == 0.0


def test_whole_run_as_warmup_ends_at_the_peak():
    assert learning_rate(1.0, spec(warmup_fraction=1.0)) == pytest.approx(0.01)


@given(
    progress=st.floats(-0.5, 2.0),
    warmup=st.floats(0.0, 1.0),
    schedule=st.sampled_from(["poly", "cosine"]),
)
def test_learning_rate_stays_between_zero_and_peak(progress, warmup, schedule):
    value = learning_rate(progress, spec(warmup_fraction=warmup, schedule=schedule))
    assert 0.0 <= value <= 0.01


@given(st.floats(1.0, 5.0), st.sampled_from(["poly", "cosine"]))
def test_overtime_counts_as_the_end(progress, schedule):
    assert learning_rate(progress, spec(schedule=schedule)) == 0.0
