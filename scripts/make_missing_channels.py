"""Makes data with several channels, of which some cases lack some: phantoms, or images with their gradients.

    python scripts/make_missing_channels.py phantoms FOLDER
    python scripts/make_missing_channels.py gradient FOLDER --source Dataset027_ACDC
    autoseg-plan FOLDER/incomplete --allow-missing-channels

Phantoms have the channels t1, t2, flair and t1c, each of which shows one structure badly. `gradient` takes a dataset
with one channel in nnU-Net's raw layout, and adds the magnitude of the gradient in each slice as a second one.

FOLDER/complete and FOLDER/incomplete are datasets of the same cases; in the second, half of the cases lack channels.
FOLDER/test/all, FOLDER/test/without_NAME and FOLDER/labels are held-out cases; FOLDER/zeros/without_NAME are the latter
with zeros in place of a missing file, for models that need all channels.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.records.files import replacing, write_text
from autoseg.testing.phantoms import PHANTOM_LABELS, make_phantom_case

PHANTOM_LEVELS: Mapping[str, tuple[float, float, float, float]] = {
    "t1": (0.0, 1.2, 1.3, 1.2),
    "t2": (0.0, 0.2, 1.6, 0.9),
    "flair": (0.0, 1.0, 2.2, 0.1),
    "t1c": (0.0, 0.5, 0.6, 1.8),
}
"""Mean intensity of background, body, core and rod in each channel."""

MISSING_FRACTION = 0.5
"""Part of the training cases that lack channels."""


@dataclass(frozen=True)
class Case:
    """One case with all channels, axes as in its file."""

    name: str
    channels: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


def main() -> int:
    """Write the datasets; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("phantoms", "gradient"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", type=Path, help="dataset with one channel, for `gradient`")
    parser.add_argument("--training", type=int, default=20, help="phantoms to train on (default: 20)")
    parser.add_argument("--held-out", type=int, default=10, help="cases for testing (default: 10)")
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    if options.kind == "phantoms":
        cases, labels = draw_phantoms(options.training + options.held_out, options.seed), PHANTOM_LABELS
    elif options.source is None:
        parser.error("gradient needs --source DATASET")
    else:
        cases = add_gradients(options.source)
        labels = json.loads((options.source / "dataset.json").read_text())["labels"]
    written = write_cases(list(cases), labels, options.output, options.held_out, np.random.default_rng(options.seed))
    print(f"{options.output}: {written}")
    return 0


def draw_phantoms(count: int, seed: int) -> Iterator[Case]:
    """Phantoms with four channels; each structure is as bright as another one in some channel."""
    for index in range(count):
        drawn = make_phantom_case(1000 * seed + index)
        generator = np.random.default_rng([seed, index])
        labels = drawn.labels.transpose()
        channels = {
            name: (100 * (1 + np.array(levels)[labels] + generator.normal(0, 0.4, labels.shape))).astype(np.float32)
            for name, levels in PHANTOM_LEVELS.items()
        }
        z, y, x = drawn.spacing
        yield Case(f"phantom_{index:03d}", channels, labels, np.diag((x, y, z, 1.0)))


def add_gradients(source: Path) -> Iterator[Case]:
    """Cases of a dataset with one channel, with the magnitude of the gradient of each slice as a second channel."""
    for path in sorted((source / "labelsTr").glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        image = nibabel.nifti1.load(source / "imagesTr" / f"{name}_0000.nii.gz")
        voxels = np.asarray(image.dataobj).astype(np.float32)
        gradient = ndimage.gaussian_gradient_magnitude(voxels, sigma=(1, 1, 0)).astype(np.float32)
        labels = np.asarray(nibabel.nifti1.load(path).dataobj).astype(np.uint8)
        yield Case(name, {"image": voxels, "gradient": gradient}, labels, np.asarray(image.affine))


def write_cases(
    cases: Sequence[Case],
    labels: Mapping[str, int],
    output: Path,
    held_out: int,
    generator: np.random.Generator,
) -> str:
    """Write the training cases into two datasets and the last cases into folders for testing; says how many."""
    names = list(cases[0].channels)
    training, testing = cases[:-held_out], cases[-held_out:]
    lacking = 0
    for case in training:
        write(case, output / "complete" / "imagesTr", output / "complete" / "labelsTr", names)
        present = names
        if generator.random() < MISSING_FRACTION:
            present = draw_channels(names, generator)
            lacking += 1
        write(case, output / "incomplete" / "imagesTr", output / "incomplete" / "labelsTr", present)
    for name in ("complete", "incomplete"):
        content = {
            "channel_names": {str(number): name for number, name in enumerate(names)},
            "labels": labels,
            "numTraining": len(training),
            "file_ending": ".nii.gz",
        }
        write_text(json.dumps(content, indent=1) + "\n", output / name / "dataset.json")
    for case in testing:
        write(case, output / "test" / "all", output / "labels", names)
        for number, missing in enumerate(names):
            others = [name for name in names if name != missing]
            for kind in ("test", "zeros"):
                link(case, output / "test" / "all", output / kind / f"without_{missing}", others)
            zeros = np.zeros_like(case.channels[missing])
            save(zeros, case, output / "zeros" / f"without_{missing}" / f"{case.name}_{number:04d}.nii.gz")
    return (
        f"{len(training)} training cases, {lacking} of them incomplete in one dataset, and {len(testing)} for testing"
    )


def draw_channels(names: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Some of the channels, at least one and not all."""
    count = int(generator.integers(1, len(names)))
    chosen = set(generator.choice(names, size=count, replace=False).tolist())
    return [name for name in names if name in chosen]


def write(case: Case, images: Path, labels: Path, present: Sequence[str]) -> None:
    """Write a case with some of its channels."""
    for number, (name, voxels) in enumerate(case.channels.items()):
        if name in present:
            save(voxels, case, images / f"{case.name}_{number:04d}.nii.gz")
    save(case.labels, case, labels / f"{case.name}.nii.gz")


def link(case: Case, images: Path, folder: Path, present: Sequence[str]) -> None:
    """Link some of the channels of a case that was written."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(case.channels):
        file = f"{case.name}_{number:04d}.nii.gz"
        if name in present and not (folder / file).exists():
            (folder / file).symlink_to((images / file).resolve())


def save(voxels: NDArray[np.generic], case: Case, path: Path) -> None:
    """Write an array as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        nibabel.save(nibabel.nifti1.Nifti1Image(voxels, case.affine), temporary)


if __name__ == "__main__":
    sys.exit(main())
