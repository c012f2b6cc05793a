#!/usr/bin/env python3
"""Each command, ended by signals at random moments and run again, gives what an undisturbed run gives; Unix.

    python scripts/campaign_kill.py --rounds 20
    python scripts/campaign_kill.py --commands train predict --signals SIGKILL SIGUSR1 --rounds 5 --seed 3

Every round begins with the same files, ends the command after a random time (SIGKILL and others), and checks: the exit
code, one sentence without a traceback, the end of all worker processes, no half file under a final name. Then the
command runs again and must leave the files of the undisturbed run, byte for byte but for times and memory in named
fields and the rounding of weights; nothing that was finished is written again, and no temporary file is left.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from run_contents import compare, contents, find_half_files, finished_files, written_state

from autoseg.testing import write_phantom_dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.interop.nnunet_models import write_model  # the tests know how nnU-Net writes models

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")

PLAN = (
    "plan", "data", "-w", "work", "--planner", "unet", "--device", "cuda", "-c", "3d_fullres", "-j", "2",
    "--memory", "1GB", "--patch-size", "8", "16", "16", "--folds", "2",
)  # fmt: skip
SHORT = ("-c", "3d_fullres", "--device", "cpu", "--precision", "fp32", "--epochs", "3", "--steps-per-epoch", "4")
TRAIN = ("train", "work", "-f", "0", *SHORT)
SELECT = ("select", "work", "-j", "2", "--device", "cpu")
PREDICT = (
    "predict", "-m", "work", "-i", "data/imagesTs", "-o", "labels", "--device", "cpu", "--precision", "fp32",
    "--skip-existing", "--statistics",
)  # fmt: skip

FOREIGN_MODEL = "trainer__plans__3d_fullres"

STAGES = {
    "plan": ("data", PLAN),
    "train": ("planned", TRAIN),
    "select": ("trained", SELECT),
    "predict": ("selected", PREDICT),
    "export": ("selected", ("export", "work", "-o", "model.zip", "--overwrite")),
    "report": ("selected", ("report", "work")),
    "evaluate": ("predicted", ("evaluate", "labels", "data/labelsTs", "-j", "2")),
    "import-nnunet": ("foreign", ("import-nnunet", FOREIGN_MODEL, "-o", "imported")),
    "run": ("edited", ("run", "data", "-w", "work", "--keep-plan", "--device", "cpu", "--folds", "2", "-j", "2")),
}
"""Commands, in the order of a job: the files that each starts from, and its words."""

STATES = {
    "planned": ("data", (PLAN,)),
    "trained": ("planned", (TRAIN, ("train", "work", "-f", "1", *SHORT))),
    "selected": ("trained", (SELECT,)),
    "predicted": ("selected", (PREDICT,)),
}
"""Files to start from: those before, and the commands that are run undisturbed on them."""

SECONDS_TO_END = 10.0
"""Time from a signal to the end of the command and all its processes."""

SECONDS_OF_START = 0.3
"""Time in which the interpreter starts; only SIGKILL is sent then, because no program can answer to others."""


@dataclass
class Row:
    """What became of all rounds of one command and one signal."""

    command: str
    signal: str
    hits: int = 0
    """Rounds in which the command was still running."""
    slowest_seconds: float = 0.0
    """Longest time from the signal to the end of the command and its processes."""
    faults: list[str] = field(default_factory=list)


class Campaign:
    """Folders of a campaign; every try happens in the same one, so that recorded paths are equal."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.run = folder, folder / "run"
        self.random = random.Random(seed)  # noqa: S311  # moments, no secrets
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "run" / "tmp")}

    def reset(self, start: Path) -> None:
        """Begin with the files of `start`."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(start, self.run, copy_function=shutil.copy2)
        (self.run / "tmp").mkdir(exist_ok=True)

    def start(self, words: Sequence[str]) -> "subprocess.Popen[str]":
        """Start a command in `run`; signals that a shell's background job ignores count again."""
        return subprocess.Popen(
            [sys.executable, "-m", "autoseg", *words], cwd=self.run, env=self.environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=_heed_signals,
        )  # fmt: skip

    def finish(self, words: Sequence[str]) -> float:
        """Run a command to its end, which must be a good one; returns its seconds."""
        began = time.monotonic()
        process = self.start(words)
        _, messages = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"autoseg {' '.join(words)}: exit code {process.returncode}\n{messages}")
        return time.monotonic() - began


def _heed_signals() -> None:
    for name in SIGNALS:
        if name != "SIGKILL":
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def main() -> int:
    """Prepare, disturb, print the table; the exit code is 1 if anything was found."""
    options = _parse_options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="kill-") as made:
        campaign = Campaign(Path(made), options.seed)
        rows = []
        for command in options.commands:
            before, words = STAGES[command]
            start = _make_state(campaign, before)
            campaign.reset(start)
            seconds = campaign.finish(words)
            expected = contents(campaign.run)
            for name in options.signals:
                row = Row(command, name)
                for _ in range(options.rounds):
                    seconds = min(seconds, _disturb(campaign, start, seconds, expected, row))
                rows.append(row)
                _print_row(row, options.rounds, seconds)
    faults = [fault for row in rows for fault in row.faults]
    print(f"{sum(row.hits for row in rows)} disturbed runs, {len(faults)} faults (seed {options.seed})")
    return 1 if faults else 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="tries of each command with each signal")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--commands", nargs="+", choices=tuple(STAGES), default=tuple(STAGES))
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=SIGNALS)
    parser.add_argument("--folder", type=Path, default=None, help="where the runs lie (default: temporary files)")
    return parser.parse_args()


def _print_row(row: Row, rounds: int, seconds: float) -> None:
    print(
        f"{row.command:14} {row.signal:8} {row.hits:3} of {rounds} hit; undisturbed {seconds:5.1f} s; ended within "
        f"{row.slowest_seconds:4.1f} s; {len(row.faults)} faults", flush=True,
    )  # fmt: skip
    for fault in row.faults:
        print(f"    {fault}", flush=True)


def _make_state(campaign: Campaign, name: str) -> Path:
    """The folder of files to start from; made once."""
    folder = campaign.folder / name
    if folder.exists():
        return folder
    if name == "data":
        write_phantom_dataset(folder / "data", training=6, held_out=3)
    elif name == "foreign":
        write_model(folder / FOREIGN_MODEL, folds=(0, 1, "all"))
    elif name == "edited":
        shutil.copytree(_make_state(campaign, "planned"), folder)
        _shorten_training(folder / "work")
    else:
        before, commands = STATES[name]
        campaign.reset(_make_state(campaign, before))
        for words in commands:
            campaign.finish(words)
        shutil.rmtree(campaign.run / "tmp")
        campaign.run.rename(folder)
    return folder


def _shorten_training(workspace: Path) -> None:
    """Plan 2 epochs of 3 steps by hand, and forget what is preprocessed, so that a run begins there."""
    plan = json.loads((workspace / "plan.json").read_text())
    for configuration in plan["configurations"].values():
        configuration["training"] |= {"epochs": 2, "steps_per_epoch": 3}
    (workspace / "plan.json").write_text(json.dumps(plan))
    shutil.rmtree(workspace / "preprocessed")


def _disturb(campaign: Campaign, start: Path, seconds: float, expected: "dict[str, object]", row: Row) -> float:
    """One round: end the command at a random moment, run it again, compare; returns the seconds of the second run."""
    words = STAGES[row.command][1]
    campaign.reset(start)
    number = getattr(signal, row.signal)
    delay = campaign.random.uniform(0.0 if row.signal == "SIGKILL" else SECONDS_OF_START, seconds)
    process = campaign.start(words)
    time.sleep(delay)
    workers = _descendants(process.pid)
    process.send_signal(number)
    began = time.monotonic()
    try:
        _, messages = process.communicate(timeout=6 * SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        _, messages = process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=max(0.0, began + SECONDS_TO_END - time.monotonic()))
    took = time.monotonic() - began
    row.slowest_seconds = max(row.slowest_seconds, took)
    faults = [f"process {worker.pid} is still there" for worker in alive]
    if took > SECONDS_TO_END:
        faults.append(f"ended {took:.1f} s after the signal")
    row.hits += process.returncode != 0
    expected_code = -number if row.signal == "SIGKILL" else 128 + number
    if process.returncode not in (0, expected_code):
        faults.append(f"exit code {process.returncode}: {messages[-300:]}")
    if "Traceback" in messages:
        faults.append(messages[-600:])
    faults += find_half_files(campaign.run)
    finished = finished_files(campaign.run, expected)
    if any(compare(campaign.run, expected)):  # else it had written everything before it was ended
        try:
            seconds = campaign.finish(words)
        except RuntimeError as error:
            faults.append(str(error)[-600:])
        faults += compare(campaign.run, expected)
    again = [name for name, state in finished.items() if written_state(campaign.run / name) != state]
    faults += [f"{name} was finished and is written again" for name in again]
    row.faults += [f"after {delay:.2f} s: {fault}" for fault in faults]
    return seconds


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


if __name__ == "__main__":
    sys.exit(main())
