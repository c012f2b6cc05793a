#!/usr/bin/env python3
"""`autoseg predict` and nnU-Net's `nnUNetv2_predict` side by side: seconds, peak memory, label maps.

Both run as processes of their own on the CPU, start-up included, with the same images, folds, mirroring and overlap;
the fastest of several runs counts. Windows in batches alone: bench_windows.py.

    python scripts/bench_prediction.py MODEL IMAGES --against-nnunet VENV --nnunet-model FOLDER --folds 0 1
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from process_memory import Usage, measure

from autoseg.imaging.formats.reading import read_label_map

STEP = re.compile(r"(read|preprocess|network|export) ([0-9.]+) s")


def main() -> None:
    """Measure, compare, print."""
    options = _parse_options()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "autoseg", Path(folder) / "nnunet"
        runs, nnunet_runs = [], []
        for _ in range(options.repeats):
            runs.append(_run_autoseg(options, ours))
            if options.against_nnunet:
                nnunet_runs.append(_run_nnunet(options, theirs, Path(folder)))
        best = min(runs, key=lambda usage: usage.seconds)
        print(f"{'':>20}{'seconds':>12}{'of CPU':>12}{'peak MB':>12}   all processes")
        _print_usage("autoseg", best)
        if nnunet_runs:
            peer = min(nnunet_runs, key=lambda usage: usage.seconds)
            _print_usage("nnU-Net", peer)
            pairs = zip(_figures(peer), _figures(best), strict=True)
            print(f"{'nnU-Net / autoseg':>20}" + "".join(f"{more / less:12.2f}" for more, less in pairs))
            _print_differences(ours, theirs)
        _print_steps(best)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an autoseg model")
    parser.add_argument("images", type=Path, help="a folder in nnU-Net's naming")
    parser.add_argument("--against-nnunet", type=Path, metavar="VENV", help="environment that holds nnU-Net v2")
    parser.add_argument("--nnunet-model", type=Path, metavar="FOLDER", help="the same model as nnU-Net wrote it")
    parser.add_argument("--folds", nargs="+", default=["0"])
    parser.add_argument("--tta", choices=("full", "none"), default="full")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    if (options.against_nnunet is None) != (options.nnunet_model is None):
        parser.error("--against-nnunet and --nnunet-model go together")
    return options


def _run_autoseg(options: argparse.Namespace, output: Path) -> Usage:
    command = [
        sys.executable, "-m", "autoseg", "predict", "-v", "--device", "cpu",
        "-m", str(options.model), "-i", str(options.images), "-o", str(output),
        "-f", *options.folds, "--tta", options.tta, "--overlap", str(options.overlap),
        "--precision", options.precision,
    ]  # fmt: skip
    return measure(command, os.environ)


def _run_nnunet(options: argparse.Namespace, output: Path, scratch: Path) -> Usage:
    command = [
        str(options.against_nnunet / "bin" / "nnUNetv2_predict_from_modelfolder"), "-device", "cpu",
        "-m", str(options.nnunet_model), "-i", str(options.images), "-o", str(output),
        "-f", *options.folds, "-step_size", str(1 - options.overlap),
        *(["--disable_tta"] if options.tta == "none" else []),
    ]  # fmt: skip
    folders = {name: str(scratch / "unused") for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return measure(command, {**os.environ, **folders, "nnUNet_compile": "f", "nnUNet_n_proc_DA": "0"})


def _figures(usage: Usage) -> tuple[float, float, float]:
    return usage.seconds, usage.cpu_seconds, usage.peak_bytes / 1e6


def _print_usage(name: str, usage: Usage) -> None:
    print(f"{name:>20}" + "".join(f"{figure:12.1f}" for figure in _figures(usage)))


def _print_steps(usage: Usage) -> None:
    """Where autoseg's time went; reading, preprocessing and writing run beside the network."""
    totals: dict[str, float] = {}
    for step, seconds in STEP.findall(usage.output):
        totals[step] = totals.get(step, 0.0) + float(seconds)
    parts = ", ".join(f"{step} {seconds:.2f} s ({seconds / usage.seconds:.0%})" for step, seconds in totals.items())
    print(f"autoseg's time: {parts}")


def _print_differences(ours: Path, theirs: Path) -> None:
    differing, voxels, worst = 0, 0, (1.0, "no label")
    for path in sorted(theirs.glob("*.nii.gz")):
        first, second = (read_label_map(folder / path.name).array for folder in (ours, theirs))
        differing += int(np.count_nonzero(first != second))
        voxels += first.size
        for label in np.union1d(first, second)[1:]:
            sizes = np.count_nonzero(first == label), np.count_nonzero(second == label)
            dice = 2 * np.count_nonzero((first == label) & (second == label)) / sum(sizes)
            worst = min(worst, (dice, f"label {label} of {path.name}"))
    print(f"label maps: {differing} of {voxels} voxels differ, lowest Dice {worst[0]:.5f} ({worst[1]})")


if __name__ == "__main__":
    main()
