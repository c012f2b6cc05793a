"""The table of networks: what planners would plan, against what they plan of a dataset."""

import os

import pytest

from autoseg.errors import UsageError
from autoseg.plugins import planner_names
from autoseg.records.budget import Budget, Overrides
from autoseg.records.files import write_record
from autoseg.records.workspace import Workspace
from autoseg.stages.list_networks import Listing, list_networks, list_networks_for
from autoseg.stages.plan import make_plan
from autoseg.testing import synthetic_fingerprint
from tests.builders import install_networks

PATCH = (16, 32, 48)


def test_rows_are_what_the_planner_plans_for_that_patch():
    listed, refused = list_networks(PATCH, 2, 4, Listing("cpu", ["unext", "pretrained-2d"]))
    rows = [each.row for each in listed]
    assert [(row.dimensions, row.options.get("width")) for row in rows if row.planner == "unext"] == [
        (2, "s"), (2, "base"), (2, "text"), (3, "s"), (3, "base"), (3, "text"),
    ]  # fmt: skip
    assert "pretrained-2d 3D" in refused
    fingerprint = synthetic_fingerprint(
        [(1.0, 1.0, 1.0)] * 4, [PATCH] * 4, label_values=range(4), channel_names=("a", "b")
    )
    overrides = Overrides(patch_size=PATCH, batch_size=2, options={"width": "text"})
    plan = make_plan(fingerprint, Budget(overrides=overrides, configurations=("3d_fullres",)), "unext")
    estimates = plan.configurations["3d_fullres"].estimates
    assert (rows[-1].parameters, rows[-1].macs) == (estimates.parameters, estimates.macs)
    assert rows[-1].patch_size == PATCH


def test_a_workspace_gives_images_patches_channels_and_labels(tmp_path):
    """Thick slices: kernels of the first level look along two axes, as those of the workspace's own plan do."""
    workspace = Workspace(tmp_path)
    fingerprint = synthetic_fingerprint(
        [(6.0, 1.0, 1.0)] * 4, [(12, 90, 70)] * 4, label_values=range(4), channel_names=("a", "b")
    )
    plan = make_plan(fingerprint, Budget(configurations=("2d", "3d_fullres")), "unet")
    write_record(fingerprint, workspace.fingerprint)
    write_record(plan, workspace.plan)
    listed, _refused = list_networks_for(workspace, Listing("cuda", ["unet"]))
    flat, solid = (each for each in listed if not each.row.options)
    for found, name in ((flat, "2d"), (solid, "3d_fullres")):
        own = plan.configurations[name]
        assert found.row.patch_size == own.patch_size
        assert found.configuration.network == own.network
        assert (found.row.parameters, found.row.macs) == (own.estimates.parameters, own.estimates.macs)
    assert solid.configuration.network.kernel_sizes[0] == (1, 3, 3)


def test_a_workspace_without_a_3d_configuration_has_no_3d_networks(tmp_path):
    workspace, fingerprint = Workspace(tmp_path), synthetic_fingerprint([(999.0, 1.0, 1.0)] * 4, [(1, 90, 70)] * 4)
    write_record(fingerprint, workspace.fingerprint)
    write_record(make_plan(fingerprint, Budget(), "unet"), workspace.plan)
    listed, refused = list_networks_for(workspace, Listing("cuda", ["unet"]))
    assert {each.row.dimensions for each in listed} == {2}
    assert refused == {}


def test_a_folder_that_is_no_workspace_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"not a workspace, it has no plan.json .* give --patch-size"):
        list_networks_for(Workspace(tmp_path), Listing("cuda"))


def test_memory_is_that_of_the_device():
    of_cpu, of_gpu = (list_networks((256, 256), 1, 2, Listing(device, ["unet"]))[0] for device in ("cpu", "cuda"))
    for first, second in zip(of_cpu, of_gpu, strict=True):
        assert first.row.macs == second.row.macs
        assert first.row.training_memory_bytes is not None
        assert second.row.training_memory_bytes is not None
        assert first.row.training_memory_bytes > second.row.training_memory_bytes


def test_every_planner_but_the_one_that_chooses_has_a_row():
    listed, _refused = list_networks((64, 64), 1, 2, Listing("cuda"))
    assert {each.row.planner for each in listed} >= set(planner_names()) - {"auto", "external", "pretrained-2d", "zoo"}
    assert [each.row.macs for each in listed] == sorted(each.row.macs for each in listed)


def test_parts_without_a_name_of_their_own_are_listed_once():
    listed, _refused = list_networks((64, 64), 1, 2, Listing("cuda", ["unet", "vnet"]))
    found = [each.row.options for each in listed]
    assert {"block": "dense"} in found
    assert {"head": "points", "point_stride": "4"} in found
    assert {"block": "residual"} not in found
    assert len(found) == len({str(options) for options in found}) + 1  # vnet and the plain one have no options


def test_networks_of_other_packages_are_listed_where_they_are_installed(tmp_path, monkeypatch):
    install_networks(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    listed, refused = list_networks((64, 64), 1, 2, Listing("cuda", ["external"]))
    [row] = [each.row for each in listed]
    assert row.options == {"network": "small"}
    assert row.network == "small of small-networks torch"
    assert row.macs == 64 * 64 * (4 + 4 * 4 + 9 * 4 * 2)
    assert refused == {}


def test_a_planner_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="No planner is called 'nnet'"):
        list_networks((64, 64), 1, 2, Listing("cuda", ["nnet"]))


def test_networks_that_find_objects():
    listed, refused = list_networks((64, 64), 1, 3, Listing("cpu", ["unet", "hrnet"], "mask_rcnn"))
    assert {each.row.planner for each in listed} == {"unet"}
    assert {each.row.target for each in listed} == {"mask_rcnn"}
    assert listed[0].row.network.startswith("Mask R-CNN over the encoder of a U-Net with block separable")
    assert "needs the encoder of unet or residual_unet" in refused["hrnet stem=1 head=v2 2D"]


def test_a_workspace_gives_its_target(tmp_path):
    workspace, fingerprint = Workspace(tmp_path), synthetic_fingerprint([(999.0, 1.0, 1.0)] * 4, [(1, 90, 70)] * 4)
    write_record(fingerprint, workspace.fingerprint)
    write_record(make_plan(fingerprint, Budget(), "unet", "mask_rcnn"), workspace.plan)
    listed, _refused = list_networks_for(workspace, Listing("cuda", ["unet"]))
    assert listed[0].configuration.network.detection is not None
    labels, _refused = list_networks_for(workspace, Listing("cuda", ["unet"], "labels"))
    assert labels[0].configuration.network.detection is None
