"""Divides a dataset into a few labelled cases, unlabelled images, and cases for testing, chosen by a seed.

    python scripts/make_unlabelled.py Task04_Hippocampus hippocampus --labelled 10 --unlabelled 100 --test 40
    autoseg run hippocampus/labelled --unlabelled hippocampus/unlabelled -w hippocampus/workspace
    autoseg-predict -m hippocampus/workspace -i hippocampus/test -o hippocampus/predicted
    autoseg evaluate hippocampus/predicted hippocampus/testlabels

The dataset is in the layout of the Decathlon or in nnU-Net's raw layout; files are linked.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def main() -> int:
    """Write the folders labelled, unlabelled, test and testlabels; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--labelled", type=int, default=10, help="number of labelled cases (default: 10)")
    parser.add_argument("--unlabelled", type=int, default=100, help="number of unlabelled images (default: 100)")
    parser.add_argument("--test", type=int, default=40, help="number of cases for testing (default: 40)")
    parser.add_argument("--seed", type=int, default=5, help="seed of the choice (default: 5)")
    options = parser.parse_args()
    labels = sorted(path.name for path in (options.dataset / "labelsTr").glob("[!.]*"))
    wanted = options.test + options.labelled + options.unlabelled
    if len(labels) < wanted:
        print(f"{options.dataset}: has {len(labels)} cases, and {wanted} are asked for", file=sys.stderr)
        return 2
    labels = np.random.default_rng(options.seed).permutation(labels).tolist()
    test, rest = labels[: options.test], labels[options.test :]
    labelled, unlabelled = rest[: options.labelled], rest[options.labelled :][: options.unlabelled]
    link_dataset(options.dataset, options.output / "labelled", labelled)
    link_images(options.dataset, options.output / "unlabelled", unlabelled)
    link_images(options.dataset, options.output / "test", test)
    link(options.dataset / "labelsTr", options.output / "testlabels", test)
    print(f"{options.output}: {len(labelled)} labelled, {len(unlabelled)} unlabelled, {len(test)} for testing")
    return 0


def link_dataset(dataset: Path, output: Path, labels: Sequence[str]) -> None:
    """A dataset of some of the cases."""
    link_images(dataset, output / "imagesTr", labels)
    link(dataset / "labelsTr", output / "labelsTr", labels)
    description = json.loads((dataset / "dataset.json").read_text())
    if "training" in description:
        pairs = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in sorted(labels)]
        description |= {"training": pairs, "test": [], "numTest": 0}
    description["numTraining"] = len(labels)
    (output / "dataset.json").write_text(json.dumps(description, indent=2))


def link_images(dataset: Path, output: Path, labels: Sequence[str]) -> None:
    """The images of some label files: of the same name, or of one with a number for each channel."""
    images = sorted(path.name for path in (dataset / "imagesTr").glob("[!.]*"))
    stems = {name.partition(".")[0] for name in labels}
    chosen = [name for name in images if name in labels or name.partition(".")[0].rpartition("_")[0] in stems]
    link(dataset / "imagesTr", output, chosen)


def link(source: Path, output: Path, names: Sequence[str]) -> None:
    """Links to some files of a folder."""
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        target = output / name
        if not target.exists():
            target.symlink_to((source / name).resolve())


if __name__ == "__main__":
    sys.exit(main())
