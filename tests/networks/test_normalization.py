import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoseg.networks.blocks import ConvolutionBlock, InstanceNormalization, choose_layers

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
TORCHS = {4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
SHAPES = [(2, 3, 5, 7), (3, 8, 4, 6, 5), (1, 4, 3, 5, 7), (2, 16, 1, 5, 3), (2, 1, 3, 5), (2, 32, 6, 1)]


def both(shape, dtype=torch.float32):
    """Ours, torch's, and features with a mean far from zero; in double precision, the oracle's."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    ours = InstanceNormalization(shape[1], eps=1e-5)
    with torch.no_grad():
        ours.weight.normal_(generator=generator)
        ours.bias.normal_(generator=generator)
    oracle = TORCHS[len(shape)](shape[1], eps=1e-5, affine=True)
    oracle.load_state_dict(ours.state_dict())
    features = (torch.randn(shape, generator=generator) * 3 + 10).to(dtype)
    gradient = torch.randn(shape, generator=generator).to(dtype)
    return ours, oracle.double(), features, gradient


def derivatives(module, features, gradient):
    features = features.clone().requires_grad_()
    module.zero_grad()
    output = module(features)
    output.backward(gradient)
    return output.detach(), features.grad, module.weight.grad, module.bias.grad


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_channels_last", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.02)])
def test_values_and_gradients_are_those_of_torchs_layer_in_double_precision(shape, is_channels_last, dtype, tolerance):
    ours, oracle, features, gradient = both(shape, dtype)
    layout = LAYOUTS[len(shape)] if is_channels_last else torch.contiguous_format
    found = derivatives(ours, features.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout))
    expected = derivatives(oracle, features.double(), gradient.double())
    assert [tensor.dtype for tensor in found] == [dtype, dtype, torch.float32, torch.float32]
    for ours_tensor, oracle_tensor in zip(found, expected, strict=True):
        scale = float(oracle_tensor.abs().max())
        torch.testing.assert_close(ours_tensor.double(), oracle_tensor, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("shape", [(1, 4, 5, 7), (1, 4, 3, 5, 7), (2, 4, 3, 5, 7)])
@pytest.mark.parametrize("is_channels_last", [True, False])
def test_a_gradient_in_the_other_layout_is_understood(shape, is_channels_last):
    ours, oracle, features, gradient = both(shape)
    layouts = [LAYOUTS[len(shape)], torch.contiguous_format]
    own, other = layouts if is_channels_last else reversed(layouts)
    found = derivatives(ours, features.contiguous(memory_format=own), gradient.contiguous(memory_format=other))
    for ours_tensor, expected in zip(found, derivatives(oracle, features.double(), gradient.double()), strict=True):
        torch.testing.assert_close(ours_tensor.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 3, 5), (2, 3, 2, 3, 5)])
def test_gradient_in_channels_last_agrees_with_finite_differences(shape):
    ours, _, features, _ = both(shape, torch.float64)
    features = features.contiguous(memory_format=LAYOUTS[len(shape)]).requires_grad_()
    weight, bias = (parameter.detach().double().requires_grad_() for parameter in (ours.weight, ours.bias))

    def forward(features, weight, bias):
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, (features,))

    assert torch.autograd.gradcheck(forward, (features, weight, bias))


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 8, 4, 6, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_stays_channels_last_forwards_and_backwards(shape, dtype):
    ours, _, features, gradient = both(shape, dtype)
    layout = LAYOUTS[len(shape)]
    output, features_gradient, _, _ = derivatives(
        ours, features.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
    )
    assert output.is_contiguous(memory_format=layout)
    assert features_gradient.is_contiguous(memory_format=layout)


@given(st.integers(1, 3), st.integers(1, 9), st.lists(st.integers(1, 6), min_size=2, max_size=3))
@settings(max_examples=40, deadline=None)
def test_layout_does_not_change_the_result(batch, channels, sizes):
    if math.prod(sizes) == 1:
        sizes[0] = 2
    shape = (batch, channels, *sizes)
    ours, _, features, _ = both(shape)
    expected = ours(features)
    found = ours(features.contiguous(memory_format=LAYOUTS[len(shape)]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_samples_do_not_see_each_other():
    ours, _, features, _ = both((3, 4, 5, 7))
    features = features.contiguous(memory_format=torch.channels_last)
    together = ours(features)
    with torch.no_grad():
        features[1] = 1000.0
    changed = ours(features)
    assert torch.equal(changed[0], together[0])
    assert torch.equal(changed[2], together[2])


@pytest.mark.parametrize(
    ("shape", "layout"), [((1, 3, 4, 5), torch.contiguous_format), ((2, 3, 4, 5), torch.channels_last)]
)
def test_prediction_gives_what_training_gives(shape, layout):
    ours, _, features, _ = both(shape)
    features = features.contiguous(memory_format=layout)
    expected = ours(features)
    with torch.inference_mode():
        found = ours.eval()(features)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (1, 8, 6, 4, 5), (3, 5, 1, 6, 3), (2, 1, 4, 3), (2, 32, 6, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 0.02), (torch.float64, 1e-9)])
def test_prediction_gives_what_torchs_layer_gives_in_double_precision(shape, dtype, tolerance):
    ours, oracle, features, _ = both(shape, dtype)
    before = features.clone()
    with torch.inference_mode():
        found = ours(features.contiguous(memory_format=LAYOUTS[len(shape)]))
        expected = oracle(features.double())
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=LAYOUTS[len(shape)])
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    assert torch.equal(features, before)


def test_two_runs_give_the_same_bits():
    ours, _, features, gradient = both((3, 8, 6, 7, 5), torch.bfloat16)
    features = features.contiguous(memory_format=torch.channels_last_3d)
    first, second = (derivatives(ours, features, gradient) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_what_is_kept_for_the_backward_pass_does_not_grow():
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    block = ConvolutionBlock(choose_layers(3), 2, 8, (3, 3, 3), (1, 1, 1))
    block.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    own = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    image = torch.randn(2, 2, 4, 6, 5).contiguous(memory_format=torch.channels_last_3d)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = block(image)
    large = sum(size for address, size in kept.items() if address not in own and size > 2 * 8 * 4)
    assert large == 4 * (image.numel() + 2 * output.numel())  # the input, the convolution's output, the activation


def test_a_compiler_sees_one_operation_for_the_whole_batch():
    graphs = []

    def record(graph, _inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    ours, _, features, _ = both((3, 8, 4, 6, 5))
    features = features.contiguous(memory_format=torch.channels_last_3d)
    found = torch.compile(ours, backend=record)(features)
    assert len(graphs) == 1
    assert [target for target in graphs[0] if "norm" in target and "instance" in target]
    assert not [target for target in graphs[0] if "batch_norm" in target]
    torch.testing.assert_close(found, ours(features))
