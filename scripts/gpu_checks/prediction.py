"""Prediction of a CT of 512 x 512 x 600 voxels: network alone, everything in one process, and the whole command."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from untrained_model import write_untrained_configuration

from autoseg.imaging.formats.reading import read_image
from autoseg.records.case import Triple
from autoseg.stages.predict import PredictionOptions, Predictor
from gpu_checks.machine import Machine
from gpu_checks.made_up import large_configuration
from gpu_checks.results import Finding, Findings, at_most

SHAPE, TINY_SHAPE = (600, 512, 512), (30, 28, 26)
SPACING = (1.0, 0.8, 0.8)
MAX_SECONDS = {3: 10.0, 105: 20.0}
"""Aims for the whole command by number of classes."""

MAX_DEVICE_GIGABYTES = 8.0
BLOCK = 8
"""Edge in voxels of blocks of equal density."""

NOISE = 32
"""Values that are added at random to each voxel: the file is about half as large as the array, as a CT's is."""


def check_ct_of_3_classes(machine: Machine) -> Findings:
    """Predict with 3 classes at 1.5 mm."""
    return _measure_ct(machine, 3)


def check_ct_of_105_classes(machine: Machine) -> Findings:
    """Predict with 105 classes at 1.5 mm."""
    return _measure_ct(machine, 105)


def _measure_ct(machine: Machine, num_classes: int) -> Findings:
    folder = machine.folder / f"ct_{num_classes}"
    image, model = machine.folder / "ct.nii.gz", folder / "model"
    if not image.exists():
        write_ct(image, TINY_SHAPE if machine.is_tiny else SHAPE)
    write_untrained_configuration(model, large_configuration(machine, num_heads=num_classes))
    predictor = Predictor(model, PredictionOptions(device=machine.name, mirroring=False))
    found = [*_measure_network(machine, predictor, image), *_measure_process(machine, predictor, image)]
    del predictor
    machine.start_peak()  # the command is a process of its own, and gets all memory
    seconds = machine.seconds_of(lambda: _run_command(machine, model, image, folder / "out"))
    return [*found, machine.judge(at_most("whole command", seconds, MAX_SECONDS[num_classes], "s"))]


def _measure_network(machine: Machine, predictor: Predictor, image: Path) -> Findings:
    """Seconds of the networks alone; in a first pass, batches and precision are chosen."""
    case = predictor.case_predictor

    def stream() -> None:
        with case.open_streams(prepared) as streams:
            for opened in streams:
                for _logits in opened.slices:
                    pass

    prepared = case.prepare(read_image([image]))
    stream()
    machine.start_peak()
    seconds = machine.seconds_of(stream)
    return [
        Finding("network alone", seconds, "s"),
        machine.judge(at_most("network alone, device memory", machine.peak_gigabytes(), MAX_DEVICE_GIGABYTES, "GB")),
    ]


def _measure_process(machine: Machine, predictor: Predictor, image: Path) -> Findings:
    """Seconds by step; on a GPU, the network's work is waited for where labels are first needed, in `export`."""
    machine.start_peak()
    prediction = predictor.predict(image)
    found = [Finding(step, seconds, "s") for step, seconds in prediction.seconds.items()]
    found.append(Finding("classes that were found", len(np.unique(prediction.labels))))
    return [*found, machine.judge(at_most("device memory", machine.peak_gigabytes(), MAX_DEVICE_GIGABYTES, "GB"))]


def _run_command(machine: Machine, model: Path, image: Path, output: Path) -> None:
    words = [
        "predict",
        "-m",
        str(model),
        "-i",
        str(image),
        "-o",
        str(output),
        "--tta",
        "none",
        "--device",
        machine.name,
    ]
    result = subprocess.run([sys.executable, "-m", "autoseg", *words], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"autoseg {' '.join(words)}: exit code {result.returncode}\n{result.stderr}")


def write_ct(path: Path, shape: Triple) -> None:
    """Write a ball of noisy blocks in noisy air, int16, compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.concatenate(list(_slabs(shape)))
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def _slabs(shape: Triple) -> Iterator[NDArray[np.int16]]:
    generator = np.random.default_rng(0)
    z, y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    plane = tuple(-(-size // BLOCK) for size in shape[1:])
    for first in range(0, shape[0], BLOCK):
        blocks = generator.integers(-100, 300, size=plane).repeat(BLOCK, 0).repeat(BLOCK, 1)
        heights = z[first : first + BLOCK, None, None]
        inside = heights**2 + y[:, None] ** 2 + x**2 < 1
        noise = generator.integers(NOISE, size=inside.shape, dtype=np.int16)
        yield noise + np.where(inside, blocks[: shape[1], : shape[2]], -1000).astype(np.int16)
