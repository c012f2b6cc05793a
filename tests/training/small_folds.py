"""Folds of the phantoms that train in milliseconds a step."""

from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from autoseg.records.clicks import ClickSettings
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.training.options import TrainingOptions
from autoseg.training.steps import gradients, loop

NAME = "3d_fullres"
SHORT = TrainingOptions(device="cpu", precision="fp32", epochs=2, steps_per_epoch=3, workers=0)


def shrink_plan(workspace):
    """Only `3d_fullres`, four features and a small patch, so that a step takes milliseconds."""
    plan = read_record(Plan, workspace.plan)
    configuration = plan.configurations[NAME]
    network = configuration.network.model_copy(
        update={
            "features": (4, 8),
            "strides": ((1, 1, 1), (1, 2, 2)),
            "kernel_sizes": ((1, 3, 3), (3, 3, 3)),
            "encoder_blocks": (1, 1),
            "decoder_blocks": (1,),
        }
    )
    training = configuration.training.model_copy(update={"validation_steps": 1, "time_per_fold_seconds": None})
    changed = configuration.model_copy(
        update={"network": network, "training": training, "patch_size": (8, 16, 16), "batch_size": 2}
    )
    write_record(plan.model_copy(update={"configurations": {NAME: changed}}), workspace.plan)


def give_point_head(workspace):
    """A level more below those of the small plan, and a decoder that ends at half of the resolution."""
    plan = read_record(Plan, workspace.plan)
    configuration = plan.configurations[NAME]
    network = configuration.network.model_copy(
        update={
            "features": (4, 6, 8),
            "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
            "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
            "encoder_blocks": (1, 1, 1),
            "decoder_blocks": (1, 1),
            "head": "points",
            "coarse_level": 1,
        }
    )
    changed = configuration.model_copy(update={"network": network})
    write_record(plan.model_copy(update={"configurations": {NAME: changed}}), workspace.plan)


def add_cascade(workspace):
    """A second stage on the same grid: one channel more for each of the three labels."""
    plan = read_record(Plan, workspace.plan)
    first = plan.configurations[NAME]
    network = first.network.model_copy(update={"input_channels": first.network.input_channels + 3})
    second = first.model_copy(update={"network": network, "previous_configuration": NAME, "preprocessed_as": NAME})
    configurations = {NAME: first, "3d_cascade_fullres": second}
    write_record(plan.model_copy(update={"configurations": configurations}), workspace.plan)


def add_interactive(workspace):
    """What corrects the label maps of the small configuration: channels of clicks and of its labels."""
    plan = read_record(Plan, workspace.plan)
    first, num_values = plan.configurations[NAME], len(plan.encoding.values)
    inputs = first.network.input_channels + 2 * num_values - 1
    changes = {
        "network": first.network.model_copy(update={"input_channels": inputs}),
        "previous_configuration": NAME,
        "previous_labels": "label_map",
        "clicks": ClickSettings(reach_mm=6.0),
    }
    configurations = {NAME: first, "interactive": first.model_copy(update=changes)}
    write_record(plan.model_copy(update={"configurations": configurations}), workspace.plan)


def short(**changes):
    return TrainingOptions(**{**vars(SHORT), **changes})


def weights(workspace, fold="0", name=NAME):
    return load_file(workspace.fold(name, fold) / "checkpoint_final.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def snapshot(folder):
    """Content of every file but the log."""
    return {path: path.read_bytes() for path in folder.rglob("*.*") if path.name != "log.txt"}


def change_schedule(workspace, **changes):
    plan = read_record(Plan, workspace.plan)
    configuration = plan.configurations[NAME]
    training = configuration.training.model_copy(update=changes)
    changed = configuration.model_copy(update={"training": training})
    write_record(plan.model_copy(update={"configurations": {NAME: changed}}), workspace.plan)


@contextmanager
def killed_at(step, monkeypatch):
    """A training within ends with an error where the gradients of this step begin."""
    compute = gradients.compute_gradients

    def end(run, *arguments):
        if run.step == step:
            raise RuntimeError("killed")
        return compute(run, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "compute_gradients", end)
        with pytest.raises(RuntimeError, match="killed"):
            yield
