"""Write the phantom data set: `python scripts/make_phantom_dataset.py FOLDER [--training 20] [--held-out 5]`."""

import argparse
from pathlib import Path

from autoseg.testing import write_phantom_dataset


def main() -> None:
    """Read the arguments and write the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--training", type=int, default=20, help="number of training cases")
    parser.add_argument("--held-out", type=int, default=5, help="number of cases kept for prediction")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    write_phantom_dataset(
        arguments.folder, training=arguments.training, held_out=arguments.held_out, seed=arguments.seed
    )
    print(f"{arguments.training} training cases and {arguments.held_out} held-out cases in {arguments.folder}")


if __name__ == "__main__":
    main()
