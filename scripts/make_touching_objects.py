"""Write a dataset of touching objects, each with a number: `python scripts/make_touching_objects.py cells FOLDER`.

cells: 2D images, PNG; lesions: volumes, NIfTI. Then, for instance:

    autoseg plan FOLDER --target mask-rcnn
    autoseg predict -m MODEL -i FOLDER/imagesTs -o OUT --instances
    autoseg evaluate OUT FOLDER/labelsTs -m MODEL --instances
"""

import argparse
from pathlib import Path

from autoseg.testing.touching import CELLS, LESIONS, write_touching_dataset


def main() -> None:
    """Read the arguments and write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("cells", "lesions"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--training", type=int, default=24, help="number of training cases (default: 24)")
    parser.add_argument("--held-out", type=int, default=8, help="number of cases kept for prediction (default: 8)")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    recipe = {"cells": CELLS, "lesions": LESIONS}[options.kind]
    write_touching_dataset(
        options.folder, recipe, training=options.training, held_out=options.held_out, seed=options.seed
    )
    print(f"{options.training} training cases and {options.held_out} held-out cases in {options.folder}")


if __name__ == "__main__":
    main()
