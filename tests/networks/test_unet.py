import json
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.networks.build import build_network
from autoseg.records.network import NetworkSpec

ANISOTROPIC = NetworkSpec(
    architecture="unet",
    dimensions=3,
    input_channels=2,
    output_channels=3,
    features=(3, 5, 7, 4),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 3), (1, 2, 1)),
    kernel_sizes=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 1)),
    encoder_blocks=(1, 2, 2, 1),
    decoder_blocks=(3, 1, 2),
)

FLAT = NetworkSpec(
    architecture="unet",
    dimensions=2,
    input_channels=1,
    output_channels=2,
    features=(4, 6, 8),
    strides=((1, 1), (2, 2), (2, 1)),
    kernel_sizes=((3, 3), (3, 3), (3, 3)),
    encoder_blocks=(2, 2, 2),
    decoder_blocks=(2, 2),
)

IMAGES = {3: torch.Size((2, 2, 4, 16, 12)), 2: torch.Size((2, 1, 12, 10))}


def straightforward_logits(weights: dict[str, Tensor], spec: NetworkSpec, image: Tensor) -> list[Tensor]:
    """The U-Net written down once more, with functions only and the lowest level first."""
    convolve = {2: F.conv2d, 3: F.conv3d}[spec.dimensions]
    transpose = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[spec.dimensions]

    def block(x, name, stride):
        weight = weights[f"{name}.convolution.weight"]
        padding = [size // 2 for size in weight.shape[2:]]
        x = convolve(x, weight, weights[f"{name}.convolution.bias"], stride=stride, padding=padding)
        scale, shift = weights[f"{name}.normalization.weight"], weights[f"{name}.normalization.bias"]
        return F.leaky_relu(F.instance_norm(x, weight=scale, bias=shift, eps=1e-5), 0.01)

    skips = []
    x = image
    for level, count in enumerate(spec.encoder_blocks):
        for i in range(count):
            x = block(x, f"encoder.levels.{level}.{i}", spec.strides[level] if i == 0 else 1)
        skips.append(x)
    logits: list[Tensor] = []
    for level in range(len(spec.features) - 2, -1, -1):
        name = f"decoder.levels.{level}"
        up = transpose(
            x, weights[f"{name}.upsampling.weight"], weights[f"{name}.upsampling.bias"], spec.strides[level + 1]
        )
        x = torch.cat([up, skips[level]], dim=1)
        for i in range(spec.decoder_blocks[level]):
            x = block(x, f"{name}.blocks.{i}", 1)
        head = f"decoder.heads.{level}"
        logits.insert(0, convolve(x, weights[f"{head}.weight"], weights[f"{head}.bias"]))
    return logits


@pytest.mark.parametrize("spec", [ANISOTROPIC, FLAT], ids=["3d", "2d"])
def test_logits_of_all_levels_are_those_of_a_straightforward_network(spec):
    network = build_network(spec, deep_supervision=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that biases and scales matter too
    image = torch.randn(IMAGES[spec.dimensions])
    outputs = network(image)
    expected = straightforward_logits(dict(network.named_parameters()), spec, image)
    assert len(outputs) == len(expected) == len(spec.features) - 1
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-4)


def test_new_network_starts_with_hes_weights_and_zero_biases():
    network = build_network(ANISOTROPIC, deep_supervision=True)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
    wide = build_network(FLAT.model_copy(update={"features": (64, 64, 64)}), deep_supervision=True)
    for name in ("encoder.levels.1.1.convolution.weight", "decoder.levels.0.upsampling.weight"):
        weight = dict(wide.named_parameters())[name]
        fan_in = 64 * weight[0, 0].numel()
        assert weight.std().item() == pytest.approx((2 / 1.0001 / fan_in) ** 0.5, rel=0.05), name


def test_outputs_shrink_by_the_strides_axis_by_axis():
    outputs = build_network(ANISOTROPIC, deep_supervision=True)(torch.randn(IMAGES[3]))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 4, 16, 12), (2, 3, 4, 8, 6), (2, 3, 2, 4, 2)]


def test_one_tensor_without_deep_supervision_or_outside_training():
    network = build_network(ANISOTROPIC, deep_supervision=True)
    image = torch.randn(IMAGES[3])
    full_resolution = network(image)[0]
    network.eval()
    torch.testing.assert_close(network(image), full_resolution)
    network.train()
    network.deep_supervision = False
    torch.testing.assert_close(network(image), full_resolution)
    network.deep_supervision = True
    assert isinstance(network(image), list)


def test_one_tensor_always_when_the_spec_has_no_deep_supervision():
    spec = ANISOTROPIC.model_copy(update={"deep_supervision": False})
    network = build_network(spec, deep_supervision=True).train()
    image = torch.randn(IMAGES[3])
    logits = network(image)
    assert logits.shape == (2, 3, 4, 16, 12)
    weights = dict(network.named_parameters())
    with_all_heads = build_network(ANISOTROPIC, deep_supervision=True)
    with_all_heads.load_state_dict(weights, strict=False)
    torch.testing.assert_close(with_all_heads(image)[0], logits)


def test_gradients_reach_every_parameter_that_the_outputs_depend_on():
    network = build_network(ANISOTROPIC, deep_supervision=False)
    network(torch.randn(IMAGES[3])).square().mean().backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {f"decoder.heads.{level}.{kind}" for level in (1, 2) for kind in ("weight", "bias")}


@pytest.mark.parametrize("shape", [(4, 16, 10), (3, 16, 12), (4, 12, 12), (16, 12)])
def test_size_that_is_no_multiple_of_the_total_stride_is_refused(shape):
    network = build_network(ANISOTROPIC, deep_supervision=False)
    with pytest.raises(ValueError, match=r"does not fit .* multiple of the total stride \(2, 8, 6\)"):
        network(torch.zeros(1, 2, *shape))


def test_single_voxel_at_the_lowest_level_is_refused():
    network = build_network(ANISOTROPIC, deep_supervision=False)
    with pytest.raises(ValueError, match="leaves one voxel at the lowest level"):
        network(torch.zeros(2, 2, 2, 8, 6))


@pytest.mark.parametrize(
    ("spec", "memory_format"), [(ANISOTROPIC, torch.channels_last_3d), (FLAT, torch.channels_last)], ids=["3d", "2d"]
)
def test_memory_format_does_not_change_the_logits(spec, memory_format):
    network = build_network(spec, deep_supervision=False)
    image = torch.randn(IMAGES[spec.dimensions])
    expected = network(image)
    network = network.to(memory_format=memory_format)  # type: ignore[call-overload]  # missing in torch's stubs
    output = network(image.to(memory_format=memory_format))
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_autocast_stays_near_float32():
    network = build_network(ANISOTROPIC, deep_supervision=False)
    image = torch.randn(IMAGES[3])
    expected = network(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image)
    assert (output.float() - expected).abs().max() < 0.1 * expected.abs().max()


# --- weights trained by nnU-Net itself

PEER_MODELS = ("acdc_2d", "acdc_3d_resampled", "hippocampus_3d_two_folds")


def peer_weights(folder: Path, fold: int) -> dict[str, Tensor]:
    path = folder / "model" / f"fold_{fold}" / "checkpoint_final.pth"
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["network_weights"]
    # the peer lists its modules twice, and its encoder once more inside the decoder
    return {n: w for n, w in weights.items() if "all_modules" not in n and not n.startswith("decoder.encoder")}


def peer_spec(folder: Path, weights: dict[str, Tensor]) -> NetworkSpec:
    plans = json.loads((folder / "model" / "plans.json").read_text())
    (name,) = [n for n in plans["configurations"] if n == ("2d" if "2d" in folder.name else "3d_fullres")]
    arguments = plans["configurations"][name]["architecture"]["arch_kwargs"]
    return NetworkSpec(
        architecture="unet",
        dimensions=2 if name == "2d" else 3,
        input_channels=weights["encoder.stages.0.0.convs.0.conv.weight"].shape[1],
        output_channels=weights["decoder.seg_layers.0.weight"].shape[0],
        features=tuple(arguments["features_per_stage"]),
        strides=tuple(tuple(stride) for stride in arguments["strides"]),
        kernel_sizes=tuple(tuple(kernel) for kernel in arguments["kernel_sizes"]),
        encoder_blocks=tuple(arguments["n_conv_per_stage"]),
        decoder_blocks=tuple(arguments["n_conv_per_stage_decoder"])[::-1],
    )


@pytest.mark.parametrize("model", PEER_MODELS)
def test_network_has_exactly_the_parameters_of_a_network_trained_by_nnunet(shared, model):
    weights = peer_weights(shared / "peer_models" / model, 0)
    network = build_network(peer_spec(shared / "peer_models" / model, weights), deep_supervision=True)
    assert sorted(tuple(p.shape) for p in network.parameters()) == sorted(tuple(w.shape) for w in weights.values())


def renamed(weights: dict[str, Tensor], lowest: int) -> dict[str, Tensor]:
    """The peer's weights under our names; the peer counts decoder levels from the lowest one."""
    names = {"conv": "convolution", "norm": "normalization"}
    ours = {}
    for name, weight in weights.items():
        match name.split("."):
            case "encoder", "stages", level, _, "convs", i, layer, kind:
                ours[f"encoder.levels.{level}.{i}.{names[layer]}.{kind}"] = weight
            case "decoder", "stages", step, "convs", i, layer, kind:
                ours[f"decoder.levels.{lowest - 1 - int(step)}.blocks.{i}.{names[layer]}.{kind}"] = weight
            case "decoder", "transpconvs", step, kind:
                ours[f"decoder.levels.{lowest - 1 - int(step)}.upsampling.{kind}"] = weight
            case "decoder", "seg_layers", step, kind:
                ours[f"decoder.heads.{lowest - 1 - int(step)}.{kind}"] = weight
    return ours


def standardized_in_patch(image: np.ndarray, patch: tuple[int, ...]) -> tuple[Tensor, tuple[slice, ...]]:
    """The peer's preprocessing of an image without zeros at its border and smaller than the patch."""
    image = (image - image.mean()) / image.std()
    before = [(size - extent) // 2 for size, extent in zip(patch, image.shape, strict=True)]
    inside = tuple(slice(start, start + extent) for start, extent in zip(before, image.shape, strict=True))
    padded = torch.zeros(1, 1, *patch)
    padded[0, 0][inside] = torch.from_numpy(image.astype(np.float32))
    return padded, inside


def test_weights_trained_by_nnunet_give_its_own_label_map(shared):
    folder = shared / "peer_models" / "hippocampus_3d_two_folds"
    image_path = min((folder / "images").glob("*_0000.nii.gz"))
    expected = np.asarray(nib.load(folder / "nnunet_labels" / image_path.name.replace("_0000", "")).dataobj).T
    padded, inside = standardized_in_patch(
        np.asarray(nib.load(image_path).dataobj, dtype=np.float64).T,
        (40, 56, 40),
    )
    network = build_network(peer_spec(folder, peer_weights(folder, 0)), deep_supervision=False).eval()
    logits = torch.zeros(1, 3, 40, 56, 40)
    mirrorings = [axes for count in range(4) for axes in combinations((2, 3, 4), count)]
    with torch.inference_mode():
        for fold in (0, 1):
            network.load_state_dict(renamed(peer_weights(folder, fold), lowest=3))
            for axes in mirrorings:
                logits += network(padded.flip(axes)).flip(axes)
    labels = logits[0].argmax(dim=0).numpy()[inside]
    assert labels.shape == expected.shape
    for label in (1, 2):
        predicted, reference = labels == label, expected == label
        assert reference.sum() > 100
        assert 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum()) >= 0.999
