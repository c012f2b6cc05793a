import numpy as np
import pytest
import torch

from autoseg.interop.nnunet_checkpoint import read_checkpoint
from autoseg.interop.nnunet_description import describe_architecture
from autoseg.interop.nnunet_weights import name_as_nnunet, write_checkpoint
from autoseg.networks.build import build_network
from autoseg.records.checkpoint import Checkpoint
from tests.builders import make_configuration, make_network_spec
from tests.interop.nnunet_models import weights

SIZES_3D = {
    "features": (3, 5, 5),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    "encoder_blocks": (1, 2, 3),
    "decoder_blocks": (1, 2),
}


def state_of(spec):
    torch.manual_seed(3)
    return build_network(spec, deep_supervision=True).state_dict()


@pytest.mark.parametrize("architecture", ["unet", "residual_unet"])
@pytest.mark.parametrize("normalization", ["instance", "batch"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_names_and_shapes_are_nnunets(architecture, normalization, dimensions):
    sizes = SIZES_3D if dimensions == 3 else {"features": (4, 6, 6), "encoder_blocks": (2, 1, 2)}
    spec = make_network_spec(
        dimensions, architecture=architecture, normalization=normalization, input_channels=2, **sizes
    )
    expected = weights(
        describe_architecture(spec)["arch_kwargs"], 2, spec.output_channels, batch_norm=normalization == "batch"
    )
    named = name_as_nnunet(state_of(spec), spec)
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == shapes


def test_heads_that_were_never_trained_are_zeros():
    spec = make_network_spec(**SIZES_3D, deep_supervision=False)
    named = name_as_nnunet(state_of(spec), spec)
    assert named["decoder.seg_layers.0.weight"].shape == (3, 5, 1, 1, 1)
    assert not named["decoder.seg_layers.0.weight"].any()
    assert named["decoder.seg_layers.1.weight"].any()


def test_weights_of_half_precision_become_float32_and_repetitions_share_memory():
    spec = make_network_spec()
    named = name_as_nnunet({name: tensor.half() for name, tensor in state_of(spec).items()}, spec)
    assert {tensor.dtype for tensor in named.values()} == {torch.float32}
    first, second = (named[f"{start}encoder.stages.0.0.convs.0.conv.weight"] for start in ("", "decoder."))
    assert first.data_ptr() == second.data_ptr()


def test_a_strange_layer_is_an_error():
    with pytest.raises(ValueError, match=r"decoder\.gate\.weight"):
        name_as_nnunet({"decoder.gate.weight": torch.zeros(1)}, make_network_spec())


@pytest.mark.parametrize(("fold", "written"), [("3", 3), ("all", "all")])
def test_a_checkpoint_has_plain_values_and_every_entry_that_nnunet_reads(tmp_path, fold, written):
    spec = make_network_spec()
    named = name_as_nnunet(state_of(spec), spec)
    record = Checkpoint(
        configuration="3d_fullres", fold=fold, model_hash="", cases_hash="", training=make_configuration().training,
        epoch=7, step=9, elapsed_seconds=1.0, best_pseudo_dice=0.5,
    )  # fmt: skip
    path = tmp_path / "fold" / "checkpoint_final.pth"
    described = {"plans": {"plans_name": "nnUNetPlans"}, "dataset_json": {}}
    write_checkpoint(path, named, record, "nnUNetTrainer", (0, 2), described)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    content = torch.load(path, weights_only=True)
    np.testing.assert_array_equal(
        content["network_weights"]["decoder.seg_layers.0.bias"], named["decoder.seg_layers.0.bias"]
    )
    assert content["init_args"] == {**described, "configuration": "3d_fullres", "fold": written}
    assert (content["trainer_name"], content["current_epoch"], content["_best_ema"]) == ("nnUNetTrainer", 7, 0.5)
    assert content["inference_allowed_mirroring_axes"] == (0, 2)
    assert path.stat().st_size < 1.5 * sum(tensor.nbytes for tensor in state_of(spec).values()) + 30_000
    write_checkpoint(path, named, record, "nnUNetTrainer", (), described)
    assert torch.load(path, weights_only=True)["inference_allowed_mirroring_axes"] is None
    assert read_checkpoint(path).fold == fold
