"""nnU-Net's own training step and transforms, in a process of the environment that holds it; for bench_training.py."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from autoseg.records.plan import Configuration

NNUNET = """
import json, sys, time
import numpy as np, torch
from torch import nn
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
o = json.loads(sys.argv[1])
torch.set_num_threads(o["threads"])
levels, patch = len(o["features"]), o["patch"]
network = PlainConvUNet(
    o["channels"], levels, o["features"], nn.Conv3d, o["kernels"], o["strides"], o["encoder_blocks"], o["labels"],
    o["decoder_blocks"], True, nn.InstanceNorm3d, {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU,
    {"inplace": True}, deep_supervision=True)
optimizer = torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
weights = np.array([1 / 2 ** level for level in range(levels - 1)])
weights[-1] = 0
loss = DeepSupervisionWrapper(DC_and_CE_loss(
    {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, weight_ce=1, weight_dice=1,
    ignore_label=None, dice_class=MemoryEfficientSoftDiceLoss), weights / weights.sum())
image = torch.randn(o["batch"], o["channels"], *patch)
targets, shape = [], np.array(patch)
for stride in o["strides"][:-1]:
    shape = shape // stride
    targets.append(torch.randint(0, o["labels"], (o["batch"], 1, *shape)).float())
flat = max(patch) / patch[0] > 3
angle = np.pi / (12 if max(patch[1:]) / min(patch[1:]) > 1.5 else 2 if flat else 6)
turn = [(-np.pi, np.pi), (0, 0), (0, 0)] if flat else [(-angle, angle)] * 3
initial = get_patch_size(np.array(patch), *turn, (0.85, 1.25))
if flat:
    initial[0] = patch[0]
scales = [[1, 1, 1]]
for stride in o["strides"][1:-1]:
    scales.append(list(np.array(scales[-1]) / stride))
transforms = nnUNetTrainer.get_training_transforms(patch, turn[0], scales, o["mirror_axes"], flat)
volume = torch.randn(o["channels"], *initial)
labels = torch.randint(0, o["labels"], (1, *initial)).short()
def step():
    optimizer.zero_grad(set_to_none=True)
    loss(network(image), targets).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
    optimizer.step()
def sample():
    transforms(image=volume.clone(), segmentation=labels.clone())
for line in sys.stdin:
    began = time.perf_counter()
    {"step": step, "sample": sample}[line.strip()]()
    print("seconds", time.perf_counter() - began, flush=True)
"""


@contextmanager
def start_nnunet(venv: Path, configuration: Configuration) -> Iterator[Callable[[str], float]]:
    """Give a function that lets nnU-Net do a `step` or make a `sample`, and says how many seconds that took."""
    network = configuration.network
    settings = {
        "threads": torch.get_num_threads(),
        "patch": configuration.patch_size,
        "batch": configuration.batch_size,
        "channels": network.input_channels,
        "labels": network.output_channels,
        "features": network.features,
        "kernels": network.kernel_sizes,
        "strides": network.strides,
        "encoder_blocks": network.encoder_blocks,
        "decoder_blocks": network.decoder_blocks,
        "mirror_axes": configuration.training.mirror_axes,
    }
    command = [str(venv / "bin" / "python"), "-c", NNUNET, json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        requests, answers = process.stdin, process.stdout
        if requests is None or answers is None:
            raise SystemExit("no pipe to nnU-Net's process")

        def ask(what: str) -> float:
            requests.write(what + "\n")
            requests.flush()
            for line in answers:
                if line.startswith("seconds "):  # nnU-Net may print greetings
                    return float(line.removeprefix("seconds "))
            raise SystemExit(f"nnU-Net in {venv} stopped; its message is above")

        yield ask
        requests.close()
