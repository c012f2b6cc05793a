"""`autoseg predict`: label maps for images."""

import argparse
import re
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.cli.options import add_device, add_scheduler, add_shared, read_mirror_axes
from autoseg.cli.values import axis_letters, gigabytes, thread_option
from autoseg.records.part import WHOLE_RUN, Part
from autoseg.records.prediction import OutputChoices

if TYPE_CHECKING:
    from autoseg.stages.predict import PredictionOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg predict`."""
    parser.add_argument("-m", "--model", type=Path, required=True, help="a trained workspace, or an exported model")
    parser.add_argument(
        "-i",
        "--images",
        type=Path,
        required=True,
        help="an image, a folder of images, a DICOM series (folder, zip), or a CSV/JSON list",
    )
    parser.add_argument(
        "--image-pattern", default=None, metavar="PATTERN",
        help="names of the images in the folder, such as '{case}/{channel}.nii.gz' (default: they are recognised)",
    )  # fmt: skip
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
        "--accept-other-plan", action="store_true",
        help="use weights that were trained for another plan, with a warning (default: they are refused)",
    )  # fmt: skip
    _add_correction(parser.add_argument_group("correction by clicks"))
    _add_quality(parser.add_argument_group("quality and speed"))
    _add_outputs(parser.add_argument_group("what else to write"))
    _add_dicom(parser.add_argument_group("DICOM images"))
    _add_work(parser.add_argument_group("work"))
    add_shared(parser)


def _add_correction(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--clicks", type=Path, default=None, metavar="FILE",
        help="correct the label maps of the cases that this JSON file names, near its clicks; needs a trained "
        "configuration `interactive` (docs/correction.md)",
    )  # fmt: skip
    group.add_argument(
        "--first-labels", type=Path, default=None, metavar="FOLDER",
        help="label maps that --clicks corrects (default: they are predicted first)",
    )  # fmt: skip


def _add_quality(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--speed", choices=("best", "balanced", "fast"), default="best",
        help="best: all folds, mirrored; balanced: not mirrored; fast: one fold, fewer windows (default: best)",
    )  # fmt: skip
    group.add_argument(
        "--tta", choices=("full", "none"), default=None,
        help="average over images mirrored as in training (default: set by --speed)",
    )  # fmt: skip
    group.add_argument(
        "--mirror-axes", type=axis_letters, default=None, metavar="AXES",
        help="average over images mirrored along all, none or these axes of the patch, such as y,x, whatever "
        "training mirrored",
    )  # fmt: skip
    group.add_argument(
        "--overlap", type=float, default=None, metavar="FRACTION",
        help="fraction that neighbouring windows overlap, such as 0.5 (default: set by --speed)",
    )  # fmt: skip
    group.add_argument(
        "--nested-levels", type=int, default=None, metavar="N",
        help="of a U-Net++ only the upper N levels predict, which is faster (default: all)",
    )  # fmt: skip
    group.add_argument(
        "--roi", action="store_true",
        help="find the foreground in a coarse pass first, and predict in detail only there",
    )  # fmt: skip
    group.add_argument(
        "--refine", choices=("auto", "none"), default="auto",
        help="refine boundaries if `autoseg select --refine boundary` found that it helps (default: auto)",
    )  # fmt: skip
    group.add_argument(
        "--adapt", choices=("auto", "histogram", "statistics", "none"), default="auto",
        help="histogram: match the intensities of every image to those of the training images; statistics: take half "
        "of the statistics of batch normalisation from every image; auto: images with another contrast, if `autoseg "
        "select --adapt` allowed it (default: auto)",
    )  # fmt: skip
    group.add_argument(
        "--decision", choices=("auto", "argmax", "expected-dice"), default="auto",
        help="argmax: the most probable label of each voxel; expected-dice: as many voxels of a label as maximise its "
        "expected Dice in each case (default: auto, what `autoseg select` found to be better, else argmax)",
    )  # fmt: skip
    group.add_argument(
        "--precision", choices=("auto", "fp32", "tf32", "bf16", "fp16"), default="auto",
        help="number format of the networks (default: auto, 16 bits where label maps stay the same)",
    )  # fmt: skip


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    for output in fields(OutputChoices):
        form: dict[str, Any] = {"action": "store_true"}
        if "choices" in output.metadata:
            form = {"choices": output.metadata["choices"], "default": output.default}
        elif "metavar" in output.metadata:
            form = {"type": Path, "metavar": output.metadata["metavar"]}
        group.add_argument(output.metadata["option"], dest=output.name, help=output.metadata["help"], **form)


def _add_dicom(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--series", default=None, metavar="UID|NUMBER",
        help="series of a folder or zip archive with several (default: the only one, or clearly the largest)",
    )  # fmt: skip
    group.add_argument(
        "--resample-gaps", action="store_true",
        help="resample slices at irregular positions, rather than refuse them",
    )  # fmt: skip


def _add_work(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--skip-existing", action="store_true", help="skip cases whose label maps already exist")
    group.add_argument("--part", type=part_of_all, default=None, metavar="K/N", help="every N-th case from the K-th on")
    add_scheduler(group)
    group.add_argument(
        "--max-memory", type=gigabytes, default=None, metavar="SIZE",
        help="memory that the process may use, such as 3GB, one case at a time (default: what is free)",
    )  # fmt: skip
    add_device(group)
    group.add_argument(
        "--threads", type=thread_option, default="auto", metavar="N|all|auto",
        help="threads on a CPU; auto takes what is fastest beside other programs (default: auto)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Predict all cases; the exit code is 1 when some failed."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import progress_bar
    from autoseg.cluster.dask_workers import DaskCluster, ToolCluster
    from autoseg.locks import warn_of_writers
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.records.workspace import Workspace
    from autoseg.stages.correct import CorrectionOptions, correct_files
    from autoseg.stages.predict import Predictor, RunOptions, predict_files

    _refuse_idle_labels(arguments)
    if arguments.max_memory is None:
        keep_freed_memory()  # faster, but freed memory still counts as used
    options = _read_options(arguments)
    choices = OutputChoices(**{output.name: getattr(arguments, output.name) for output in fields(OutputChoices)})
    _refuse_idle_options(choices)
    model, images, output = arguments.model.absolute(), arguments.images, arguments.output
    cluster = None
    if arguments.scheduler is not None:
        cluster = ToolCluster(DaskCluster(arguments.scheduler), partial(Predictor, model, options))
        images, output = images.absolute(), output.absolute()
        choices = replace(choices, codes=choices.codes and choices.codes.absolute())
        options = replace(options, device="cpu", precision="fp32")  # only the plan is needed here
    warn_of_writers(Workspace(model))
    predictor = Predictor(model, options)
    run_options = RunOptions(
        image_pattern=arguments.image_pattern,
        skip_existing=arguments.skip_existing,
        part=arguments.part or WHOLE_RUN,
        cluster=cluster,
        series=arguments.series,
        resample_gaps=arguments.resample_gaps,
    )
    if arguments.clicks is None:
        with progress_bar("predicting") as progress:
            failures = predict_files(predictor, images, output, choices, run_options, progress)
    else:
        correction = CorrectionOptions(clicks=arguments.clicks, first_labels=arguments.first_labels, outputs=choices)
        with progress_bar("correcting") as progress:
            failures = correct_files(predictor, images, output, correction, run_options, progress)
    for failure in failures:
        print(f"failed: {failure.case}: {failure.error}")
    print(f"Output: {arguments.output}")
    return SOME_FAILED if failures else DONE


def _read_options(arguments: argparse.Namespace) -> "PredictionOptions":
    """How images are predicted: as the speed says, but for what was asked for."""
    from autoseg.stages.predict import SPEEDS

    limit, speed = arguments.max_memory, SPEEDS[arguments.speed]
    return replace(
        speed,
        configuration=arguments.configuration,
        folds=arguments.folds,
        max_folds=speed.max_folds if arguments.folds is None else None,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        mirroring=_is_mirrored(arguments, is_default=speed.mirroring),
        mirror_axes=read_mirror_axes(arguments),
        overlap=speed.overlap if arguments.overlap is None else arguments.overlap,
        nested_levels=arguments.nested_levels,
        region_of_interest=arguments.roi,
        decision=None if arguments.decision == "auto" else arguments.decision,
        adapt=None if arguments.adapt == "auto" else arguments.adapt,
        refine=arguments.refine == "auto",
        accept_other_plan=arguments.accept_other_plan,
        max_memory=None if limit is None else round(limit * 1e9),
    )


def _refuse_idle_labels(arguments: argparse.Namespace) -> None:
    from autoseg.errors import UsageError

    if arguments.first_labels is not None and arguments.clicks is None:
        raise UsageError("--first-labels names label maps that clicks correct: add --clicks FILE.json, or leave it out")


def _refuse_idle_options(choices: OutputChoices) -> None:
    from autoseg.errors import UsageError

    if not choices.meshes and (choices.smooth_meshes or choices.mesh_format != OutputChoices.mesh_format):
        raise UsageError("--mesh-format and --smooth-meshes are for meshes: add --meshes, or leave them out")
    if choices.calibrated and not choices.probabilities and choices.segmentation_type != "fractional":
        raise UsageError(
            "--calibrated is for saved probabilities: add --save-probabilities or --seg-type fractional, or leave it "
            "out"
        )


def _is_mirrored(arguments: argparse.Namespace, *, is_default: bool) -> bool:
    if arguments.tta is not None:
        return bool(arguments.tta == "full")
    return is_default or arguments.mirror_axes is not None


def part_of_all(text: str) -> Part:
    """Read `2/5` as the second of five parts.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    try:
        return Part(*map(int, match.groups() if match else (0, 0)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not K/N with 1 <= K <= N, such as 2/5, the second of five parts"
        ) from error
