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
import gzip
import io
import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from autoseg.records.temporaries import is_temporary
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

HALF_FILE_ERRORS = (ValueError, OSError, EOFError, zlib.error, struct.error, zipfile.BadZipFile)

SECONDS_TO_END = 10.0
"""Time from a signal to the end of the command and all its processes."""

SECONDS_OF_START = 0.3
"""Time in which the interpreter starts; only SIGKILL is sent then, because no program can answer to others."""

VARYING_FIELDS = frozenset({
    "seconds", "elapsed_seconds", "data_wait_fraction", "peak_memory_bytes", "created", "finished_at", "started_at",
    "command", "command_line", "host", "process", "sha256", "weights", "origin",
})  # fmt: skip
"""Fields of JSON files that tell of a run, not of its result; sha256, weights and origin: hashes over such fields."""

FREE_FILES = ("log.txt", "curves.png", "progress.png", "report.html")
"""Files that show times; they must exist and be complete, but need not be equal."""

FINISHED_ENDINGS = (".b2nd", ".nii.gz", "checkpoint_final.safetensors")
"""Files that take long to make: one that is complete after a kill is not written again."""

RELATIVE_ROUNDING, ABSOLUTE_ROUNDING = 1e-3, 1e-5
"""How far weights and scores may differ: the same training has other last digits now and then, also undisturbed."""

FOREIGN_TEMPORARIES = ("torchinductor_", "pymp-")
"""Beginnings of temporary names: a cache of torch, and a socket that Python's forkserver leaves when it is killed."""


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
            expected = _contents(campaign.run)
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
    faults += _find_half_files(campaign.run)
    finished = _finished_files(campaign.run, expected)
    if any(_compare(campaign.run, expected)):  # else it had written everything before it was ended
        try:
            seconds = campaign.finish(words)
        except RuntimeError as error:
            faults.append(str(error)[-600:])
        faults += _compare(campaign.run, expected)
    again = [name for name, state in finished.items() if _state(campaign.run / name) != state]
    faults += [f"{name} was finished and is written again" for name in again]
    row.faults += [f"after {delay:.2f} s: {fault}" for fault in faults]
    return seconds


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def _files(run: Path) -> Iterator[Path]:
    return (path for path in sorted(run.rglob("*")) if path.is_file() and "tmp" not in path.relative_to(run).parts)


def _contents(run: Path) -> "dict[str, object]":
    """What every file says, by its path, without times and memory; None for half files and temporary ones."""
    return {str(path.relative_to(run)): _whole_content(path) for path in _files(run)}


def _whole_content(path: Path) -> object:
    """Content of a file, or None if it is not complete or has a temporary name."""
    if is_temporary(path.name):
        return None
    try:
        return _content(path.name, path.read_bytes())
    except HALF_FILE_ERRORS:
        return None


def _compare(run: Path, expected: "dict[str, object]") -> Iterator[str]:
    """Faults of a folder after the second run."""
    found = _contents(run)
    yield from (f"{name} is missing" for name in expected.keys() - found.keys())
    for name in sorted(found.keys() - expected.keys()):
        yield f"{name} is a temporary file" if is_temporary(Path(name).name) else f"{name} is too many"
    for name in sorted(expected.keys() & found.keys()):
        if Path(name).name not in FREE_FILES and not _is_equal(found[name], expected[name]):
            yield f"{name} differs"
    left = (path.name for path in (run / "tmp").iterdir() if not path.name.startswith(FOREIGN_TEMPORARIES))
    yield from (f"tmp/{name} is left in the folder of temporary files" for name in left)


def _finished_files(run: Path, expected: "dict[str, object]") -> "dict[str, tuple[int, int]]":
    """Files that take long to make and are complete, with their state; validated cases once their scores are kept."""
    return {
        name: _state(run / name)
        for name, content in expected.items()
        if name.endswith(FINISHED_ENDINGS) and (run / name).exists() and _is_equal(_whole_content(run / name), content)
    }


def _has_scores(path: Path) -> bool:
    """Whether the label map of a validation case was scored, in a record of its own or in that of the fold."""
    records = (f".{path.name.removesuffix('.nii.gz')}.json", "evaluation.json")
    return path.parent.name != "validation" or any((path.parent / name).exists() for name in records)


def _is_equal(first: object, second: object) -> bool:
    """Whether contents agree; weights, and what follows from them, up to the rounding of float32."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_is_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_is_equal, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=RELATIVE_ROUNDING, abs_tol=ABSOLUTE_ROUNDING)
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.shape == second.shape and np.allclose(first, second, RELATIVE_ROUNDING, ABSOLUTE_ROUNDING)
    return first == second


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _find_half_files(run: Path) -> Iterator[str]:
    """Files under a final name that are not complete."""
    for path in _files(run):
        if is_temporary(path.name) or any(is_temporary(parent.name) for parent in path.parents):
            continue
        is_empty = path.stat().st_size == 0 and path.name != "log.txt"
        if is_empty or _whole_content(path) is None:
            yield f"{path.relative_to(run)} is half a file"


def _content(name: str, data: bytes) -> object:
    """Content of a file in a form that can be compared; raises if it is not complete."""
    if name.endswith((".json", ".jsonl")):
        return [
            _without_varying(json.loads(line)) for line in ([data] if name.endswith(".json") else data.splitlines())
        ]
    if name.endswith(".safetensors"):
        return _weights(data)
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {member: _content(member, archive.read(member)) for member in archive.namelist()}
    if name.endswith(".npz"):
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {member: arrays[member] for member in arrays.files}
    if name.endswith(".gz"):
        return gzip.decompress(data)
    if name.endswith(".png") and not data.endswith(b"IEND\xaeB`\x82"):
        raise ValueError("no end of a picture")
    if name.endswith(".html") and not data.rstrip().endswith(b"</html>"):
        raise ValueError("no end of a page")
    return data


def _weights(data: bytes) -> object:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = {key: _without_varying(_parsed(text)) for key, text in header.pop("__metadata__", {}).items()}
    tensors = np.frombuffer(data[8 + length :], dtype=np.float32)
    if tensors.nbytes != max((entry["data_offsets"][1] for entry in header.values()), default=0):
        raise ValueError("not as many bytes as the header says")
    return metadata, header, tensors


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _without_varying(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_varying(entry) for key, entry in value.items() if key not in VARYING_FIELDS}
    return [_without_varying(entry) for entry in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
