#!/usr/bin/env python3
"""Thousands of tiny cases through `autoseg plan` and `autoseg predict`: memory, files and time must not grow; Linux.

Each case is an image of 8 x 9 x 10 voxels and its label map. While a command runs, memory and open files of its
processes are sampled, and the finished cases counted. The table compares the first tenth of the cases with the last.

    python scripts/campaign_load.py --cases 10000
    python scripts/campaign_load.py --cases 100000 --index-only
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from process_memory import process_folders, tree_bytes
from untrained_model import write_untrained_model

SHAPE = (8, 9, 10)
SECONDS_BETWEEN_SAMPLES = 0.5


@dataclass(frozen=True)
class Sample:
    """State of a running command."""

    seconds: float
    done: int
    """Finished cases."""
    memory_bytes: int
    handles: int
    """Open files of all its processes."""


def main() -> None:
    """Make the cases, run the commands, print a line for each."""
    options = _parse_options()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        _write_cases(folder / "dataset", options.cases)
        dataset, workspace = str(folder / "dataset"), folder / "workspace"
        plan = ["plan", dataset, "-w", str(workspace), "--planner", "unet", "-c", "3d_fullres", "--device", "cpu"]
        if options.index_only:
            _report("plan --no-preprocess", _watch([*plan, "--no-preprocess"], None), options.cases)
            return
        _report("plan", _watch(plan, workspace / "preprocessed"), options.cases)
        write_untrained_model(
            folder / "model", num_heads=2, features=(4, 8), patch=(8, 16, 16), spacing=(1.0, 1.0, 1.0)
        )
        predict = ["predict", "-m", str(folder / "model"), "-i", f"{dataset}/images", "-o", str(folder / "labels")]
        _report("predict", _watch([*predict, "--device", "cpu"], folder / "labels"), options.cases)


def _write_cases(folder: Path, count: int) -> None:
    """Noise with a bright box, which is the label."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        labels = np.zeros(SHAPE[::-1], dtype=np.uint8)
        labels[2:6, 3:7, 2:5] = 1
        image = (generator.normal(size=labels.shape) * 20 + 100 * labels).astype(np.int16)
        for kind, array in (("images", image), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / kind / f"case_{number:06d}.nii.gz")


def _watch(arguments: Sequence[str], results: Path | None) -> list[Sample]:
    """Samples from the start of `autoseg` to its end; finished cases are the files or records in a folder.

    Raises:
        SystemExit: If the command fails.
    """
    samples: list[Sample] = []
    began = time.monotonic()
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # read after the process, below
    process = subprocess.Popen([sys.executable, "-m", "autoseg", *arguments], stdout=log, stderr=subprocess.STDOUT)
    while process.poll() is None:
        samples.append(
            Sample(
                time.monotonic() - began, _count(results), tree_bytes(process.pid),
                sum(_count(folder / "fd") for folder in process_folders(process.pid)),
            )
        )  # fmt: skip
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    if process.returncode:
        log.seek(0)
        raise SystemExit(f"autoseg {' '.join(arguments)} ended with {process.returncode}:\n{log.read()[-2000:]}")
    return samples


def _count(folder: Path | None) -> int:
    """Entries of a folder, or of the folders in it: label maps, open files, or records of preprocessed cases."""
    if folder is None:
        return 0
    number = 0
    with suppress(OSError), os.scandir(folder) as entries:  # not there yet, or no longer
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    number += sum(path.suffix == ".json" for path in Path(entry.path).iterdir())
            else:
                number += 1
    return number


def _report(name: str, samples: Sequence[Sample], count: int) -> None:
    peak = max(sample.memory_bytes for sample in samples)
    line = f"{name}: {count} cases in {samples[-1].seconds:.0f} s, peak {peak / 1e6:.0f} MB"
    working = [sample for sample in samples if 0 < sample.done < count]
    first = [sample for sample in working if sample.done <= count // 10]
    last = [sample for sample in working if sample.done >= count - count // 10]
    if len(first) > 1 and len(last) > 1:
        for label, unit, figures in (
            ("peak", "MB", [max(sample.memory_bytes for sample in part) / 1e6 for part in (first, last)]),
            ("open files", "", [max(sample.handles for sample in part) for part in (first, last)]),
            ("per case", "ms", [_milliseconds_per_case(part) for part in (first, last)]),
        ):
            line += f"; {label} {figures[0]:.0f} -> {figures[1]:.0f} {unit}".rstrip()
    print(line, flush=True)


def _milliseconds_per_case(samples: Sequence[Sample]) -> float:
    return 1000 * (samples[-1].seconds - samples[0].seconds) / max(samples[-1].done - samples[0].done, 1)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--index-only", action="store_true", help="plan without preprocessing, and stop")
    parser.add_argument("--folder", type=Path, default=None, help="where to make the files (default: TMPDIR)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
