"""`autoseg export`: write a trained model for other machines or programs."""

import argparse
from pathlib import Path

from autoseg.cli.options import add_shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg export`."""
    parser.add_argument("model", type=Path, metavar="WORKSPACE", help="a trained workspace, or an exported model")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .zip file or a folder (all formats)")
    parser.add_argument(
        "--format", choices=("autoseg", "onnx", "nnunet"), default="autoseg",
        help="autoseg: a model for predict, --like and --pretrained; onnx: networks for other programs; "
        "nnunet: a folder of nnU-Net's results",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--configurations", nargs="+", default=(), metavar="NAME",
        help="default: those that `autoseg select` chose, else the trained ones; probabilities of several are averaged",
    )  # fmt: skip
    parser.add_argument(
        "-f", "--folds", nargs="+", default=(), metavar="FOLD",
        help="default: the folds that were selected, else all trained folds",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", choices=("final", "best"), default="final", help="which weights of each fold (default: final)"
    )
    parser.add_argument(
        "--license",
        default=None,
        metavar="TEXT",
        help="written to manifest.json, for nnunet to dataset.json too (default: not stated)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export; print folds, license and size."""
    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import progress_bar
    from autoseg.locks import warn_of_writers
    from autoseg.records.workspace import Workspace
    from autoseg.stages.export import ExportOptions, export_model
    from autoseg.stages.export_nnunet import export_nnunet
    from autoseg.stages.export_onnx import export_onnx

    options = ExportOptions(
        configurations=tuple(arguments.configurations),
        folds=tuple(arguments.folds),
        checkpoint=arguments.checkpoint,
        license=arguments.license,
        overwrite=arguments.overwrite,
    )
    warn_of_writers(Workspace(arguments.model))
    export = {"autoseg": export_model, "onnx": export_onnx, "nnunet": export_nnunet}[arguments.format]
    with progress_bar("exporting") as progress:
        manifest = export(arguments.model, arguments.output, options, progress)
    for name, folds in manifest.configurations.items():
        print(f"{name}: fold(s) {', '.join(folds)}")
    megabytes = sum(facts.bytes for facts in manifest.files.values()) / 1e6
    if manifest.requires:
        print(f"Needs where it is used: pip install {' '.join(manifest.requires)}")
    print(f"License: {manifest.license or 'not stated; --license states one'}")
    print(f"Model: {arguments.output} ({len(manifest.files) + 1} files, {megabytes:.1f} MB)")
    return DONE
