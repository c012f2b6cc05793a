"""Dice of networks at equal budget: plans each, trains one fold, and prints a row for each with what it costs.

Every network gets a workspace of its own in FOLDER. Trained ones are kept, so that a run that was ended resumes. In the
end each predicts some of its validation images, for the seconds of a case.

    python scripts/bench_networks.py networks Dataset027_ACDC --budget 10min -- --group-by '(patient[0-9]+)_frame.*'
    python scripts/bench_networks.py networks kvasir_small --budget 10min --networks unet hrnet unet:block=dense

Whatever follows `--` goes to `autoseg plan`. A planner with settings is written as NAME:KEY=VALUE,KEY=VALUE.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autoseg.plugins import planner_names
from autoseg.provenance import PROVENANCE_NAME
from autoseg.records.checkpoint import EpochHistory
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_text
from autoseg.records.plan import Plan, Splits
from autoseg.records.provenance import Provenance
from autoseg.records.workspace import Workspace

NEED_NAMES = frozenset({"auto", "external", "zoo"})
"""Planners that choose another one, or that need the name of a network."""

PARTS = ("unet:block=dense", "unet:block=inception", "unet:block=separable", "unet:block=mednext", "unet:head=points")
"""Networks that no planner's own name stands for."""

TIMED_CASES = 9
"""Validation cases that are predicted for the time of a case. The first two do not count: they also try precisions and
set up kernels."""

UNCOUNTED_CASES = 2


def main() -> int:
    """Plan and train what is not trained yet, then print the table; 1 if something failed."""
    options, planning = _read_options()
    failed = []
    for network in options.networks:
        if not _train(network, options, planning) or not _time_prediction(network, options):
            failed.append(network)
    Console(width=140).print(_tabulate([name for name in options.networks if name not in failed], options))
    for network in failed:
        print(f"{network}: failed")
    return 1 if failed else 0


def _read_options() -> tuple[argparse.Namespace, list[str]]:
    words = sys.argv[1:]
    own, planning = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--budget", required=True, help="time of each fold, such as 10min")
    parser.add_argument("-c", "--configuration", default="2d")
    parser.add_argument("--fold", default="0")
    every = (*(name for name in planner_names() if name not in NEED_NAMES), *PARTS)
    parser.add_argument("--networks", nargs="+", default=every, help="default: every planner, and parts of the U-Net")
    return parser.parse_args(own), planning


def _workspace(network: str, folder: Path) -> Workspace:
    return Workspace(folder / network.replace(":", "_").replace(",", "_").replace("=", "-"))


def _train(network: str, options: argparse.Namespace, planning: list[str]) -> bool:
    """Whether the network is trained in the end."""
    workspace = _workspace(network, options.folder)
    if workspace.validation_evaluation((options.configuration,), options.fold).is_file():
        return True
    planner, _, settings = network.partition(":")
    chosen = [word for setting in settings.split(",") if setting for word in ("--planner-option", setting)]
    plan = ["plan", str(options.dataset), "-w", str(workspace.root), "--time-per-fold", options.budget, *planning]
    fold = ["train", str(workspace.root), "-c", options.configuration, "-f", options.fold]
    return _run([*plan, "-c", options.configuration, "--planner", planner, *chosen]) and _run(fold)


def _time_prediction(network: str, options: argparse.Namespace) -> bool:
    """Whether the network has predicted some of its validation cases in the end."""
    workspace = _workspace(network, options.folder)
    output = workspace.root / "timing"
    if (output / PROVENANCE_NAME).is_file():
        return True
    description = read_record(DatasetDescription, workspace.dataset)
    validation = read_record(Splits, workspace.splits).folds[int(options.fold)].validation
    folder = workspace.dataset_folder(description.folder).resolve()
    images = {files.case: [str(folder / name) for name in files.images] for files in description.cases}
    cases = [{"case": case, "image": images[case]} for case in validation[:TIMED_CASES]]
    write_text(json.dumps(cases), workspace.root / "timing.json")
    model = ["-m", str(workspace.root), "-c", options.configuration, "-f", options.fold]
    return _run(["predict", *model, "-i", str(workspace.root / "timing.json"), "-o", str(output), "--provenance"])


def _read_seconds(workspace: Workspace) -> float:
    """Median seconds of a case from reading to writing, without the first ones."""
    cases = read_record(Provenance, workspace.root / "timing" / PROVENANCE_NAME).cases
    return statistics.median(sum(case.seconds.values()) for case in cases[UNCOUNTED_CASES:] or cases)


def _run(words: list[str]) -> bool:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "autoseg", *words, "-q"], check=False, capture_output=True, text=True)
    print(f"autoseg {' '.join(words)}: exit code {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode:
        print(done.stderr.strip(), flush=True)
    return done.returncode == 0


def _tabulate(networks: list[str], options: argparse.Namespace) -> Table:
    table = Table("network", "features", "patch", "batch", "parameters", "GMAC per patch", "memory MB", "steps",
                  "s per case", "Dice")  # fmt: skip
    for network in networks:
        workspace = _workspace(network, options.folder)
        planned = read_record(Plan, workspace.plan).configurations[options.configuration]
        estimates, memory = planned.estimates, planned.estimates.training_memory_bytes
        dice = read_record(
            Evaluation, workspace.validation_evaluation((options.configuration,), options.fold)
        ).mean_foreground_dice
        table.add_row(
            network,
            str(planned.network.features[0]),
            " x ".join(map(str, planned.patch_size)),
            str(planned.batch_size),
            f"{estimates.parameters / 1e6:.2f} M",
            f"{estimates.macs / 1e9:.3g}",
            "" if memory is None else f"{memory / 1e6:.0f}",
            str(_count_steps(workspace.fold(options.configuration, options.fold) / "history.jsonl")),
            f"{_read_seconds(workspace):.2f}",
            "" if dice is None else f"{dice:.4f}",
        )
    return table


def _count_steps(path: Path) -> int:
    return EpochHistory.model_validate_json(path.read_text().splitlines()[-1]).step


if __name__ == "__main__":
    sys.exit(main())
