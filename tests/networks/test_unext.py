import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autoseg.networks.build import build_network
from autoseg.networks.unet import UNet
from autoseg.records.network import NetworkSpec
from tests.networks.tokens_by_hand import normalized, perceptron_by_hand

PUBLISHED = NetworkSpec(
    architecture="unext",
    dimensions=2,
    input_channels=3,
    output_channels=1,
    features=(16, 16, 32, 128, 160, 256),
    strides=((1, 1), *((2, 2),) * 5),
    kernel_sizes=((3, 3),) * 6,
    encoder_blocks=(1,) * 6,
    decoder_blocks=(1,) * 5,
    normalization="batch",
    deep_supervision=False,
    token_levels=2,
)

ANISOTROPIC = NetworkSpec(
    architecture="unext",
    dimensions=3,
    input_channels=2,
    output_channels=3,
    features=(4, 4, 6, 7, 9),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 1), (2, 1, 2), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), (1, 3, 5), (3, 3, 3), (3, 5, 3), (3, 3, 1)),
    encoder_blocks=(1,) * 5,
    decoder_blocks=(1,) * 4,
    token_levels=2,
    full_resolution_skip=True,
)

FLAT = NetworkSpec(
    architecture="unext",
    dimensions=2,
    input_channels=1,
    output_channels=2,
    features=(5, 5, 8),
    strides=((1, 1), (2, 2), (2, 1)),
    kernel_sizes=((3, 3), (5, 3), (3, 3)),
    encoder_blocks=(1,) * 3,
    decoder_blocks=(1,) * 2,
    token_levels=1,
)

IMAGES = {3: torch.Size((2, 2, 10, 32, 24)), 2: torch.Size((2, 1, 24, 14))}


def roughened(spec: NetworkSpec) -> UNet:
    """A network whose biases, scales and linear layers matter."""
    network = build_network(spec, deep_supervision=True)
    assert isinstance(network, UNet)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


# --- the published network


def test_published_network_has_exactly_its_parameters():
    network = build_network(PUBLISHED, deep_supervision=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_471_921


def test_published_network_has_exactly_its_multiply_accumulates():
    network = build_network(PUBLISHED, deep_supervision=True).eval()
    with FlopCounterMode(display=False) as counter:  # with gradients: the counter does not know oneDNN's own operation
        logits = network(torch.zeros(1, 3, 256, 256))
    assert logits.shape == (1, 1, 256, 256)
    assert counter.get_total_flops() / 2 == pytest.approx(0.562e9, abs=0.0005e9)


# --- the network written down once more, with functions only


def convolved(weights: dict[str, Tensor], x: Tensor, name: str, stride: tuple[int, ...] | int = 1) -> Tensor:
    convolve = {2: F.conv2d, 3: F.conv3d}[x.ndim - 2]
    weight = weights[f"{name}.weight"]
    return convolve(x, weight, weights[f"{name}.bias"], stride, [size // 2 for size in weight.shape[2:]])


def instance_normalized(weights: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    return F.instance_norm(x, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"], eps=1e-5)


def layer_normalized(weights: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    shape = (-1, *(1,) * (x.ndim - 2))
    return normalized(x) * weights[f"{name}.weight"].view(shape) + weights[f"{name}.bias"].view(shape)


def shifted_block(weights: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    inner = {n.removeprefix(f"{name}.perceptron."): w for n, w in weights.items() if n.startswith(name)}
    x = x + perceptron_by_hand(inner, layer_normalized(weights, x, f"{name}.normalization"))
    return layer_normalized(weights, x, f"{name}.last_normalization")


def encoded(weights: dict[str, Tensor], spec: NetworkSpec, x: Tensor) -> list[Tensor]:
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[spec.dimensions]
    maps = [x]
    for level in range(1, len(spec.features)):
        name = f"encoder.levels.{level}"
        if level >= len(spec.features) - spec.token_levels:
            x = convolved(weights, x, f"{name}.0.convolution", spec.strides[level])
            x = shifted_block(weights, layer_normalized(weights, x, f"{name}.0.normalization"), f"{name}.1")
        else:
            name = "encoder.levels.0" if level == 1 else f"{name}.0"
            x = instance_normalized(weights, convolved(weights, x, f"{name}.convolution"), f"{name}.normalization")
            if level == 1:
                maps = [F.relu(x)]
            x = F.relu(pool(x, spec.strides[level]))
        maps.append(x)
    return maps


def straightforward_logits(weights: dict[str, Tensor], spec: NetworkSpec, image: Tensor) -> list[Tensor]:
    mode = {2: "bilinear", 3: "trilinear"}[spec.dimensions]
    *skips, x = encoded(weights, spec, image)
    logits: list[Tensor] = []
    for level in reversed(range(len(skips))):
        name = f"decoder.levels.{level}"
        x = convolved(weights, x, f"{name}.convolution")
        if level > 0:
            x = instance_normalized(weights, x, f"{name}.normalization")
        factor = tuple(float(stride) for stride in spec.strides[level + 1])
        x = F.relu(F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False))
        if level > 0 or spec.full_resolution_skip:
            x = x + skips[level]
        if level + 1 >= len(spec.features) - spec.token_levels:
            x = shifted_block(weights, x, f"{name}.mixing")
        logits.insert(0, convolved(weights, x, f"decoder.heads.{level}"))
    return logits


@pytest.mark.parametrize(
    "spec",
    [
        ANISOTROPIC,
        FLAT,
        FLAT.model_copy(update={"token_levels": 0, "full_resolution_skip": True}),
        FLAT.model_copy(update={"token_levels": 2}),
    ],
    ids=["3d", "2d", "2d no tokens", "2d only tokens"],
)
def test_logits_of_all_levels_are_those_of_a_straightforward_network(spec):
    network = roughened(spec)
    image = torch.randn(IMAGES[spec.dimensions])
    outputs = network(image)
    expected = straightforward_logits(dict(network.named_parameters()), spec, image)
    assert len(outputs) == len(expected) == len(spec.features) - 1
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-3, atol=1e-3)


def test_every_layer_has_the_kernel_of_the_resolution_it_works_at():
    network = build_network(ANISOTROPIC, deep_supervision=True)
    kernels = {
        name.removesuffix(".weight"): tuple(weight.shape[2:])
        for name, weight in network.named_parameters()
        if weight.ndim == 5 and "heads" not in name
    }
    level = dict(enumerate(ANISOTROPIC.kernel_sizes))
    assert kernels == {
        "encoder.levels.0.convolution": level[0],  # leads into level 1
        "encoder.levels.2.0.convolution": level[1],
        "encoder.levels.3.0.convolution": level[3],
        "encoder.levels.3.1.perceptron.depthwise": level[3],
        "encoder.levels.4.0.convolution": level[4],
        "encoder.levels.4.1.perceptron.depthwise": level[4],
        "decoder.levels.3.convolution": level[4],
        "decoder.levels.3.mixing.perceptron.depthwise": level[3],
        "decoder.levels.2.convolution": level[3],
        "decoder.levels.2.mixing.perceptron.depthwise": level[2],
        "decoder.levels.1.convolution": level[2],
        "decoder.levels.0.convolution": level[1],
    }


# --- what it has in common with the other networks


def test_outputs_shrink_by_the_strides_axis_by_axis():
    outputs = build_network(ANISOTROPIC, deep_supervision=True)(torch.randn(IMAGES[3]))
    assert [tuple(output.shape[2:]) for output in outputs] == [(10, 32, 24), (10, 16, 12), (10, 8, 12), (5, 8, 6)]


def test_one_tensor_without_deep_supervision_or_outside_training():
    network = roughened(ANISOTROPIC)
    image = torch.randn(IMAGES[3])
    full_resolution = network(image)[0]
    network.deep_supervision = False
    torch.testing.assert_close(network(image), full_resolution)
    network.deep_supervision = True
    network.eval()
    torch.testing.assert_close(network(image), full_resolution)
    alone = build_network(ANISOTROPIC.model_copy(update={"deep_supervision": False}), deep_supervision=True).train()
    assert alone(image).shape == full_resolution.shape


def test_skip_at_full_resolution_changes_the_logits_but_no_parameter():
    with_skip = roughened(ANISOTROPIC)
    without_skip = build_network(ANISOTROPIC.model_copy(update={"full_resolution_skip": False}), deep_supervision=True)
    without_skip.load_state_dict(with_skip.state_dict())
    image = torch.randn(IMAGES[3])
    first, second = with_skip(image), without_skip(image)
    assert (first[0] - second[0]).abs().max() > 0.1
    for level in (1, 2, 3):
        torch.testing.assert_close(first[level], second[level])


def test_gradients_reach_every_parameter():
    network = build_network(ANISOTROPIC, deep_supervision=True)
    sum(output.square().mean() for output in network(torch.randn(IMAGES[3]))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_linear_layers_start_small():
    network = build_network(PUBLISHED, deep_supervision=False)
    weight = network.get_parameter("encoder.levels.5.1.perceptron.linears.1.weight")
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("shape", [(10, 32, 22), (9, 32, 24), (10, 28, 24)])
def test_size_that_is_no_multiple_of_the_total_stride_is_refused(shape):
    network = build_network(ANISOTROPIC, deep_supervision=False)
    with pytest.raises(ValueError, match=r"does not fit .* multiple of the total stride \(2, 8, 8\)"):
        network(torch.zeros(1, 2, *shape))


@pytest.mark.parametrize("spec", [ANISOTROPIC, FLAT], ids=["3d", "2d"])
def test_channels_last_and_bfloat16_stay_near(spec):
    memory_format = torch.channels_last if spec.dimensions == 2 else torch.channels_last_3d
    network = roughened(spec).eval()
    image = torch.randn(IMAGES[spec.dimensions])
    expected = network(image)
    network = network.to(memory_format=memory_format)  # type: ignore[call-overload]  # missing in torch's stubs
    with torch.inference_mode():
        output = network(image.to(memory_format=memory_format))
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(image[:1].to(memory_format=memory_format))
    assert (rough.float() - expected[:1]).abs().max() < 0.1 * expected.abs().max()


def test_training_in_bfloat16_lowers_the_loss():
    network = build_network(FLAT, deep_supervision=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    target = (torch.randn(2, 3, 7).repeat_interleave(8, dim=1).repeat_interleave(2, dim=2) > 0).long()
    image = target.unsqueeze(1) + 0.3 * torch.randn(IMAGES[2])
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(image)[0]
        loss = F.cross_entropy(logits.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
