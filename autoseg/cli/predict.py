"""`autoseg predict`: label maps for images."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.cli.options import add_device, add_shared, gigabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg predict`."""
    parser.add_argument("-m", "--model", type=Path, required=True, help="a trained workspace, or an exported model")
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
    parser.add_argument(
        "--max-memory", type=gigabytes, default=None, metavar="SIZE",
        help="what the process may hold, such as 3GB (default: what is free); the label map stays the same",
    )  # fmt: skip
    parser.add_argument("--save-probabilities", action="store_true", help="also write each class's probability")
    parser.add_argument("--skip-existing", action="store_true", help="leave cases alone that are there already")
    add_device(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict all cases; the exit code is 1 when some failed."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import progress_bar
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.stages.predict import Predictor, predict_files

    limit = arguments.max_memory
    if limit is None:
        keep_freed_memory()  # sooner, but what is freed still counts
    predictor = Predictor(
        arguments.model,
        configuration=arguments.configuration,
        folds=arguments.folds,
        device=arguments.device,
        precision=arguments.precision,
        mirroring=arguments.tta == "full",
        overlap=arguments.overlap,
        max_memory=None if limit is None else round(limit * 1e9),
    )
    with _stopping_on_sigterm(), progress_bar("predicting") as progress:
        failures = predict_files(
            predictor,
            arguments.images,
            arguments.output,
            save_probabilities=arguments.save_probabilities,
            skip_existing=arguments.skip_existing,
            progress=progress,
        )
    for failure in failures:
        print(f"failed: {failure.case}: {failure.error}")
    print(f"Output: {arguments.output}")
    return SOME_FAILED if failures else DONE


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: no file is left half written."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
