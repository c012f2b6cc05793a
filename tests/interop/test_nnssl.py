"""Encoders of nnssl: made-up weights in the layout of its checkpoints, with names written down by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from autoseg.errors import InteropError, UsageError
from autoseg.interop.nnssl import read_nnssl_encoder
from autoseg.networks.build import build_network
from autoseg.training.transfer import load_encoder
from tests.builders import make_network_spec

FEATURES, BLOCKS = (4, 6, 8), (1, 2, 2)

PLAN = {
    "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None},
    "pretrain_plan": {"configurations": {"onemmiso": {"spacing": [1, 1, 1], "patch_size": [160, 160, 160]}}},
    "pretrain_num_input_channels": 1,
    "recommended_downstream_patchsize": [160, 160, 160],
    "key_to_encoder": "encoder.stages",
    "key_to_stem": "encoder.stem",
    "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
}


def planned(**changes):
    return make_network_spec(
        3, **{"architecture": "residual_unet", "features": FEATURES, "encoder_blocks": BLOCKS} | changes
    )


def layer(name: str, inputs: int, outputs: int, edge: int = 3, *, bias: bool = True) -> dict[str, Tensor]:
    tensors = {"conv.weight": torch.randn(outputs, inputs, edge, edge, edge), "norm.weight": torch.randn(outputs)}
    tensors |= {"norm.bias": torch.randn(outputs)} | ({"conv.bias": torch.randn(outputs)} if bias else {})
    aliases = {"conv": "all_modules.0", "norm": "all_modules.1"}
    repeated = {aliases[key.split(".")[0]] + "." + key.split(".")[1]: tensor for key, tensor in tensors.items()}
    return {f"{name}.{key}": tensor for key, tensor in (tensors | repeated).items()}


def published_weights(prefix: str = "encoder") -> dict[str, Tensor]:
    """The layers of nnU-Net's residual encoder: a stem, then stages of blocks."""
    torch.manual_seed(3)
    found = layer(f"{prefix}.stem.convs.0", 1, FEATURES[0])
    inputs = FEATURES[0]
    for stage, (outputs, blocks) in enumerate(zip(FEATURES, BLOCKS, strict=True)):
        for block in range(blocks):
            name = f"{prefix}.stages.{stage}.blocks.{block}"
            found |= layer(f"{name}.conv1", inputs, outputs) | layer(f"{name}.conv2", outputs, outputs)
            if inputs != outputs:
                found |= layer(f"{name}.skip.1", inputs, outputs, 1, bias=False)  # after the pooling
            inputs = outputs
    return found | {"decoder.seg_layers.0.weight": torch.randn(1, 4, 1, 1, 1)}


def write(path: Path, weights: dict[str, Tensor] | None = None, **changes: object) -> Path:
    content = {"network_weights": published_weights() if weights is None else weights, "citations": ["a paper"]}
    torch.save(content | {"nnssl_adaptation_plan": PLAN | changes}, path)
    return path


def test_every_layer_of_an_equal_encoder_is_taken(tmp_path):
    network = build_network(planned(), deep_supervision=True)
    decoder = {name: tensor.clone() for name, tensor in network.get_submodule("decoder").state_dict().items()}
    path = write(tmp_path / "openmind.pth")
    report = load_encoder(network, read_nnssl_encoder(path).name_for(planned()), path)
    assert set(report.loaded) == {f"encoder.{name}" for name in network.get_submodule("encoder").state_dict()}
    assert (report.adapted, {name.split(".")[0] for name in report.skipped}) == ((), {"decoder"})
    own, theirs = network.state_dict(), published_weights()
    for ours, name in {
        "encoder.levels.0.0.convolution.weight": "encoder.stem.convs.0.conv.weight",
        "encoder.levels.0.0.normalization.bias": "encoder.stem.convs.0.norm.bias",
        "encoder.levels.0.1.first.convolution.weight": "encoder.stages.0.blocks.0.conv1.conv.weight",
        "encoder.levels.1.1.second.normalization.weight": "encoder.stages.1.blocks.1.conv2.norm.weight",
        "encoder.levels.2.0.projection.convolution.weight": "encoder.stages.2.blocks.0.skip.1.conv.weight",
        "encoder.levels.2.1.first.convolution.bias": "encoder.stages.2.blocks.1.conv1.conv.bias",
    }.items():
        assert torch.equal(own[ours], theirs[name]), ours
    assert all(
        torch.equal(network.get_submodule("decoder").state_dict()[name], tensor) for name, tensor in decoder.items()
    )


def test_the_file_says_where_the_encoder_is(tmp_path):
    weights = {f"module.{name}": tensor for name, tensor in published_weights("online_encoder").items()}
    path = write(
        tmp_path / "byol.pth", weights, key_to_encoder="online_encoder.stages", key_to_stem="online_encoder.stem"
    )
    named = read_nnssl_encoder(path).name_for(planned())
    assert torch.equal(
        named["encoder.levels.0.0.convolution.weight"], published_weights()["encoder.stem.convs.0.conv.weight"]
    )


def test_channels_and_flat_kernels_are_adapted(tmp_path):
    spec = planned(
        input_channels=3, kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))
    )
    network, path = build_network(spec, deep_supervision=True), write(tmp_path / "openmind.pth")
    report = load_encoder(network, read_nnssl_encoder(path).name_for(spec), path)
    stem = published_weights()["encoder.stem.convs.0.conv.weight"]
    found = network.state_dict()["encoder.levels.0.0.convolution.weight"]
    assert found.shape == (4, 3, 1, 3, 3)
    torch.testing.assert_close(found.sum(dim=1), stem[:, 0].sum(dim=1, keepdim=True))
    assert len(report.adapted) == 3  # the stem, and both convolutions of the block at full resolution
    constant = torch.randn(1, 1, 1, 8, 8)  # the same in every slice: both stems answer alike
    theirs = torch.nn.functional.conv3d(constant.expand(-1, -1, 3, -1, -1), stem, padding=(0, 1, 1))
    ours = torch.nn.functional.conv3d(constant.expand(-1, 3, -1, -1, -1), found, padding=(0, 1, 1))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_deeper_network_keeps_fresh_levels(tmp_path):
    spec = planned(features=(*FEATURES, 8), encoder_blocks=(*BLOCKS, 2))
    network, path = build_network(spec, deep_supervision=True), write(tmp_path / "openmind.pth")
    report = load_encoder(network, read_nnssl_encoder(path).name_for(spec), path)
    assert {name.split(".")[2] for name in report.skipped if name.startswith("encoder.")} == {"3"}


def test_other_networks_and_files_are_refused(tmp_path):
    path = write(tmp_path / "primus.pth", architecture_plans={"arch_class_name": "PrimusM"})
    with pytest.raises(InteropError, match="its network is PrimusM, and the planned one is a residual_unet"):
        read_nnssl_encoder(path).name_for(planned())
    with pytest.raises(InteropError, match=r"the planned one is a unet\. Plan with --planner resenc-l"):
        read_nnssl_encoder(write(tmp_path / "a.pth")).name_for(planned(architecture="unet"))
    torch.save({"network_weights": published_weights()}, tmp_path / "nnunet.pth")
    with pytest.raises(InteropError, match=r"nnssl_adaptation_plan' is missing. A model of nnU-Net .* import-nnunet"):
        read_nnssl_encoder(tmp_path / "nnunet.pth")
    wide = planned(features=(40, 60, 80))
    network, named = build_network(wide, deep_supervision=True), read_nnssl_encoder(tmp_path / "a.pth").name_for(wide)
    with pytest.raises(UsageError, match="no layer fits"):
        load_encoder(network, named, tmp_path / "a.pth")


class Malicious:
    @override
    def __reduce__(self):
        return print, ("executed",)


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"network_weights": {}, "nnssl_adaptation_plan": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(InteropError, match=r"refused, because it names builtins.print"):
        read_nnssl_encoder(tmp_path / "bad.pth")
    assert "executed" not in capsys.readouterr().out
