"""Processor time and memory of all metrics of one case, beside the package surface-distance where it is installed.

    python scripts/bench_metrics.py [--shape 200 512 512] [--spacing 3 0.8 0.8]

Two ellipsoids about a voxel apart, as an organ and its prediction. Prints one JSON line.
"""

import argparse
import importlib
import json
import resource
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.overlap import score_case
from autoseg.metrics.surface import measure_surfaces

HALF_AXES = (0.33, 0.32, 0.37)
"""Half axes of the organ, as fractions of the image's edges."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512))
    parser.add_argument("--spacing", type=float, nargs=3, default=(3.0, 0.8, 0.8))
    arguments = parser.parse_args()
    reference = _ellipsoid(arguments.shape, shift=0)
    prediction = _ellipsoid(arguments.shape, shift=2)
    maps = prediction.astype(np.uint8), reference.astype(np.uint8)
    measure_case("warm", maps[0][:8, :8, :8], maps[1][:8, :8, :8], {"organ": 1}, arguments.spacing)
    before = _peak_bytes()
    seconds = {
        "counts": _seconds(lambda: score_case("a", *maps, {"organ": 1})),
        "surfaces": _seconds(lambda: measure_surfaces(prediction, reference, arguments.spacing)),
        "all_metrics": _seconds(lambda: measure_case("a", *maps, {"organ": 1}, arguments.spacing)),
    }
    result: dict[str, Any] = {
        "shape": arguments.shape,
        "seconds": seconds,
        "added_peak_bytes_per_voxel": (_peak_bytes() - before) / reference.size,
    }
    if find_spec("surface_distance") is not None:
        package = importlib.import_module("surface_distance")
        theirs = _seconds(lambda: package.compute_surface_distances(reference, prediction, arguments.spacing))
        result |= {"surface_distance_seconds": theirs, "ratio": theirs / seconds["surfaces"]}
    print(json.dumps(result))


def _ellipsoid(shape: Sequence[int], shift: int) -> NDArray[np.bool_]:
    """Plane by plane, so that making it is not the peak of memory."""
    z, *inside = (
        ((np.arange(size) - size / 2 - shift) / (half * size - shift)) ** 2
        for size, half in zip(shape, HALF_AXES, strict=True)
    )
    plane = np.add.outer(*inside)
    return np.array([plane + height < 1 for height in z])


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
