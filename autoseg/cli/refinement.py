"""Options of boundary refinement, for `select` and `run`."""

import argparse
from typing import TYPE_CHECKING

from autoseg.cli.options import duration

if TYPE_CHECKING:
    from autoseg.selection.refinement import RefinementOptions

DEFAULT_TIME = "60s"


def add_refinement(parser: argparse.ArgumentParser) -> None:
    """Add --refine and --refine-time."""
    group = parser.add_argument_group("refinement")
    group.add_argument(
        "--refine", choices=("none", "boundary"), default="none",
        help="boundary: train small networks that correct surfaces; kept if they help in cross-validation "
        "(default: none)",
    )  # fmt: skip
    group.add_argument(
        "--refine-time", type=duration, default=duration(DEFAULT_TIME), metavar="TIME",
        help=f"wall-clock time to train each of up to three such networks (default: {DEFAULT_TIME})",
    )  # fmt: skip


def refinement_options(arguments: argparse.Namespace, precision: str = "auto") -> "RefinementOptions | None":
    """Settings of refinement from the arguments; None: no refinement."""
    if arguments.refine == "none":
        return None
    from autoseg.selection.refinement import RefinementOptions

    return RefinementOptions(seconds=arguments.refine_time, device=arguments.device, precision=precision)
