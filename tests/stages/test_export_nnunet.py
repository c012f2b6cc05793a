"""What is exported for nnU-Net is imported again as the same model."""

import json
import zipfile

import numpy as np
import pytest

from autoseg.cli.main import DONE, UNUSABLE, main
from autoseg.errors import InteropError
from autoseg.interop.nnunet_import import import_nnunet
from autoseg.networks.weight_files import read_weights
from autoseg.records.files import read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.manifest import Manifest
from autoseg.records.network import NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Plan
from autoseg.records.selection import KeepLargestComponent, Selection
from autoseg.records.sides import Sides
from autoseg.records.workspace import Workspace
from autoseg.stages.export import ExportOptions
from autoseg.stages.export_nnunet import export_nnunet
from tests.builders import (
    CASCADE,
    REGIONS,
    SHAPE,
    load_exactly,
    make_cascade_plan,
    make_case_fingerprint,
    make_configuration,
    make_fingerprint,
    make_image,
    make_network_spec,
    make_plan,
    write_model,
    write_nifti,
)

NAME = "3d_fullres"
CLOSE = {"background": 0, "a": 1, "b": 2}
FOLDER = "Dataset900_made"


def there_and_back(model, tmp_path, **options):
    export_nnunet(model, tmp_path / "results", ExportOptions(**options))
    import_nnunet(tmp_path / "results", tmp_path / "back")
    return tmp_path / "back"


def equal_weights(first, second, name, fold):
    ours, theirs = (read_weights(one.fold(name, fold) / "checkpoint_final.safetensors") for one in (first, second))
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        np.testing.assert_array_equal(tensor.numpy(), theirs[key].numpy(), err_msg=key)


def write_uneven_model(root, architecture, normalization):
    network = make_network_spec(
        architecture=architecture, normalization=normalization, features=(4, 6, 6),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), encoder_blocks=(1, 2, 1), decoder_blocks=(1, 2),
    )  # fmt: skip
    configuration = make_configuration(
        (3.0, 1.2, 1.0), network=network,
        normalization=(NormalizationSpec(scheme="ct", mean=1.0, std=30.0, lower=-60.0, upper=70.0),),
        resampling=ResamplingSpec(anisotropy_threshold=2.0, logits_order=2),
    )  # fmt: skip
    plan = make_plan(configurations={NAME: configuration}, labels=CLOSE, transpose=(1, 0, 2))
    return write_model(root, plan, {NAME: ("0", "2")}, mirror_axes=(0, 2))


@pytest.mark.parametrize("architecture", ["unet", "residual_unet"])
@pytest.mark.parametrize("normalization", ["instance", "batch"])
def test_networks_and_settings_are_equal(tmp_path, architecture, normalization):
    workspace = write_uneven_model(tmp_path / "model", architecture, normalization)
    back = Workspace(there_and_back(workspace.root, tmp_path))
    plan, read = (read_record(Plan, one.plan) for one in (workspace, back))
    ours, theirs = (one.configurations[NAME] for one in (plan, read))
    for field in ("spacing", "patch_size", "batch_size", "network", "normalization", "resampling", "median_shape"):
        assert getattr(theirs, field) == getattr(ours, field), field
    assert theirs.training.mirror_axes == (0, 2)
    assert (read.encoding, read.transpose, read.channel_names) == (plan.encoding, plan.transpose, plan.channel_names)
    for fold in ("0", "2"):
        equal_weights(workspace, back, NAME, fold)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["unet", "residual_unet"])
def test_label_maps_are_equal(tmp_path, architecture):
    workspace = write_uneven_model(tmp_path / "model", architecture, "instance")
    back = there_and_back(workspace.root, tmp_path)
    path = write_nifti(make_image(), tmp_path / "image.nii.gz")
    ours, theirs = (load_exactly(model).predict(path).labels for model in (workspace.root, back))
    assert len(np.unique(ours)) > 1
    assert (theirs != ours).mean() < 1e-3  # the imported one decides on logits in float16


def test_two_dimensions_regions_and_channels(tmp_path):
    plan = make_plan({"2d": (1.1, 0.9)}, labels=REGIONS, channel_names=("T1", "T2"))
    workspace = write_model(tmp_path / "model", plan, {"2d": ("all",)})
    back = there_and_back(workspace.root, tmp_path)
    assert read_record(Plan, Workspace(back).plan).encoding == plan.encoding
    equal_weights(workspace, Workspace(back), "2d", "all")


def test_both_steps_of_a_cascade_are_exported(tmp_path):
    plan = make_cascade_plan((4.0, 2.0, 2.0), (2.0, 1.0, 1.0), labels=CLOSE)
    workspace = write_model(tmp_path / "model", plan, dict.fromkeys(("3d_lowres", NAME, CASCADE), ("0",)))
    back = there_and_back(workspace.root, tmp_path, configurations=(CASCADE,))
    read = read_record(Plan, Workspace(back).plan)
    assert read.configurations.keys() == {"3d_lowres", CASCADE}
    assert read.configurations[CASCADE].previous_configuration == "3d_lowres"
    for name in ("3d_lowres", CASCADE):
        equal_weights(workspace, Workspace(back), name, "0")


def test_an_archive_lies_as_nnunet_installs_it(tmp_path, capsys, caplog):
    plan = make_plan({NAME: (2.0, 1.2, 1.2)}, labels=CLOSE)
    workspace = write_model(tmp_path / "model", plan, {NAME: ("0",)})
    write_record(make_fingerprint([make_case_fingerprint("secret", SHAPE)], plan), workspace.fingerprint)
    assert read_record(Fingerprint, workspace.fingerprint).cases
    steps = (KeepLargestComponent(labels=("a",)),)
    selection = Selection(
        configurations=(NAME,), folds=("0",), postprocessing=steps, mean_foreground_dice=None, candidates=(), reasons=()
    )
    write_record(selection, workspace.selection)
    archive = tmp_path / "model.zip"
    words = ["export", str(workspace.root), "-o", str(archive), "--format", "nnunet", "--license", "MIT"]
    assert main(words) == DONE
    assert "Post-processing is left out" in caplog.text + "".join(capsys.readouterr())
    model = f"{FOLDER}/nnUNetTrainer__nnUNetPlans__{NAME}"
    with zipfile.ZipFile(archive) as opened:
        files = {f"{model}/plans.json", f"{model}/dataset.json", f"{model}/fold_0/checkpoint_final.pth"}
        assert set(opened.namelist()) == {"manifest.json", f"{model}/dataset_fingerprint.json", *files}
        dataset = json.loads(opened.read(f"{model}/dataset.json"))
        assert b"secret" not in b"".join(map(opened.read, opened.namelist()))
        assert Manifest.model_validate_json(opened.read("manifest.json")).format == "nnunet"
    assert (dataset["licence"], dataset["numTraining"]) == ("MIT", 1)
    assert "Post-processing is left out" in dataset["description"]
    assert main(["predict", "-m", str(archive), "-i", str(tmp_path), "-o", str(tmp_path / "out")]) == UNUSABLE
    assert "autoseg import-nnunet" in "".join(capsys.readouterr())
    assert main([*words, "--overwrite"]) == DONE
    assert main(["import-nnunet", str(archive), "-o", str(tmp_path / "back")]) == DONE


def test_nothing_is_written_when_nnunet_lacks_the_network(tmp_path):
    network = make_network_spec(architecture="unext", features=(4, 4, 6), token_levels=1)
    plan = make_plan(configurations={NAME: make_configuration(network=network)})
    workspace = write_model(tmp_path / "model", plan, {NAME: ("0",)})
    with pytest.raises(InteropError, match="unext"):
        export_nnunet(workspace.root, tmp_path / "results")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_labels_that_change_places_keep_nnunet_from_mirroring_left_to_right(tmp_path):
    plan = make_plan({NAME: (2.0, 1.0, 1.0)}, labels={"background": 0, "left": 1, "right": 2})
    sides = Sides(axis=2, pairs=(("left", "right"),))
    workspace = write_model(tmp_path / "model", plan, {NAME: ("0",)}, mirror_axes=(0, 2), sides=sides)
    back = there_and_back(workspace.root, tmp_path)
    training = read_record(Plan, Workspace(back).plan).configurations[NAME].training
    assert (training.mirror_axes, training.sides) == ((0,), None)
    described = next((tmp_path / "results").rglob("dataset.json")).read_text()
    assert f"{NAME}: nnU-Net does not mirror it from left to right" in described
