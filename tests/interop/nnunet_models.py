"""Trained models as nnU-Net v2 writes them, made by hand: every name and every shape is written down here once more."""

import copy
import json
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TRAINER = "nnUNetTrainer"

RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}

DATASET = {
    "channel_names": {"0": "T1", "1": "CT"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}

REGION_LABELS: dict[str, int | list[int]] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}
REGIONS = {"labels": REGION_LABELS, "regions_class_order": [1, 2, 3]}


def architecture(name="PlainConvUNet", **changes):
    """Three levels; the middle one has a stride along two axes only."""
    blocks = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}[name]
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [3, 5, 7],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            blocks: [1, 2, 2],
            "n_conv_per_stage_decoder": [2, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            **changes,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(**changes):
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 12],
        "median_image_size_in_voxels": [9.0, 20.5, 15.0],
        "spacing": [2.5, 1.0, 1.25],
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
        "use_mask_for_norm": [True, False],
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": RESAMPLING,
        "resampling_fn_seg_kwargs": {**RESAMPLING, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**RESAMPLING, "order": 1},
        "batch_dice": True,
        "architecture": architecture(),
        **changes,
    }


OLD_KEYS = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 3,
    "n_conv_per_stage_encoder": [1, 2, 2],
    "n_conv_per_stage_decoder": [2, 1],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "unet_max_num_features": 7,
}
"""Instead of `architecture`; features 3, 6, 7."""


def plans(configurations=None, **changes):
    statistics = {"max": 900.0, "mean": 51.0, "median": 50.0, "min": -9.0, "percentile_00_5": -8.0,
                  "percentile_99_5": 99.0, "std": 20.0}  # fmt: skip
    return {
        "dataset_name": "Dataset901_Made",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.5, 1.0, 1.25],
        "original_median_shape_after_transp": [9, 20, 15],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {"3d_fullres": configuration()} if configurations is None else configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": statistics, "1": statistics},
        **changes,
    }


class Drawn:
    """Random weights under nnU-Net's names; `tensors` is filled by the methods, in nnU-Net's order of layers."""

    def __init__(self, *, bias, batch_norm, seed):
        self.tensors: dict[str, Tensor] = {}
        self.bias, self.batch_norm = bias, batch_norm
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, name, *shape):
        self.tensors[name] = torch.randn(shape, generator=self.generator) / prod(shape[1:]) ** 0.5

    def layer(self, name, before, after, kernel, *, bias=True):
        """One convolution with its normalisation, listed twice."""
        for conv, norm in (("conv", "norm"), ("all_modules.0", "all_modules.1")):
            self.draw(f"{name}.{conv}.weight", after, before, *kernel)
            if self.bias and bias:
                self.draw(f"{name}.{conv}.bias", after)
            self.draw(f"{name}.{norm}.weight", after)
            self.draw(f"{name}.{norm}.bias", after)
            if self.batch_norm:
                self.tensors[f"{name}.{norm}.running_mean"] = torch.randn(after, generator=self.generator)
                self.tensors[f"{name}.{norm}.running_var"] = torch.rand(after, generator=self.generator) + 0.5
                self.tensors[f"{name}.{norm}.num_batches_tracked"] = torch.tensor(7)

    def plain_encoder(self, arguments, before):
        for level, after in enumerate(arguments["features_per_stage"]):
            for i in range(arguments["n_conv_per_stage"][level]):
                self.layer(f"encoder.stages.{level}.0.convs.{i}", before, after, arguments["kernel_sizes"][level])
                before = after

    def residual_encoder(self, arguments, inputs):
        features, kernels = arguments["features_per_stage"], arguments["kernel_sizes"]
        self.layer("encoder.stem.convs.0", inputs, features[0], kernels[0])
        before = features[0]
        for level, after in enumerate(features):
            for i in range(arguments["n_blocks_per_stage"][level]):
                block = f"encoder.stages.{level}.blocks.{i}"
                self.layer(f"{block}.conv1", before, after, kernels[level])
                self.layer(f"{block}.conv2", after, after, kernels[level])
                if before != after:
                    pooled = int(max(arguments["strides"][level]) > 1)  # the pooling comes first in the shortcut
                    self.layer(f"{block}.skip.{pooled}", before, after, (1,) * len(kernels[level]), bias=False)
                before = after

    def decoder(self, arguments, heads):
        features = arguments["features_per_stage"]
        for step, count in enumerate(arguments["n_conv_per_stage_decoder"]):
            level = len(features) - 2 - step
            stride = arguments["strides"][level + 1]
            for i in range(count):
                before = 2 * features[level] if i == 0 else features[level]
                self.layer(
                    f"decoder.stages.{step}.convs.{i}", before, features[level], arguments["kernel_sizes"][level]
                )
            self.draw(f"decoder.transpconvs.{step}.weight", features[level + 1], features[level], *stride)
            if self.bias:
                self.draw(f"decoder.transpconvs.{step}.bias", features[level])
            self.draw(f"decoder.seg_layers.{step}.weight", heads, features[level], *[1] * len(stride))
            self.draw(f"decoder.seg_layers.{step}.bias", heads)


def weights(arguments, inputs, heads, *, seed=1, batch_norm=False) -> dict[str, Tensor]:
    """Drawn at random, under nnU-Net's names, its repetitions included."""
    drawn = Drawn(bias=arguments["conv_bias"], batch_norm=batch_norm, seed=seed)
    if "n_blocks_per_stage" in arguments:
        drawn.residual_encoder(arguments, inputs)
    else:
        drawn.plain_encoder(arguments, inputs)
    drawn.tensors |= {f"decoder.{name}": tensor for name, tensor in drawn.tensors.items()}
    drawn.decoder(arguments, heads)
    return drawn.tensors


def checkpoint(network_weights, name="3d_fullres", fold: int | str = 0, *, trainer=TRAINER, axes=(0, 1, 2)):
    """As `nnUNetTrainer.save_checkpoint` writes it, with logged numbers of numpy's types."""
    return {
        "network_weights": network_weights,
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [np.float64(0.25)], "dice_per_class_or_region": [[np.float32(0.5), np.float32(0.75)]],
            "lrs": [0.01], "epoch_start_timestamps": [100.0, 200.0], "epoch_end_timestamps": [107.0, 211.0],
        },
        "_best_ema": np.float64(0.625),
        "current_epoch": 2,
        "init_args": {"plans": {}, "configuration": name, "fold": fold, "dataset_json": {},
                      "device": torch.device("cuda")},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": axes,
    }  # fmt: skip


def write_model(
    folder: Path, made_plans=None, dataset=DATASET, *, name="3d_fullres", folds=(0, "all"), trainer=TRAINER, seed=1,
    prefix="", batch_norm=False, heads=3, inputs=2, axes=(0, 1, 2),
) -> Path:  # fmt: skip
    """A model folder; the weights fit the first architecture found from the configuration upwards."""
    made_plans = plans() if made_plans is None else made_plans
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(made_plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    own = made_plans["configurations"][name]
    while "inherits_from" in own:
        own = {**made_plans["configurations"][own["inherits_from"]],
               **{key: value for key, value in own.items() if key != "inherits_from"}}  # fmt: skip
    arguments = own.get("architecture", architecture(features_per_stage=[3, 6, 7]))["arch_kwargs"]
    for index, fold in enumerate(folds):
        made = weights(arguments, inputs, heads, seed=seed + index, batch_norm=batch_norm)
        path = folder / f"fold_{fold}"
        path.mkdir(exist_ok=True)
        content = checkpoint(
            {prefix + key: value for key, value in made.items()}, name, fold, trainer=trainer, axes=axes
        )
        torch.save(content, path / "checkpoint_final.pth")
    return folder


def changed(content, path, value):
    """A deep copy with one nested entry replaced; `path` has dots."""
    content = copy.deepcopy(content)
    *parents, last = path.split(".")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return content


def write_cascade(root: Path, **low) -> Path:
    """A dataset folder with 3d_lowres and the cascade that follows it, by inheritance from a 3d_fullres not trained."""
    configurations = {
        "3d_lowres": configuration(spacing=[4.0, 2.0, 2.0], next_stage="3d_cascade_fullres", **low),
        "3d_fullres": configuration(),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    made = plans(configurations)
    for name, inputs in (("3d_cascade_fullres", 4), ("3d_lowres", 2)):
        folder = root / "Dataset901_Made" / f"{TRAINER}__nnUNetPlans__{name}"
        write_model(folder, made, name=name, folds=(0, 1), inputs=inputs)
    return root / "Dataset901_Made"
