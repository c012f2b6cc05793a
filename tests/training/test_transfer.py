"""Weights of one model in the network of another task: what is taken, what is adapted, what is refused."""

import logging
from typing import Any

import pytest
import torch

from autoseg.errors import UsageError
from autoseg.networks.build import build_network
from autoseg.records.budget import Budget
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.clicks import ClickSettings
from autoseg.records.dataset import Head, LabelEncoding, LabelValues
from autoseg.records.detection import DetectionSpec
from autoseg.records.files import write_record
from autoseg.records.network import BranchSpec, NormalizationSpec
from autoseg.records.plan import Plan, model_hash
from autoseg.records.workspace import Workspace
from autoseg.training.folds.checkpointing import cpu_weights, save_weights
from autoseg.training.transfer import freeze_encoder, load_pretrained
from tests.training.small_cases import make_configuration

NAME = "3d_fullres"
FIRST = {
    "unet": "encoder.levels.0.0.convolution.weight",
    "residual_unet": "encoder.levels.0.0.convolution.weight",
    "unext": "encoder.levels.0.convolution.weight",
    "unext, tokens only": "encoder.levels.1.0.convolution.weight",
    "mednext": "encoder.levels.0.0.weight",
    "nested": "encoder.levels.0.0.convolution.weight",
    "parts": "encoder.levels.0.0.first.convolution.weight",
    "hrnet": "encoder.stem.0.convolution.weight",
}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"architecture": "unet", "encoder_blocks": (2, 1, 1)},
    "residual_unet": {"architecture": "residual_unet", "encoder_blocks": (1, 1, 2)},
    "unext": {"architecture": "unext", "encoder_blocks": (1, 1, 1), "token_levels": 1, "features": (5, 5, 7)},
    "unext, tokens only": {
        "architecture": "unext", "encoder_blocks": (1, 1, 1), "token_levels": 2, "features": (5, 5, 7)
    },
    "mednext": {"architecture": "mednext", "encoder_blocks": (1, 1, 2), "expansions": (2, 3, 3)},
    "nested": {"encoder_blocks": (1, 1, 1), "skip": "nested"},
    "parts": {
        "encoder_blocks": (1, 1, 1), "block": "residual", "skip": "gate", "attention": "mixed", "bottleneck": "pyramid"
    },
    "hrnet": {
        "architecture": "hrnet", "encoder_blocks": (1, 1, 1),
        "branches": BranchSpec(first_blocks=1, modules=(1, 1), joined_features=4),
    },
}  # fmt: skip

DETECTION = DetectionSpec(
    num_labels=2, levels=(1, 2), anchors=(((2.0, 4.0, 4.0),), ((4.0, 8.0, 8.0),)), pyramid_features=5, box_features=6,
    box_size=(2, 2, 2), mask_roi_size=(2, 2, 2),
)  # fmt: skip


def make_plan(
    labels=("tumor", "liver"), channels=("CT",), *, kind="unet", name=NAME, dataset="old", previous=None, **network
) -> Plan:
    heads = [Head(name="background", indices=(0,), painted_index=0)]
    heads += [Head(name=label, indices=(i,), painted_index=i) for i, label in enumerate(labels, start=1)]
    dimensions = network.pop("dimensions", 3)
    configuration = make_configuration((16, 24, 32)[-dimensions:], channels=len(channels))
    spec = configuration.network.model_copy(
        update={
            "input_channels": len(channels) + (len(labels) if previous else 0),
            "output_channels": len(heads),
            "features": (4, 6, 7),
            "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)) if dimensions == 3 else ((1, 1), (2, 2), (2, 2)),
            "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)) if dimensions == 3 else ((3, 3),) * 3,
            "decoder_blocks": (1, 1),
        }
        | NETWORKS[kind]
        | network
    )
    changed = configuration.model_copy(
        update={"network": spec, "preprocessed_as": name, "previous_configuration": previous}
    )
    values: dict[str, LabelValues] = {label: 10 * i for i, label in enumerate(("background", *labels))}
    return Plan(
        dataset_name=dataset,
        planner="unet",
        budget=Budget(),
        channel_names=channels,
        labels=values,
        encoding=LabelEncoding(
            values=tuple(10 * i for i in range(len(heads))), activation="softmax", heads=tuple(heads)
        ),
        orientation="canonical",
        transpose=(0, 1, 2),
        configurations={name: changed} | ({} if previous is None else {previous: make_plan(labels, channels,
            name=previous).configurations[previous]}),
        decisions=(),
        target="labels" if spec.detection is None else "mask_rcnn",
    )  # fmt: skip


def make_network(plan, name=NAME, seed=0):
    torch.manual_seed(seed)
    network = build_network(plan.configurations[name].network, deep_supervision=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()  # norms and biases too, so that no two tensors are alike by chance
    return network


def train(root, plan, name=NAME, fold="0", step=10, seed=1):
    """A workspace with one trained fold; gives its weights."""
    workspace = Workspace(root)
    write_record(plan, workspace.plan)
    tensors = cpu_weights(make_network(plan, name, seed).state_dict())
    checkpoint = Checkpoint(
        configuration=name, fold=fold, model_hash=model_hash(plan, name), cases_hash="", epoch=1, step=step,
        training=plan.configurations[name].training, elapsed_seconds=1.0, finished=True,
    )  # fmt: skip
    save_weights(tensors, checkpoint, workspace.fold(name, fold) / "checkpoint_final")
    return tensors


def transfer(plan, source, name=NAME):
    network = make_network(plan, name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    report = load_pretrained(network, plan, name, source)
    assert sorted(report.loaded + report.adapted + report.skipped) == sorted(before)
    return report, before, network.state_dict()


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_same_task_takes_every_tensor(tmp_path, kind):
    old = train(tmp_path, make_plan(kind=kind))
    report, _, after = transfer(make_plan(kind=kind, dataset="new"), tmp_path)
    assert report.adapted == report.skipped == report.notes == ()
    assert all(torch.equal(after[name], old[name]) for name in old)
    assert len(report.loaded) == len(old)
    assert report.lines() == (
        f"pretrained weights of {tmp_path / 'models' / NAME / 'fold_0'}: {len(old)} tensors loaded, 0 adapted, "
        "0 skipped",
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_heads_are_taken_by_the_names_of_their_labels(tmp_path, kind):
    old = train(tmp_path, make_plan(("tumor", "liver"), kind=kind))
    new = make_plan(("spleen", "Liver", "kidney"), kind=kind, dataset="new")
    report, before, after = transfer(new, tmp_path)
    heads = [name for name in old if name.startswith("decoder.heads.")]
    assert len(heads) == 4  # weight and bias of two levels
    assert set(report.adapted) == set(heads)
    for name in heads:
        expected = torch.stack([old[name][0], before[name][1], old[name][2], before[name][3]])
        assert torch.equal(after[name], expected)
    assert report.skipped == ()


def test_heads_of_points_are_taken_by_the_names_of_their_labels(tmp_path):
    points = {"head": "points", "coarse_level": 1, "encoder_blocks": (1, 1, 1)}
    old = train(tmp_path, make_plan(("tumor", "liver"), **points))
    report, before, after = transfer(make_plan(("liver", "cyst"), dataset="new", **points), tmp_path)
    heads = {"points.head.weight", "points.head.bias", "decoder.heads.1.weight", "decoder.heads.1.bias"}
    assert set(report.adapted) == heads
    for name in heads:
        assert torch.equal(after[name], torch.stack([old[name][0], old[name][2], before[name][2]]))


def test_heads_of_objects_are_taken_by_the_names_of_their_labels(tmp_path):
    """Labels in another order, and one of them new: rows of the background, of each label, and of its moves."""
    network = {"encoder_blocks": (1, 1, 1), "deep_supervision": False}
    old = train(tmp_path, make_plan(("tumor", "liver"), detection=DETECTION, **network))
    wider = DETECTION.model_copy(update={"num_labels": 3})
    new = make_plan(("liver", "cyst", "tumor"), detection=wider, dataset="new", **network)
    report, before, after = transfer(new, tmp_path)
    names = {f"{name}.{kind}" for name in ("boxes.score", "boxes.move", "masks.mask") for kind in ("weight", "bias")}
    assert set(report.adapted) == names
    assert report.skipped == ()
    for kind in ("weight", "bias"):
        score, move, mask = (f"{name}.{kind}" for name in ("boxes.score", "boxes.move", "masks.mask"))
        expected = torch.stack([old[score][0], old[score][2], before[score][2], old[score][1]])
        assert torch.equal(after[score], expected)
        assert torch.equal(after[move], torch.cat([old[move][6:], before[move][6:12], old[move][:6]]))
        assert torch.equal(after[mask], torch.stack([old[mask][1], before[mask][1], old[mask][0]]))


def test_depthwise_kernels_become_larger(tmp_path):
    """A line of 3 becomes one of 5 whose voxels lie 3/5 apart, beyond the ends as the ends; along each axis."""
    small = {"kind": "mednext", "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3))}
    large = {"kind": "mednext", "kernel_sizes": ((1, 5, 5), (5, 5, 5), (5, 5, 5))}
    old = train(tmp_path, make_plan(**small))
    report, _, after = transfer(make_plan(dataset="new", **large), tmp_path)
    kernels = [name for name in old if name.endswith("depthwise.weight")]
    assert len(kernels) == 10
    assert set(report.adapted) == set(kernels)
    assert report.skipped == ()
    line = torch.tensor([[1.0, 0, 0], [0.6, 0.4, 0], [0, 1, 0], [0, 0.4, 0.6], [0, 0, 1]])
    for name in kernels:
        expected = torch.einsum("fczyx,by,ax->fczba", old[name], line, line) * 9 / 25
        if old[name].shape[2] > 1:
            expected = torch.einsum("fgzyx,dz->fgdyx", expected, line) * 3 / 5
        torch.testing.assert_close(after[name], expected)


def test_depthwise_kernels_become_no_smaller_and_do_not_grow_from_one_voxel(tmp_path):
    large = {"kind": "mednext", "kernel_sizes": ((1, 5, 5), (5, 5, 5), (5, 5, 5))}
    train(tmp_path, make_plan(**large))
    deep = make_plan(dataset="new", kind="mednext", kernel_sizes=((3, 5, 5), (5, 5, 3), (5, 5, 5)))
    report, before, after = transfer(deep, tmp_path)
    assert report.adapted == ()
    assert {name.split(".")[2] for name in report.skipped} == {"0", "1"}
    assert all(name.endswith("depthwise.weight") for name in report.skipped)
    assert all(torch.equal(after[name], before[name]) for name in report.skipped)


def test_heads_of_no_common_name_start_fresh(tmp_path):
    plan = make_plan()
    regions = [Head(name=name, indices=(i,), painted_index=i) for i, name in enumerate(("a", "b", "c"), start=0)]
    train(tmp_path, plan)
    encoding = plan.encoding.model_copy(update={"heads": tuple(regions)})
    new = plan.model_copy(update={"encoding": encoding, "dataset_name": "new"})
    report, before, after = transfer(new, tmp_path)
    assert set(report.skipped) == {name for name in before if name.startswith("decoder.heads.")}
    assert all(torch.equal(after[name], before[name]) for name in report.skipped)


@pytest.mark.parametrize("kind", NETWORKS)
def test_inputs_are_taken_by_the_names_of_their_channels(tmp_path, kind):
    name = FIRST[kind]
    old = train(tmp_path, make_plan(channels=("T1", "T2", "FLAIR"), kind=kind))[name]
    report, _, after = transfer(make_plan(channels=("flair", "T1"), kind=kind, dataset="new"), tmp_path)
    assert report.adapted == (name,)
    assert torch.equal(after[name], old[:, [2, 0]])


def test_inputs_of_one_name_are_taken_in_their_order(tmp_path):
    name = FIRST["unet"]
    old = train(tmp_path, make_plan(channels=("CT", "PET", "ct")))[name]
    _, _, after = transfer(make_plan(channels=("CT", "CT", "PET"), dataset="new"), tmp_path)
    assert torch.equal(after[name], old[:, [0, 2, 1]])


def test_unknown_channels_share_the_response_of_the_known_ones(tmp_path):
    old_plan, new_plan = make_plan(channels=("T1", "T2")), make_plan(channels=("a", "b", "c", "d"), dataset="new")
    train(tmp_path, old_plan)
    image = torch.rand(1, 1, 4, 8, 16)
    old_network, network = make_network(old_plan, seed=1), make_network(new_plan)
    load_pretrained(network, new_plan, NAME, tmp_path)
    old, new = (each.get_submodule("encoder.levels.0.0.convolution") for each in (old_network, network))
    torch.testing.assert_close(new(image.expand(-1, 4, -1, -1, -1)), old(image.expand(-1, 2, -1, -1, -1)))


def test_a_new_channel_beside_known_ones_gets_their_mean(tmp_path):
    name = FIRST["unet"]
    old = train(tmp_path, make_plan(channels=("T1", "T2")))[name]
    _, _, after = transfer(make_plan(channels=("T2", "CT", "T1"), dataset="new"), tmp_path)
    expected = torch.stack([old[:, 1], (old[:, 0] + old[:, 1]) / 2, old[:, 0]], dim=1) * 2 / 3
    torch.testing.assert_close(after[name], expected)


def test_what_clicks_correct_starts_as_the_corrected_network_and_ignores_clicks(tmp_path):
    name, first = "interactive", FIRST["unet"]
    full = train(tmp_path / "full", make_plan(("tumor", "liver")))
    cascade = make_plan(("tumor", "liver"), name=name, previous=NAME)
    configuration = cascade.configurations[name]
    network = configuration.network.model_copy(update={"input_channels": 6})
    changed = configuration.model_copy(update={"network": network, "clicks": ClickSettings(reach_mm=9.0)})
    plan = cascade.model_copy(update={"configurations": {**cascade.configurations, name: changed}})
    report, _, after = transfer(plan, tmp_path / "full", name)
    assert torch.equal(after[first][:, :1], full[first])
    assert after[first].shape[1] == 6
    assert not after[first][:, 1:].any()
    assert report.adapted == (first,)


def test_a_cascade_starts_as_the_full_resolution_and_keeps_its_labels_by_name(tmp_path):
    name, first = "3d_cascade_fullres", FIRST["unet"]
    cascade = make_plan(("tumor", "liver"), name=name, previous="3d_lowres")
    full = train(tmp_path / "full", make_plan(("tumor", "liver")))
    _, _, after = transfer(cascade, tmp_path / "full", name)
    assert torch.equal(after[first][:, :1], full[first])
    assert not after[first][:, 1:].any()

    old = train(tmp_path / "cascade", cascade, name)
    other = make_plan(("liver", "cyst", "tumor"), name=name, previous="3d_lowres", dataset="new")
    _, _, after = transfer(other, tmp_path / "cascade", name)
    expected = torch.stack(
        [old[first][:, 0], old[first][:, 2], torch.zeros_like(old[first][:, 0]), old[first][:, 1]], 1
    )
    assert torch.equal(after[first], expected)
    mean = old[first][:, :1] / 2  # of the one channel; the labels are no channels
    both = make_plan(("tumor",), ("CT", "PET"), dataset="new")
    assert torch.equal(transfer(both, tmp_path / "cascade")[2][first], mean.expand(-1, 2, -1, -1, -1))
    back, _, after = transfer(make_plan(("tumor", "liver"), dataset="new"), tmp_path / "cascade")
    assert torch.equal(after[first], old[first][:, :1])
    assert back.adapted == (first,)


def test_a_deeper_network_takes_the_levels_that_fit(tmp_path):
    old = train(tmp_path, make_plan())
    deeper = make_plan(
        dataset="new", features=(4, 6, 7, 9), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)), encoder_blocks=(2, 1, 1, 2),
        decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    report, before, after = transfer(deeper, tmp_path)
    assert {name.split(".")[2] for name in report.skipped if name.startswith("encoder.")} == {"3"}
    assert all(torch.equal(after[name], old[name]) for name in report.loaded)
    assert all(torch.equal(after[name], before[name]) for name in report.skipped)
    assert "8 of them in the encoder" in report.lines()[0]


def test_a_network_that_shares_nothing_is_refused_with_what_differs(tmp_path):
    train(tmp_path, make_plan())
    wider = make_plan(features=(8, 12, 14), dataset="new")
    network = make_network(wider)
    with pytest.raises(UsageError, match=r"no layer fits.*features is \(4, 6, 7\) there, \(8, 12, 14\) here.*--like"):
        load_pretrained(network, wider, NAME, tmp_path)


def test_heads_and_biases_that_fit_by_chance_are_not_enough(tmp_path):
    train(tmp_path, make_plan(features=(4, 6, 7)))
    other = make_plan(features=(4, 6, 7), dataset="new", kernel_sizes=((3, 1, 1), (1, 3, 1), (1, 1, 3)),
                      strides=((1, 1, 1), (2, 1, 2), (1, 2, 1)))  # fmt: skip
    with pytest.raises(UsageError, match=r"no layer fits.*strides is.*kernel_sizes is"):
        transfer(other, tmp_path)


def test_the_fold_with_the_most_steps_of_the_same_configuration_is_taken(tmp_path):
    plan = make_plan()
    both = plan.model_copy(update={"configurations": plan.configurations | make_plan(name="3d_lowres").configurations})
    train(tmp_path, both, fold="0", step=30)
    train(tmp_path, both, fold="1", step=50, seed=2)
    train(tmp_path, both, "3d_lowres", step=90, seed=3)
    assert transfer(plan, tmp_path)[0].source.name == "fold_1"
    assert transfer(make_plan(name="3d_other"), tmp_path, "3d_other")[0].source.parent.name == "3d_lowres"
    report, _, _ = transfer(plan, tmp_path / "models" / NAME / "fold_0")
    assert report.source.name == "fold_0"


def test_a_model_of_other_dimensions_is_refused(tmp_path):
    train(tmp_path, make_plan(("a",), name="2d", dimensions=2), "2d")
    with pytest.raises(UsageError, match=r"no fold of a 3D configuration.*trained configurations: 2d"):
        transfer(make_plan(("a",)), tmp_path)


def test_a_folder_without_a_model_says_what_to_name(tmp_path):
    with pytest.raises(UsageError, match=r"neither a workspace nor a fold's folder.*models/3d_fullres/fold_0"):
        transfer(make_plan(), tmp_path / "nothing")


def test_weights_of_an_earlier_plan_are_refused(tmp_path):
    train(tmp_path, make_plan())
    write_record(make_plan(("liver", "tumor")), Workspace(tmp_path).plan)
    with pytest.raises(UsageError, match="planned again since"):
        transfer(make_plan(), tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    train(tmp_path, make_plan())
    (tmp_path / "models" / NAME / "fold_0" / "checkpoint_final.safetensors").write_bytes(b"half a file")
    with pytest.raises(UsageError, match="cannot be read"):
        transfer(make_plan(), tmp_path)


def test_other_images_are_noted(tmp_path):
    plan = make_plan(channels=("CT", "PET"))
    train(tmp_path, plan)
    configuration = plan.configurations[NAME].model_copy(
        update={
            "spacing": (2.5, 1.0, 1.0),
            "normalization": (NormalizationSpec(scheme="ct"), NormalizationSpec(scheme="zscore")),
        }
    )
    new = plan.model_copy(update={"configurations": {NAME: configuration}, "transpose": (1, 0, 2)})
    report, _, _ = transfer(new, tmp_path)
    _, other, leak = report.lines()
    assert "spacing (1 x 1 x 1 mm there, 2.5 x 1 x 1 mm here), normalization of ct, transpose;" in other
    assert "--like" in other
    assert "trained on old, too" in leak


def test_names_are_said_at_debug(tmp_path, caplog):
    train(tmp_path, make_plan())
    with caplog.at_level(logging.DEBUG, "autoseg.train"):
        transfer(make_plan(("cyst", "liver"), dataset="new"), tmp_path)
    assert any("adapted: decoder.heads.0.weight" in line for line in caplog.messages)
    assert "skipped: none" in caplog.messages


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_frozen_encoder_gets_no_gradient(kind):
    network = make_network(make_plan(kind=kind))
    freeze_encoder(network)
    logits = network(torch.rand(1, 1, 8, 16, 16))
    sum(level.sum() for level in logits).backward()
    with_gradient = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert with_gradient == {"decoder"}


def test_an_encoder_that_nobody_can_name_is_not_frozen():
    with pytest.raises(UsageError, match=r"--freeze-encoder: .*which part is the encoder"):
        freeze_encoder(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)))


def test_messages_call_an_unpacked_model_as_the_user_does(tmp_path):
    train(tmp_path / "unpacked", make_plan())
    given = tmp_path / "model.zip"
    network, plan = make_network(make_plan(dataset="new")), make_plan(dataset="new")
    report = load_pretrained(network, plan, NAME, tmp_path / "unpacked", given)
    assert report.source == given / "models" / NAME / "fold_0"
    with pytest.raises(UsageError, match=rf"^--pretrained {given}: neither a workspace nor"):
        load_pretrained(network, plan, NAME, tmp_path / "empty", given)


def test_planes_of_presence_start_from_zeros_or_from_those_of_the_model(tmp_path):
    def with_presence(plan):
        configuration = plan.configurations[NAME]
        inputs = configuration.network.input_channels + len(plan.channel_names)
        network = configuration.network.model_copy(update={"input_channels": inputs})
        changes = {"network": network, "channel_presence": True}
        return plan.model_copy(update={"configurations": {NAME: configuration.model_copy(update=changes)}})

    first = FIRST["unet"]
    old = train(tmp_path / "plain", make_plan(channels=("T1", "T2")))
    report, _, after = transfer(with_presence(make_plan(channels=("T2", "T1"), dataset="new")), tmp_path / "plain")
    assert report.adapted == (first,)
    assert torch.equal(after[first][:, :2], old[first].flip(1))
    assert not after[first][:, 2:].any()

    old = train(tmp_path / "lacking", with_presence(make_plan(channels=("T1", "T2"))))
    report, _, after = transfer(with_presence(make_plan(channels=("T2", "T1"), dataset="new")), tmp_path / "lacking")
    assert torch.equal(after[first], old[first][:, [1, 0, 3, 2]])
    report, _, after = transfer(make_plan(channels=("T1", "T2"), dataset="new"), tmp_path / "lacking")
    assert torch.equal(after[first], old[first][:, :2])
