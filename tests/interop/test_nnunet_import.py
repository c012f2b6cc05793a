import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoseg.errors import InteropError
from autoseg.interop.nnunet_import import import_nnunet
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.records.network import NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Plan, model_hash
from autoseg.records.workspace import Workspace
from autoseg.stages.predict import PredictionOptions, Predictor
from tests.interop.nnunet_models import (
    DATASET,
    OLD_KEYS,
    REGION_LABELS,
    REGIONS,
    architecture,
    changed,
    configuration,
    plans,
    weights,
    write_cascade,
    write_model,
)


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres")


def imported(source, tmp_path, **options) -> Workspace:
    import_nnunet(source, tmp_path / "model", **options)
    return Workspace(tmp_path / "model")


def weights_of(workspace, fold="0", name="3d_fullres"):
    return load_file(workspace.fold(name, fold) / "checkpoint_final.safetensors")


def made_weights(made=None, seed=1, **options):
    return weights((architecture() if made is None else made)["arch_kwargs"], 2, 3, seed=seed, **options)


def test_the_plan_says_what_plans_json_says(model, tmp_path):
    plan = read_record(Plan, imported(model, tmp_path).plan)
    found = plan.configurations["3d_fullres"]
    assert (plan.dataset_name, plan.planner, plan.orientation) == ("Dataset901_Made", "nnU-Net", "as_stored")
    assert (plan.transpose, plan.channel_names) == ((1, 0, 2), ("T1", "CT"))
    assert plan.labels == {"background": 0, "a": 1, "b": 2}
    assert (found.spacing, found.patch_size, found.batch_size) == ((2.5, 1.0, 1.25), (8, 16, 12), 2)
    assert found.median_shape == (9.0, 20.5, 15.0)
    assert found.normalization == (
        NormalizationSpec(scheme="zscore", use_mask=True, mean=51.0, std=20.0, lower=-8.0, upper=99.0),
        NormalizationSpec(scheme="ct", mean=51.0, std=20.0, lower=-8.0, upper=99.0),
    )
    assert found.resampling == ResamplingSpec()
    network = found.network
    assert (network.architecture, network.input_channels, network.output_channels) == ("unet", 2, 3)
    assert (network.encoder_blocks, network.decoder_blocks) == ((1, 2, 2), (1, 2))  # full resolution first
    assert found.training.mirror_axes == (0, 1, 2)
    assert found.training.batch_dice
    assert "nnUNetPlans" in plan.decisions[0].reason


def test_costs_are_counted_from_the_network(model, tmp_path):
    estimates = read_record(Plan, imported(model, tmp_path).plan).configurations["3d_fullres"].estimates
    own = {n: w for n, w in made_weights().items() if "all_modules" not in n and not n.startswith("decoder.encoder")}
    assert estimates.parameters == sum(tensor.numel() for tensor in own.values())
    voxels = [8 * 16 * 12, 8 * 8 * 6, 4 * 4 * 3]
    # (kernel voxels, features before, after) of every convolution at each level; then transposed ones by input voxels
    convolutions = [
        (0, 9, 2, 3), (1, 27, 3, 5), (1, 27, 5, 5), (2, 27, 5, 7), (2, 27, 7, 7),
        (1, 27, 10, 5), (1, 27, 5, 5), (0, 9, 6, 3), (0, 1, 3, 3),
    ]  # fmt: skip
    macs = sum(voxels[level] * kernel * before * after for level, kernel, before, after in convolutions)
    macs += voxels[2] * 8 * 7 * 5 + voxels[1] * 4 * 5 * 3
    macs += voxels[1] * 5 * 3  # the head of the lower decoder level, as in training
    assert estimates.macs == macs
    assert estimates.feature_map_elements == sum(voxels[level] * after for level, _, _, after in convolutions) + (
        voxels[1] * 5 + voxels[0] * 3
    )
    assert estimates.training_memory_bytes is None


def test_weights_arrive_under_our_names_fold_by_fold(model, tmp_path):
    workspace = imported(model, tmp_path)
    assert workspace.trained_folds("3d_fullres") == ("0", "all")
    for fold, seed in (("0", 1), ("all", 2)):
        ours, theirs = weights_of(workspace, fold), made_weights(seed=seed)
        for name, source in {
            "encoder.levels.2.1.convolution.weight": "encoder.stages.2.0.convs.1.conv.weight",
            "encoder.levels.0.0.normalization.bias": "encoder.stages.0.0.convs.0.norm.bias",
            "decoder.levels.0.blocks.0.convolution.weight": "decoder.stages.1.convs.0.conv.weight",
            "decoder.levels.1.blocks.1.convolution.bias": "decoder.stages.0.convs.1.conv.bias",
            "decoder.levels.1.upsampling.weight": "decoder.transpconvs.0.weight",
            "decoder.heads.0.bias": "decoder.seg_layers.1.bias",
        }.items():
            torch.testing.assert_close(ours[name], theirs[source], rtol=0, atol=0)
    plan = read_record(Plan, workspace.plan)
    record = read_record(Checkpoint, workspace.fold("3d_fullres", "all") / "checkpoint_final.json")
    assert (record.fold, record.epoch, record.elapsed_seconds, record.best_pseudo_dice) == ("all", 2, 18.0, 0.625)
    assert record.model_hash == model_hash(plan, "3d_fullres")
    assert record.imported_from.endswith("fold_all/checkpoint_final.pth")


def test_the_predictor_loads_it_unchanged(model, tmp_path):
    image = torch.rand(2, 6, 9, 10).numpy() * 90
    predictor = Predictor(imported(model, tmp_path).root, PredictionOptions(device="cpu", precision="fp32"))
    assert predictor.members[0].folds == ("0",)  # `all` only when there is no other, as in nnU-Net
    prediction = predictor.predict(image, spacing=(1.0, 2.5, 1.25))
    assert prediction.labels.shape == (6, 9, 10)


def test_best_weights_come_along_and_a_fold_without_final_ones_does_not(model, tmp_path):
    shutil.copy(model / "fold_all" / "checkpoint_final.pth", model / "fold_0" / "checkpoint_best.pth")
    shutil.copytree(model / "fold_0", model / "fold_3")
    (model / "fold_3" / "checkpoint_final.pth").unlink()
    workspace = imported(model, tmp_path)
    assert workspace.trained_folds("3d_fullres") == ("0", "all")
    assert workspace.trained_folds("3d_fullres", "best") == ("0",)
    assert not read_record(Checkpoint, workspace.fold("3d_fullres", "0") / "checkpoint_best.json").finished


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_compiled_and_parallel_networks_are_taken_off(tmp_path, prefix):
    workspace = imported(write_model(tmp_path / "made", prefix=prefix), tmp_path)
    plain = made_weights()["encoder.stages.0.0.convs.0.conv.weight"]
    torch.testing.assert_close(weights_of(workspace)["encoder.levels.0.0.convolution.weight"], plain)


def test_a_residual_encoder_arrives_block_by_block(tmp_path):
    made = architecture("ResidualEncoderUNet")
    source = write_model(tmp_path / "made", plans({"3d_fullres": configuration(architecture=made)}))
    workspace = imported(source, tmp_path)
    assert read_record(Plan, workspace.plan).configurations["3d_fullres"].network.architecture == "residual_unet"
    ours, theirs = weights_of(workspace), made_weights(made)
    for name, original in {
        "encoder.levels.0.0.convolution.weight": "encoder.stem.convs.0.conv.weight",
        "encoder.levels.0.1.first.convolution.weight": "encoder.stages.0.blocks.0.conv1.conv.weight",
        "encoder.levels.1.0.projection.convolution.weight": "encoder.stages.1.blocks.0.skip.1.conv.weight",
        "encoder.levels.2.1.second.normalization.weight": "encoder.stages.2.blocks.1.conv2.norm.weight",
    }.items():
        torch.testing.assert_close(ours[name], theirs[original], rtol=0, atol=0)
    Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))


def test_convolutions_without_bias_get_zeros(tmp_path):
    made = architecture(conv_bias=False)
    source = write_model(tmp_path / "made", plans({"3d_fullres": configuration(architecture=made)}))
    ours = weights_of(imported(source, tmp_path))
    for name in ("encoder.levels.1.1.convolution.bias", "decoder.levels.0.upsampling.bias"):
        assert ours[name].abs().max() == 0


def test_batch_normalisation_is_known_by_its_weights(tmp_path):
    workspace = imported(write_model(tmp_path / "made", trainer="nnUNetTrainerBN", batch_norm=True), tmp_path)
    assert read_record(Plan, workspace.plan).configurations["3d_fullres"].network.normalization == "batch"
    ours = weights_of(workspace)
    theirs = made_weights(batch_norm=True)["encoder.stages.1.0.convs.0.norm.running_var"]
    torch.testing.assert_close(ours["encoder.levels.1.0.normalization.running_var"], theirs)
    Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))


def test_plans_from_before_architecture_are_read(tmp_path):
    old = {key: value for key, value in configuration().items() if key != "architecture"} | OLD_KEYS
    made = plans({"3d_fullres": old})
    made["foreground_intensity_properties_by_modality"] = made.pop("foreground_intensity_properties_per_channel")
    dataset = {"modality" if key == "channel_names" else key: value for key, value in DATASET.items()}
    found = read_record(Plan, imported(write_model(tmp_path / "made", made, dataset), tmp_path).plan)
    network = found.configurations["3d_fullres"].network
    assert network.features == (3, 6, 7)
    assert network.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert (network.encoder_blocks, network.decoder_blocks) == ((1, 2, 2), (1, 2))
    assert found.channel_names == ("T1", "CT")
    assert found.configurations["3d_fullres"].normalization[1].upper == 99.0


@pytest.mark.parametrize(
    "names", [{"T1": "T1", "CT": "CT"}, {"b": "T1", "a": "CT"}, {"1": "CT", "0": "T1"}, {"0000": "T1", "0001": "CT"}]
)
def test_keys_of_channel_names_are_numbers_or_mean_nothing(names, tmp_path):
    made = write_model(tmp_path / "made", dataset={**DATASET, "channel_names": names})
    assert read_record(Plan, imported(made, tmp_path).plan).channel_names == ("T1", "CT")


def test_regions_and_the_ignore_label_decide_the_heads(tmp_path):
    dataset = {**DATASET, **REGIONS, "labels": {**REGION_LABELS, "ignore": 4}}
    plan = read_record(Plan, imported(write_model(tmp_path / "made", dataset=dataset), tmp_path).plan)
    assert plan.encoding.activation == "sigmoid"
    assert [(head.name, head.painted_index) for head in plan.encoding.heads] == [("whole", 1), ("core", 2), ("rim", 3)]
    assert plan.encoding.ignore_value == 4


def test_a_cascade_brings_both_stages_and_nnunets_rule_between_them(tmp_path):
    workspace = imported(write_cascade(tmp_path), tmp_path)
    plan = read_record(Plan, workspace.plan)
    assert set(plan.configurations) == {"3d_lowres", "3d_cascade_fullres"}  # 3d_fullres is not trained
    cascade = plan.configurations["3d_cascade_fullres"]
    assert (cascade.previous_configuration, cascade.previous_labels) == ("3d_lowres", "label_map")
    assert cascade.network.input_channels == 4  # two channels and two labels
    assert cascade.spacing == (2.5, 1.0, 1.25)
    assert plan.configurations["3d_lowres"].spacing == (4.0, 2.0, 2.0)
    predictor = Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))
    (member,) = predictor.members
    assert member.previous is not None
    assert member.previous.folds == ("0", "1")


def test_a_zip_of_a_dataset_is_a_model_too(tmp_path):
    folder = write_cascade(tmp_path)
    with zipfile.ZipFile(tmp_path / "exported.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    assert imported(tmp_path / "exported.zip", tmp_path).trained_folds("3d_lowres") == ("0", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Dataset901_Made", "exported.zip", "model"]


def test_a_zip_whose_member_leaves_the_folder_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../plans.json", "{}")
    with pytest.raises(InteropError, match=r"bad.zip: nothing was unpacked.*'../plans.json' leaves the folder"):
        imported(tmp_path / "bad.zip", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]


def test_of_several_trainers_one_has_to_be_named(tmp_path):
    for trainer, seed in (("nnUNetTrainer", 1), ("nnUNetTrainer_50epochs", 5)):
        write_model(tmp_path / "Dataset901" / f"{trainer}__nnUNetPlans__3d_fullres", trainer=trainer, seed=seed)
    with pytest.raises(InteropError, match=r"nnUNetTrainer__nnUNetPlans; .*--trained-as TRAINER__PLANS"):
        imported(tmp_path / "Dataset901", tmp_path)
    workspace = imported(tmp_path / "Dataset901", tmp_path, trained_as="nnUNetTrainer_50epochs__nnUNetPlans")
    torch.testing.assert_close(
        weights_of(workspace)["decoder.heads.0.bias"], made_weights(seed=5)["decoder.seg_layers.1.bias"]
    )


def test_reorientation_to_ras_becomes_an_orientation_and_an_unknown_reader_is_refused(tmp_path):
    source = write_model(tmp_path / "made", plans(image_reader_writer="NibabelIOWithReorient"))
    assert read_record(Plan, imported(source, tmp_path).plan).orientation == "canonical_ras"
    other = write_model(tmp_path / "other", plans(image_reader_writer="MyReader"))
    with pytest.raises(InteropError, match="images were read by MyReader"):
        import_nnunet(other, tmp_path / "second")


def test_an_own_trainer_whose_weights_fit_is_imported_with_a_warning(tmp_path, caplog):
    workspace = imported(write_model(tmp_path / "made", trainer="MyTrainer"), tmp_path)
    assert "trained by MyTrainer, which does not come with nnU-Net" in caplog.text
    reasons = [decision.reason for decision in read_record(Plan, workspace.plan).decisions]
    assert any("MyTrainer does not come with nnU-Net." in reason for reason in reasons)


FOREIGN = {
    "architecture.network_class_name": ("my_package.MyNet", r"the network is my_package\.MyNet"),
    "architecture.arch_kwargs.nonlin": ("torch.nn.GELU", r"nonlin = 'torch\.nn\.GELU'"),
    "architecture.arch_kwargs.nonlin_kwargs": ({"negative_slope": 0.2}, r"nonlin_kwargs = .*0\.2"),
    "architecture.arch_kwargs.attention": (True, "attention = True"),
    "normalization_schemes": (["MyNormalization", "CTNormalization"], "normalised by MyNormalization"),
    "resampling_fn_probabilities": ("resample_torch_fornnunet", "resampling_fn_probabilities = resample_torch"),
    "resampling_fn_data_kwargs.order_z": (1, "the resampling of data and probabilities differs in order_z"),
    "inherits_from": ("3d_fullres", "inherit in a circle: 3d_fullres -> 3d_fullres"),
    "previous_stage": ("3d_lowres", "takes the label maps of 3d_lowres as input, which is missing"),
    "patch_size": ([8, 16, 13], r"multiple of the total stride \(2, 4, 4\)"),
    "spacing": ("wide", "configuration 3d_fullres: not a file of nnU-Net v2: spacing"),
    "architecture.arch_kwargs.n_stages": (10**9, "n_stages is 1000000000, expected 1 to 32"),
    "architecture.arch_kwargs.norm_op_kwargs": ([1], "does not make a configuration of autoseg: AttributeError"),
    "architecture.arch_kwargs.features_per_stage": (
        [3, 5],
        "does not make a configuration of autoseg: .*strides: 3 entries, expected 2",
    ),
    "batch_size": (10**30, "does not make a configuration of autoseg: batch_size: Input should be less than"),
}


@pytest.mark.parametrize("path", FOREIGN)
def test_what_cannot_be_imported_is_said_by_name(model, tmp_path, path):
    value, message = FOREIGN[path]
    made = plans()
    made["configurations"]["3d_fullres"] = changed(configuration(), path, value)
    (model / "plans.json").write_text(json.dumps(made))
    with pytest.raises(InteropError, match=message):
        imported(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_a_long_chain_of_inheritance_is_followed(tmp_path):
    links = {f"link_{index}": {"inherits_from": f"link_{index + 1}"} for index in range(3000)}
    made = plans({"3d_fullres": {"inherits_from": "link_0"}, **links, "link_3000": configuration()})
    source = write_model(tmp_path / "made", made)
    assert read_record(Plan, imported(source, tmp_path).plan).configurations["3d_fullres"].patch_size == (8, 16, 12)


def test_damage_inside_a_zip_file_is_named_by_the_zip_file(model, tmp_path):
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"PK damaged")
    archive = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", model))
    with pytest.raises(InteropError) as caught:
        imported(archive, tmp_path)
    assert str(caught.value).startswith(f"{archive}/fold_0/checkpoint_final.pth: not a torch checkpoint")


@pytest.mark.parametrize("step", ["x", "9" * 5000, "-1"])
def test_weights_with_odd_names_belong_to_another_network(tmp_path, step):
    source = write_model(tmp_path / "made", folds=(0,))
    path = source / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"][f"decoder.transpconvs.{step}.weight"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(InteropError, match=r"the weights do not belong to the network in plans.json"):
        imported(source, tmp_path)


@pytest.mark.parametrize("name", ["../../victim/models/3d_fullres", "ABSOLUTE", "..", ""])
def test_a_configuration_name_that_leads_out_of_the_output_is_refused(tmp_path, name):
    name = str(tmp_path / "elsewhere") if name == "ABSOLUTE" else name
    victim = tmp_path / "victim" / "models" / "3d_fullres" / "fold_0" / "checkpoint_final.safetensors"
    victim.parent.mkdir(parents=True)
    victim.write_text("precious")
    source = write_model(tmp_path / "source" / "model", plans({name: configuration()}), name=name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InteropError, match=r"checkpoint_final\.pth: its configuration is called .*leads out of"):
        imported(source, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5_000])
def test_json_that_cannot_be_read_is_named(model, tmp_path, name, content):
    (model / name).write_text(content)
    with pytest.raises(InteropError, match=rf"{name}: cannot be read as JSON.*Copy this file"):
        imported(model, tmp_path)


def test_an_ending_that_leads_out_of_the_output_is_refused(model, tmp_path):
    (model / "dataset.json").write_text(json.dumps(DATASET | {"file_ending": "/../../victim.nii.gz"}))
    with pytest.raises(InteropError, match=r"dataset\.json: .*file_ending: leads out of its folder"):
        imported(model, tmp_path)


def test_a_trainer_that_builds_another_network_is_refused(model, tmp_path):
    path = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["trainer_name"] = "MyTrainer"
    content["network_weights"]["encoder.attention.weight"] = torch.zeros(2)
    del content["network_weights"]["decoder.seg_layers.1.weight"]
    torch.save(content, path)
    with pytest.raises(InteropError, match=r"MyTrainer: the weights do not .*attention\.weight.*heads\.0\.weight"):
        imported(model, tmp_path)


def test_folds_of_different_configurations_are_refused(model, tmp_path):
    path = model / "fold_all" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["init_args"]["configuration"] = "3d_lowres"
    torch.save(content, path)
    with pytest.raises(InteropError, match=r"fold_all/checkpoint_final\.pth: has configuration 3d_lowres"):
        imported(model, tmp_path)


def test_incomplete_folders_are_named(model, tmp_path):
    (model / "plans.json").rename(tmp_path / "plans.json")
    with pytest.raises(InteropError, match=r"3d_fullres: no plans\.json beside the folds"):
        imported(model, tmp_path)
    (tmp_path / "plans.json").rename(model / "plans.json")
    for fold in ("0", "all"):
        (model / f"fold_{fold}" / "checkpoint_final.pth").rename(model / f"fold_{fold}" / "checkpoint_latest.pth")
    with pytest.raises(InteropError, match=r"no fold has a checkpoint_final\.pth \(fold_0: checkpoint_latest\.pth"):
        imported(model, tmp_path)
    for fold in ("0", "all"):
        shutil.rmtree(model / f"fold_{fold}")
    with pytest.raises(InteropError, match="there is no folder fold_0, fold_1"):
        imported(model, tmp_path)


def test_what_is_no_model_is_said(planned_phantoms, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in {
        tmp_path / "empty": "no model of nnU-Net v2 here",
        tmp_path / "nowhere": "does not exist",
        planned_phantoms.root: "is already a model of autoseg",
    }.items():
        with pytest.raises(InteropError, match=message):
            imported(source, tmp_path)


def test_a_target_that_holds_something_is_left_alone(model, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(InteropError, match=r"model: already exists\. Choose another folder"):
        imported(model, tmp_path)
    (tmp_path / "model" / "mine.txt").unlink()
    assert imported(model, tmp_path).plan.is_file()  # an empty folder is taken
