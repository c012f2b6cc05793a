from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoseg.networks.blocks import ConvolutionBlock, choose_layers, initialize_weights


def test_block_is_convolution_then_instance_normalisation_then_leaky_relu():
    torch.manual_seed(3)
    block = ConvolutionBlock(choose_layers(3), 2, 4, (1, 3, 3), (1, 2, 2))
    image = torch.randn(2, 2, 3, 7, 11)
    convolution = block.convolution
    expected = F.conv3d(image, convolution.weight, convolution.bias, stride=(1, 2, 2), padding=(0, 1, 1))
    mean = expected.mean(dim=(2, 3, 4), keepdim=True)
    variance = expected.var(dim=(2, 3, 4), keepdim=True, unbiased=False)
    expected = (expected - mean) / torch.sqrt(variance + 1e-5)
    expected = torch.where(expected > 0, expected, 0.01 * expected)
    assert expected.shape == (2, 4, 3, 4, 6)
    torch.testing.assert_close(block(image), expected)


def test_block_with_batch_normalisation_is_normalised_over_the_batch_too():
    torch.manual_seed(4)
    block = ConvolutionBlock(choose_layers(2, "batch"), 2, 3, (3, 5), (1, 1), activation=nn.Identity())
    image = torch.randn(4, 2, 5, 7) + torch.arange(4.0).view(4, 1, 1, 1)
    expected = F.conv2d(image, block.convolution.weight, block.convolution.bias, padding=(1, 2))
    mean = expected.mean(dim=(0, 2, 3), keepdim=True)
    variance = expected.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(block(image), (expected - mean) / torch.sqrt(variance + 1e-5))


def test_block_without_bias_and_with_another_activation():
    block = ConvolutionBlock(choose_layers(2), 1, 2, (1, 1), (1, 1), bias=False, activation=nn.ReLU())
    assert block.convolution.bias is None
    assert block(torch.randn(1, 1, 5, 7)).min() == 0


def test_normalisation_is_affine_with_learnt_scale_and_shift():
    block = ConvolutionBlock(choose_layers(2), 1, 3, (3, 3), (1, 1))
    with torch.no_grad():
        block.normalization.weight.zero_()
        block.normalization.bias.copy_(torch.tensor([1.0, 2.0, -3.0]))
    output = block(torch.randn(1, 1, 5, 7))
    torch.testing.assert_close(output[0, :, 0, 0], torch.tensor([1.0, 2.0, -0.03]))


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Conv3d(16, 48, (1, 3, 3)), 16 * 9),
        (nn.Conv2d(64, 40, 3), 64 * 9),
        (nn.ConvTranspose3d(96, 32, (1, 2, 2)), 32 * 4),  # torch counts a transposed kernel's second axis
    ],
)
def test_weights_start_with_hes_deviation_and_biases_with_zero(layer, fan_in):
    torch.manual_seed(0)
    initialize_weights(nn.Sequential(layer, nn.LeakyReLU()))
    assert layer.bias.abs().max() == 0
    deviation = sqrt(2 / (1 + 0.01**2) / fan_in)
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.03)
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.03 * deviation)


def test_linear_layers_start_with_small_weights_and_zero_biases():
    torch.manual_seed(0)
    layer = nn.Linear(70, 110)
    initialize_weights(nn.Sequential(layer))
    assert layer.bias.abs().max() == 0
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.001)


def test_normalisation_layers_start_with_one_and_zero():
    block = ConvolutionBlock(choose_layers(3), 1, 5, (3, 3, 3), (1, 1, 1))
    initialize_weights(block)
    assert block.normalization.weight.tolist() == [1.0] * 5
    assert block.normalization.bias.tolist() == [0.0] * 5


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_single_small_image_is_convolved_as_in_training(dimensions):
    layers = choose_layers(dimensions)
    kernel, stride = (3, 1, 3)[-dimensions:], (2, 1, 2)[-dimensions:]
    block = ConvolutionBlock(layers, 3, 5, kernel, stride)
    image = torch.randn(1, 3, *(8, 6, 7)[-dimensions:])
    expected = block(image)
    for layout in (torch.contiguous_format, torch.channels_last if dimensions == 2 else torch.channels_last_3d):
        with torch.inference_mode():
            found = block(image.contiguous(memory_format=layout))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 6, 3), (4, 4, 4)])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), (1, 1, 1)), ((3, 3, 3), (1, 2, 2)), ((1, 3, 3), (1, 1, 1))])
def test_gradients_of_weights_in_bf16_are_those_of_float32(shape, kernel, stride):
    """oneDNN's own are full of what lay in memory where three rows of weights meet two slices."""
    torch.manual_seed(5)
    convolution = choose_layers(3).convolution(
        16, 16, kernel_size=kernel, stride=stride, padding=tuple(size // 2 for size in kernel)
    )
    for _ in range(8):
        torch.full((1 << 16,), float("nan"))  # freed at once: what may be read by mistake
        image = torch.randn(2, 16, *shape).contiguous(memory_format=torch.channels_last_3d)
        gradients = []
        for is_half in (True, False):
            convolution.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                output = convolution(image)
            assert output.dtype == (torch.bfloat16 if is_half else torch.float32)
            output.float().square().sum().backward()
            assert convolution.weight.grad is not None
            gradients.append(convolution.weight.grad.clone())
        error = torch.linalg.vector_norm(gradients[0] - gradients[1]) / torch.linalg.vector_norm(gradients[1])
        assert error < 0.02
