"""Options that `plan` and `run` share.

Tested in tests/cli/test_plan.py and tests/cli/test_planning_request.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from autoseg.cli.options import (
    add_device,
    add_label_reading,
    add_scheduler,
    add_shared,
    add_workers,
)
from autoseg.cli.values import (
    axis_letters,
    channel_list,
    duration,
    gigabytes,
    key_and_value,
    named_labels,
    positive_number,
    side_pair,
    size,
    worker_number,
)


def add_planning_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `plan` and `run` share."""
    parser.add_argument("dataset", type=Path, help="dataset folder, or a CSV/JSON list of files")
    parser.add_argument(
        "-w", "--workspace", type=Path, default=None, help="where to write (default: ./<dataset name>.autoseg)"
    )
    _add_dataset_arguments(parser)
    _add_planner_arguments(parser)
    _add_limits(parser)
    _add_overrides(parser)
    add_device(parser)
    add_workers(parser)
    add_scheduler(parser)
    parser.add_argument(
        "--max-memory", type=gigabytes, default=None, metavar="SIZE",
        help="memory that these processes may take together, such as 16GB; fewer are started for large cases "
        "(default: what is free)",
    )  # fmt: skip
    add_shared(parser)


def _add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("dataset")
    group.add_argument(
        "--orientation",
        choices=("canonical", "as-stored"),
        default=None,
        help="turn every image the same way (default), or keep the files' axis order",
    )
    group.add_argument(
        "--channels", type=channel_list, default=None, metavar="CT,PET", help="channel names, in file order"
    )
    group.add_argument(
        "--label-names", type=named_labels, default=None, metavar="liver=1,tumour=2",
        help="labels and their values in the files, for datasets without dataset.json, or a file with them "
        "(labels.json, a table of ITK-SNAP, 3D Slicer, FreeSurfer or BIDS); regions as whole=1+2,core=2, "
        "from the largest to the smallest; `ignore` names voxels that do not count",
    )  # fmt: skip
    add_label_reading(group)
    group.add_argument(
        "--image-pattern", default=None, metavar="PATTERN",
        help="names of the images in the folder, such as 'images/{case}_{channel}.nii.gz'; with --label-pattern",
    )  # fmt: skip
    group.add_argument(
        "--label-pattern", default=None, metavar="PATTERN",
        help="names of the label maps in the folder, such as 'labels/{case}.nii.gz'",
    )  # fmt: skip
    group.add_argument(
        "--write-list", type=Path, default=None, metavar="FILE.csv",
        help="write the recognised cases as a list that can be checked, edited and planned, and stop",
    )  # fmt: skip
    group.add_argument("--folds", type=size, default=5, help="cross-validation folds (default: 5)")
    group.add_argument("--group-by", default=None, metavar="REGEX", help="cases whose ids match alike stay in one fold")
    group.add_argument("--skip-faulty", action="store_true", help="leave faulty cases out instead of stopping")
    group.add_argument(
        "--allow-missing-channels", action="store_true",
        help="cases may lack some of the channels (a file that is not there, an empty cell in a list), and networks "
        "learn to predict from any of them",
    )  # fmt: skip


def _add_planner_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to plan")
    group.add_argument(
        "--planner",
        default=None,
        metavar="NAME",
        help="which installed planner decides (default: auto, or that of --like); an unknown name lists all of them",
    )
    group.add_argument(
        "-c",
        "--configurations",
        nargs="+",
        default=(),
        metavar="NAME",
        help="2d 2.5d 3d_fullres 3d_lowres interactive ...",
    )
    group.add_argument(
        "--target",
        choices=("labels", "border-core", "mask-rcnn"),
        default=None,
        help="what networks learn: labels (default); core and border of each object, so that touching ones stay apart "
        "(predict --instances); or each object with its box and its mask (Mask R-CNN)",
    )
    group.add_argument(
        "--like",
        type=Path,
        default=None,
        metavar="MODEL",
        help="network, spacing and normalisation of this planned workspace or exported model, so that its weights fit",
    )
    group.add_argument(
        "--keep-plan",
        action="store_true",
        help="decide nothing: take the workspace's plan.json as it is, edited by hand for example",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--memory", type=gigabytes, default=None, metavar="SIZE", help="memory that training may use, such as 8GB"
    )
    group.add_argument(
        "--devices",
        type=worker_number,
        default=None,
        metavar="N",
        help="GPUs that train a network together, or processes on a CPU (default: 1); --memory is that of each",
    )
    group.add_argument(
        "--time-per-fold",
        type=duration,
        default=None,
        metavar="TIME",
        help="wall-clock time for one fold, such as 10min; sizes network and schedule",
    )
    group.add_argument(
        "--latency",
        type=duration,
        default=None,
        metavar="TIME",
        help="longest prediction of a median case, such as 5s; sizes the network",
    )
    group.add_argument(
        "--trials",
        type=duration,
        default=None,
        metavar="TIME",
        help="train several networks for so long together on fold 0, such as 10min, and plan the best one (default: "
        "rules decide)",
    )
    group.add_argument(
        "--measure-again",
        action="store_true",
        help="measure the speed of this machine again instead of using what was measured for an earlier plan",
    )


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("decisions of your own, kept by the planner")
    group.add_argument(
        "--spacing",
        type=positive_number,
        nargs=3,
        default=None,
        metavar=("Z", "Y", "X"),
        help="target spacing at full resolution, mm (2D images without spacing: pixels)",
    )
    group.add_argument(
        "--patch-size",
        type=size,
        nargs="+",
        default=None,
        metavar="N",
        help="voxels: three numbers for the 3D configurations, two for 2d; axes as the plan shows them",
    )
    group.add_argument("--batch-size", type=size, default=None, metavar="N", help="patches per step")
    group.add_argument(
        "--mirror-axes",
        type=axis_letters,
        default=None,
        metavar="AXES",
        help="all, none, or axes of the patch such as z,y, mirrored in training and at prediction (2d: y,x)",
    )
    group.add_argument(
        "--side-pairs",
        type=side_pair,
        nargs="+",
        default=None,
        metavar="LEFT=RIGHT",
        help="labels that change places where an image is mirrored from left to right, such as "
        "'left kidney=right kidney', or none (default: by their names)",
    )
    _add_training_overrides(group)
    group.add_argument(
        "--neighbor-slices",
        type=int,
        choices=range(1, 9),
        default=None,
        metavar="N",
        help="slices on each side that the network of `-c 2.5d` gets too, 1 to 8 (default: 1)",
    )
    group.add_argument(
        "--planner-option",
        type=key_and_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the chosen planner, such as width=base for unext; may be given again",
    )


def _add_training_overrides(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--progressive",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="begin training with small patches that grow up to the planned one",
    )
    group.add_argument(
        "--case-sampling",
        choices=("uniform", "balanced"),
        default=None,
        help="cases of the patches with foreground: all equally likely, or first a label, then a case that has it "
        "(default: balanced where time is limited and a label is in less than half of the cases)",
    )
    group.add_argument(
        "--contrasts",
        choices=("usual", "random"),
        default=None,
        help="training images as they are, with nnU-Net's changes of intensity (default), or with random contrasts "
        "too, for scanners and sequences that they do not show",
    )
    group.add_argument(
        "--regularizer",
        choices=("none", "entropy", "crf"),
        default=None,
        help="what training asks of voxels with the ignore label: nothing (default), a clear decision, or the same one "
        "for voxels that look alike",
    )
