#!/usr/bin/env python3
"""Peak memory of `autoseg predict` on large made-up cases: resident set of the whole process, from reading to writing.

`classes`: 105 heads, an image of 600 x 512 x 512 voxels (z, y, x), a network grid of 400 x 240 x 240.
`volume`: 1000 x 1000 x 1000 voxels, int16, compressed, zero outside a ball, on the network's own grid; 3 heads.

The networks are tiny and untrained; windows do not overlap, for time's sake.

    python scripts/bench_memory.py classes --max-memory 3GB
    python scripts/bench_memory.py volume --folder /scratch
"""

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from untrained_model import write_untrained_model


@dataclass(frozen=True)
class Trial:
    """Image and network of one measurement."""

    shape: tuple[int, int, int]
    """Shape of the image in voxels of 1 mm, (z, y, x)."""
    spacing: tuple[float, float, float]
    """Spacing of the network's grid in mm, (z, y, x)."""
    num_heads: int
    features: tuple[int, int]
    patch: tuple[int, int, int]


TRIALS = {
    "classes": Trial((600, 512, 512), (1.5, 512 / 240, 512 / 240), 105, (4, 8), (64, 96, 96)),
    "volume": Trial((1000, 1000, 1000), (1.0, 1.0, 1.0), 3, (2, 4), (64, 128, 128)),
}


def main() -> None:
    """Make image and model, predict in a process of its own, print its peak."""
    options = _parse_options()
    trial = TRIALS[options.trial]
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        image = folder / "image.nii.gz"
        _write_image(image, trial.shape)
        write_untrained_model(
            folder / "model",
            num_heads=trial.num_heads, features=trial.features, patch=trial.patch, spacing=trial.spacing,
        )  # fmt: skip
        command = [
            sys.executable, "-m", "autoseg", "predict", "-m", str(folder / "model"), "-i", str(image),
            "-o", str(folder / "out"), "--device", "cpu", "--precision", "fp32", "--overlap", "0", "--tta", "none",
            *(["--max-memory", options.max_memory] if options.max_memory else []),
            *(["--save-probabilities"] if options.save_probabilities else []),
        ]  # fmt: skip
        seconds, peak_bytes, code = _run(command)
        labels = nibabel.load(folder / "out" / "image.nii.gz") if code == 0 else None
        found = "" if labels is None else f", label map {labels.shape} {labels.get_data_dtype()}"
    limit = f" with --max-memory {options.max_memory}" if options.max_memory else ""
    print(f"{options.trial}{limit}: exit {code}, {seconds:.0f} s, peak {peak_bytes / 1e9:.2f} GB{found}")


def _run(command: list[str]) -> tuple[float, int, int]:
    """Seconds, largest resident set in bytes, and exit code."""
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.monotonic() - start, usage.ru_maxrss * 1024, process.returncode


def _write_image(path: Path, shape: tuple[int, int, int]) -> None:
    """A ball of noise and a gradient, slice by slice: a file of any size in little memory."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape[::-1])
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), 1)
    header.set_qform(np.diag([-1.0, -1.0, 1.0, 1.0]), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    z, y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    generator = np.random.default_rng(0)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + b"\0\0\0\0")
        for height in z:
            inside = y[:, None] ** 2 + x**2 + height**2 < 1
            noise = generator.integers(1, 64, size=inside.shape, dtype=np.int16)
            noise += (400 * (1 + np.sin(9 * (x + height)))).astype(np.int16)
            file.write((noise * inside).astype("<i2").tobytes())


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=tuple(TRIALS))
    parser.add_argument("--max-memory", default=None, metavar="SIZE", help="handed on to `autoseg predict`")
    parser.add_argument("--save-probabilities", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="where to make the files (default: TMPDIR)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
