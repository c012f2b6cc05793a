"""Dice of a dataset within a budget of time: plans, trains folds, and prints a row for each configuration.

Dice is that of the folds' validation cases, whole volumes on their own grid. Folds that are trained are kept, so a run
that was ended resumes.

    python scripts/bench_accuracy.py hippocampus.autoseg Task04_Hippocampus --budget 10min
    python scripts/bench_accuracy.py acdc.autoseg Dataset027_ACDC --budget 20min --folds 0 1 2 3 4 \
        --configurations 2d 3d_fullres -- --group-by '(patient[0-9]+)_frame.*'

Whatever follows `--` goes to `autoseg plan`.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autoseg.records.checkpoint import EpochHistory
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace


def main() -> int:
    """Plan, train every fold of every configuration, print one table; the exit code of the first command that fails."""
    options, planning = _read_options()
    began = time.monotonic()
    words = ["plan", str(options.dataset), "-w", str(options.workspace), "--time-per-fold", options.budget]
    failed = _run([*words, "-c", *options.configurations, *planning] if options.configurations else [*words, *planning])
    if failed:
        return failed
    workspace = Workspace(options.workspace)
    plan = read_record(Plan, workspace.plan)
    for configuration in plan.configurations:
        for fold in options.folds:
            failed = _run(["train", str(options.workspace), "-c", configuration, "-f", fold, *options.train])
            if failed:
                return failed
    Console(width=120).print(_tabulate(plan, workspace, options.folds))
    print(f"{(time.monotonic() - began) / 60:.1f} min in all")
    return 0


def _read_options() -> tuple[argparse.Namespace, list[str]]:
    words = sys.argv[1:]
    own, planning = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--budget", required=True, help="time per fold, such as 10min")
    parser.add_argument("--folds", nargs="+", default=["0"])
    parser.add_argument("--configurations", nargs="+", default=[], help="default: those of the plan")
    parser.add_argument("--train", nargs="+", default=[], help="words for autoseg train, such as --train=--seed=1")
    return parser.parse_args(own), planning


def _run(words: list[str]) -> int:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "autoseg", *words, "-q"], check=False)
    print(f"autoseg {' '.join(words)}: exit code {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    return done.returncode


def _tabulate(plan: Plan, workspace: Workspace, folds: Sequence[str]) -> Table:
    table = Table("configuration", "network", "patch", "batch", "steps", "Dice of folds", "mean")
    for name, configuration in plan.configurations.items():
        dice = [_read_dice(workspace.validation_evaluation((name,), fold)) for fold in folds]
        table.add_row(
            name,
            f"{configuration.network.architecture}, {configuration.network.features[0]} features",
            " x ".join(map(str, configuration.patch_size)),
            str(configuration.batch_size),
            ", ".join(str(_count_steps(workspace.fold(name, fold) / "history.jsonl")) for fold in folds),
            ", ".join(f"{value:.4f}" for value in dice),
            f"{sum(dice) / len(dice):.4f}",
        )
    return table


def _read_dice(path: Path) -> float:
    """Mean over labels of their means over cases."""
    dice = read_record(Evaluation, path).mean_foreground_dice
    if dice is None:
        raise ValueError(f"{path} has no Dice: no label occurs in its cases")
    return dice


def _count_steps(path: Path) -> int:
    return EpochHistory.model_validate_json(path.read_text().splitlines()[-1]).step


if __name__ == "__main__":
    sys.exit(main())
