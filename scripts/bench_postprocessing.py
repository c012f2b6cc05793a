"""Post-processing: cc3d against scikit-image, and a sweep of volumes from one table against one run per volume.

The label map is made by code: smooth noise, cut into labels, so that each has some large and many small components.
Rounds alternate, so that other load on the machine hits all alike; processor time counts.

    python scripts/bench_postprocessing.py [--shape 128 256 256] [--labels 3] [--rounds 3]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.components import INSTALLED_LIBRARY, label_components
from autoseg.metrics.overlap import score_case
from autoseg.postprocessing import find_components, remove_small_components
from autoseg.selection.component_removal import CaseComponents, remove_below, tabulate_components

SMALLEST = (2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300)
"""Voxels of the smallest component kept, one after the other."""

SPACING = (1.0, 1.0, 1.0)


def make_maps(shape: Sequence[int], labels: int) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """A prediction and its reference: the same structures, the prediction with noise."""
    generator = np.random.default_rng(0)
    smooth, rough = (
        ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), sigma) for sigma in (6.0, 1.5)
    )
    noisy = smooth / smooth.std() + 0.3 * rough / rough.std()
    edges = np.linspace(1.0, 2.0, labels)
    return np.digitize(noisy, edges).astype(np.int16), np.digitize(smooth / smooth.std(), edges).astype(np.int16)


def measure_seconds(work: Callable[[], object]) -> float:
    """Processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(names: Sequence[str], works: Sequence[Callable[[], object]], rounds: int) -> None:
    """Print the mean time of each, and how many times the last one is faster than the first."""
    seconds = np.mean([[measure_seconds(work) for work in works] for _ in range(rounds)], axis=0)
    columns = "  ".join(f"{name} {1000 * one:8.1f} ms" for name, one in zip(names, seconds, strict=True))
    print(f"{columns}  ratio {seconds[0] / seconds[-1]:.1f}")


def sweep_by_table(prediction: NDArray[np.int16], reference: NDArray[np.int16]) -> list[float | None]:
    """Dice of label 1 for every volume, from one table."""
    scores = score_case("made", prediction, reference, {"label": 1})
    found = find_components(prediction, [1])
    if found is None:
        return []
    box, components = found
    table = tabulate_components(components, prediction[box], reference[box], [(1,)], None)
    case = CaseComponents(table, scores.labels, SPACING)
    return [remove_below([case], [smallest]).dice["label"][0] for smallest in SMALLEST]


def sweep_by_runs(prediction: NDArray[np.int16], reference: NDArray[np.int16]) -> list[float | None]:
    """The same by removing and scoring every time."""
    removed = (remove_small_components(prediction, [1], smallest) for smallest in SMALLEST)
    return [score_case("made", one, reference, {"label": 1}).labels["label"].dice for one in removed]


def main() -> None:
    """Print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 256, 256), help="voxels (default %(default)s)")
    parser.add_argument("--labels", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default %(default)s)")
    options = parser.parse_args()
    prediction, reference = make_maps(options.shape, options.labels)
    mask = prediction == 1
    print(f"components of one label: {int(label_components(mask).max())}; installed library: {INSTALLED_LIBRARY}")
    if INSTALLED_LIBRARY == "cc3d":
        for connectivity in ("full", "face"):
            compare(
                ("scikit-image", "cc3d"),
                [
                    partial(label_components, mask, connectivity, library="scikit-image"),
                    partial(label_components, mask, connectivity, library="cc3d"),
                ],
                options.rounds,
            )
    if sweep_by_table(prediction, reference) != sweep_by_runs(prediction, reference):
        raise SystemExit("the table and the runs disagree")
    compare(
        (f"{len(SMALLEST)} runs", "one table"),
        [partial(sweep_by_runs, prediction, reference), partial(sweep_by_table, prediction, reference)],
        options.rounds,
    )


if __name__ == "__main__":
    main()
