"""`autoseg predict`: label maps for images."""

import argparse
from pathlib import Path

from autoseg.cli.options import add_device, add_shared, part_of_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg predict`."""
    parser.add_argument("-m", "--model", type=Path, required=True, help="a trained workspace")
    parser.add_argument(
        "-i", "--images", type=Path, required=True, help="an image, a folder of images, or a CSV/JSON list"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for the label maps (one image: or a file)"
    )
    parser.add_argument(
        "-c", "--configuration", default=None, help="default: what `autoseg select` chose, else what is trained"
    )
    parser.add_argument(
        "-f", "--folds", nargs="+", default=None, metavar="FOLD",
        help="default: the folds that were selected, else all trained folds",
    )  # fmt: skip
    parser.add_argument(
        "--tta",
        choices=("full", "none"),
        default="full",
        help="average over images mirrored as in training (default: full)",
    )
    parser.add_argument(
        "--overlap", type=float, default=0.5, metavar="FRACTION", help="of neighbouring windows (default: 0.5)"
    )
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--save-probabilities", action="store_true", help="also write each class's probability")
    parser.add_argument("--save-uncertainty", action="store_true", help="also write maps of entropy and disagreement")
    parser.add_argument(
        "--statistics", action="store_true", help="also write statistics.csv: volumes, mean intensities"
    )
    parser.add_argument("--colors", action="store_true", help="also write label names and colours for viewers")
    parser.add_argument("--skip-existing", action="store_true", help="leave cases alone that are there already")
    parser.add_argument(
        "--part", type=part_of_all, default=None, metavar="K/N", help="every N-th case from the K-th on"
    )
    parser.add_argument("--scheduler", default=None, metavar="ADDRESS", help="predict on a Dask cluster")
    add_device(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict all cases; the exit code is 1 when some failed."""
    from functools import partial

    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import progress_bar
    from autoseg.inference.cluster import Cluster
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.stages.predict import Predictor, predict_files

    keep_freed_memory()
    load = partial(
        Predictor,
        arguments.model.absolute(),
        configuration=arguments.configuration,
        folds=arguments.folds,
        device=arguments.device,
        precision=arguments.precision,
        mirroring=arguments.tta == "full",
        overlap=arguments.overlap,
    )
    on_cluster = arguments.scheduler is not None
    predictor = load(device="cpu", precision="fp32") if on_cluster else load()
    with progress_bar("predicting") as progress:
        failures = predict_files(
            predictor,
            arguments.images.absolute() if on_cluster else arguments.images,
            arguments.output.absolute() if on_cluster else arguments.output,
            save_probabilities=arguments.save_probabilities,
            save_uncertainty=arguments.save_uncertainty,
            statistics=arguments.statistics,
            colors=arguments.colors,
            skip_existing=arguments.skip_existing,
            part=arguments.part,
            cluster=Cluster(arguments.scheduler, load) if on_cluster else None,
            progress=progress,
        )
    for failure in failures:
        print(f"failed: {failure.case}: {failure.error}")
    print(f"Output: {arguments.output}")
    return SOME_FAILED if failures else DONE
