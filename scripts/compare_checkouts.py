#!/usr/bin/env python3
"""Run the same small jobs in two checkouts and compare every result, to see that a new structure behaves as the old.

Usage: scripts/compare_checkouts.py OTHER [--models FOLDER] [--images N] [--work FOLDER] [--threads N]

OTHER is a checkout with its own `.venv` (`scripts/make_environment`), as this one is. In both, on the same phantoms:
plan, train two folds for 20 seeded steps each (one with a weight average), select, predict, evaluate; with --models,
also import each `FOLDER/*/model` of nnU-Net v2 and predict the first N of its `images`. Everything runs on the CPU in
fp32, whatever this processor could do, since 16 bits were chosen by other rules in older versions. Compared: JSON
without times and versions, label maps voxel by voxel with their headers, preprocessed arrays, and weights bit for bit.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import blosc2
import nibabel
import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]

DRIVER = """
import sys, torch
torch.cpu._is_avx512_bf16_supported = torch.cpu._is_amx_tile_supported = lambda: False
from autoseg.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

VOLATILE = frozenset(
    {
        "seconds",
        "elapsed_seconds",
        "version",
        "versions",
        "autoseg_version",
        "created",
        "machine",
        "threads",
        "reason",
        "reasons",
    }
)
"""JSON keys that hold times, versions, or sentences, whose wording may improve."""


def run_jobs(checkout: Path, folder: Path, phantoms: Path, models: Path | None, num_images: int, threads: int) -> None:
    """Run all jobs with the code of one checkout; results go to `folder`."""
    workspace = folder / "workspace"

    def autoseg(*words: str | Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        command = [str(checkout / ".venv/bin/python"), "-c", DRIVER, *map(str, words)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{checkout}: autoseg {' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")

    autoseg(
        "plan", phantoms, "-w", workspace, "--device", "cuda", "--planner", "unet", "-j", "1",
        "--memory", "8GB", "-c", "3d_fullres", "--patch-size", "32", "32", "32", "--batch-size", "2",
    )  # fmt: skip
    training = ("--device", "cpu", "--precision", "fp32", "--epochs", "2", "--steps-per-epoch", "10", "-j", "1")
    autoseg("train", workspace, "-c", "3d_fullres", "-f", "0", *training)
    autoseg("train", workspace, "-c", "3d_fullres", "-f", "1", "--weight-average", "0.9", *training)
    autoseg("select", workspace, "--device", "cpu", "-j", "1")
    outputs = ("--save-probabilities", "--save-uncertainty", "--statistics", "--colors", "--instances")
    autoseg(
        "predict", "-m", workspace, "-i", phantoms / "imagesTs", "-o", folder / "predictions", "--device", "cpu",
        "--precision", "fp32", *outputs,
    )  # fmt: skip
    autoseg("evaluate", folder / "predictions", phantoms / "labelsTs", "-m", workspace, "-j", "1")
    for model in sorted(models.glob("*/model")) if models else ():
        name = model.parent.name
        images = folder / f"images_{name}"
        images.mkdir()
        cases = sorted({path.name.rsplit("_", 1)[0] for path in (model.parent / "images").iterdir()})[:num_images]
        for path in (model.parent / "images").iterdir():
            if path.name.rsplit("_", 1)[0] in cases:
                (images / path.name).symlink_to(path)
        autoseg("import-nnunet", model, "-o", folder / f"model_{name}")
        autoseg(
            "predict", "-m", folder / f"model_{name}", "-i", images, "-o", folder / f"predictions_{name}",
            "--device", "cpu", "--precision", "fp32",
        )  # fmt: skip


def compare_folders(first: Path, second: Path) -> list[str]:
    """One line per result that differs or that only one of the folders has."""
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and _is_compared(path)}
        for folder in (first, second)
    ]
    faults = [f"{name}: only in one of them" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        fault = _find_difference(first / name, second / name)
        if fault:
            faults.append(f"{name}: {fault}")
    print(f"{len(names[0] & names[1])} files compared")
    return faults


def _is_compared(path: Path) -> bool:
    """Whether a file is a result: not a log, an image, or the state of a training that can be resumed."""
    return (
        path.suffix in {".json", ".gz", ".b2nd", ".safetensors", ".csv", ".ctbl"} and "checkpoint_last" not in path.name
    )


def _find_difference(first: Path, second: Path) -> str:
    paths = (first, second)
    if first.suffix == ".json":
        return ", ".join(_differing_keys(*(json.loads(path.read_text()) for path in paths)))
    if first.suffix == ".gz":
        images = [nibabel.load(path) for path in paths]
        header = "" if images[0].header == images[1].header else "the headers differ; "
        return header + _differing_values(*(np.asanyarray(image.dataobj) for image in images))
    if first.suffix == ".b2nd":
        return _differing_values(*(blosc2.open(str(path))[:] for path in paths))
    if first.suffix == ".safetensors":
        weights = [load_file(path) for path in paths]
        if weights[0].keys() != weights[1].keys():
            return "the names of the weights differ"
        return "; ".join(filter(None, (_differing_values(weights[0][key], weights[1][key]) for key in weights[0])))
    return "" if first.read_bytes() == second.read_bytes() else "the contents differ"


def _differing_values(first: np.ndarray, second: np.ndarray) -> str:
    if first.shape != second.shape or first.dtype != second.dtype:
        return f"{first.shape} {first.dtype} and {second.shape} {second.dtype}"
    count = np.count_nonzero(first != second)
    distance = np.abs(first.astype(np.float64) - second.astype(np.float64)).max(initial=0.0)
    return f"{count} of {first.size} values differ, by at most {distance:.2g}" if count else ""


def _differing_keys(first: object, second: object, key: str = "") -> list[str]:
    """Where two JSON values differ, but for keys that may."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted((first.keys() | second.keys()) - VOLATILE)
        return [item for name in keys for item in _differing_keys(first.get(name), second.get(name), f"{key}/{name}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [item for index, pair in pairs for item in _differing_keys(*pair, f"{key}/{index}")]
    return [] if first == second else [f"{key}: {str(first)[:40]} and {str(second)[:40]}"]


def main() -> int:
    """Run and compare; the exit code is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="checkout to compare with")
    parser.add_argument("--models", type=Path, help="folder of models of nnU-Net v2: FOLDER/*/model, FOLDER/*/images")
    parser.add_argument("--images", type=int, default=2, help="images that each of these predicts (default: 2)")
    parser.add_argument(
        "--work", type=Path, default=Path("compare_run"), help="where results go (default: compare_run)"
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    phantoms = work / "phantoms"
    models = arguments.models.resolve() if arguments.models else None
    command = [
        sys.executable,
        str(ROOT / "scripts/make_phantom_dataset.py"),
        str(phantoms),
        "--training",
        "6",
        "--held-out",
        "2",
    ]
    subprocess.run(command, check=True)
    folders = []
    for name, checkout in (("other", arguments.other.resolve()), ("this", ROOT)):
        folders.append(work / name)
        folders[-1].mkdir(parents=True)
        run_jobs(checkout, folders[-1], phantoms, models, arguments.images, arguments.threads)
    faults = compare_folders(*folders)
    print("\n".join(faults) if faults else "no difference")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
