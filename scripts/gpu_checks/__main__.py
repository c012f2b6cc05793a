"""Run the checks, the most important first, each on its own: see `scripts/check_gpu --help`."""

import argparse
import logging
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.networks.devices import check_device_works, choose_device, keep_freed_memory
from gpu_checks.correctness import check_environment, check_first_steps, check_networks, check_precisions
from gpu_checks.machine import Machine
from gpu_checks.memory import check_epochs, check_estimates, check_too_little_memory
from gpu_checks.nnunet import check_against_nnunet
from gpu_checks.prediction import check_ct_of_3_classes, check_ct_of_105_classes
from gpu_checks.resampling import check_resampling
from gpu_checks.results import (
    RESULTS_NAME,
    Findings,
    Outcome,
    SkippedError,
    print_table,
    write_results,
)
from gpu_checks.steps import check_compiled, check_layouts, check_loader, check_probe, check_residual_encoder
from gpu_checks.waits import check_waits
from gpu_checks.whole_runs import check_end_to_end, check_hippocampus

DONE, MISSED = 0, 1
"""Exit codes: every aim that was looked at is reached; an aim was missed or a check failed."""

LOG_NAME = "log.txt"
"""What trainings and predictions say meanwhile."""

TRACEBACK_LINES = 6


@dataclass(frozen=True)
class Check:
    """One check, and about how long it takes on a GPU."""

    name: str
    make: Callable[[Machine], Findings]
    seconds: float

    @property
    def question(self) -> str:
        """The first line of its documentation."""
        return (self.make.__doc__ or "").partition("\n")[0]


CHECKS = (
    Check("environment", check_environment, 2),
    Check("networks", check_networks, 60),
    Check("first steps", check_first_steps, 15),
    Check("end to end", check_end_to_end, 60),
    Check("waits", check_waits, 10),
    Check("layouts", check_layouts, 45),
    Check("CT, 3 classes", check_ct_of_3_classes, 70),
    Check("CT, 105 classes", check_ct_of_105_classes, 90),
    Check("memory of plans", check_estimates, 40),
    Check("residual encoder", check_residual_encoder, 35),
    Check("against nnU-Net", check_against_nnunet, 20),
    Check("loader", check_loader, 50),
    Check("probe", check_probe, 20),
    Check("Hippocampus", check_hippocampus, 60),
    Check("resampling", check_resampling, 20),
    Check("precisions", check_precisions, 10),
    Check("memory over epochs", check_epochs, 20),
    Check("too little memory", check_too_little_memory, 10),
    Check("compiled", check_compiled, 90),
)
"""In the order of their weight: the first ones say whether the rest means anything."""


def main() -> int:
    """Run what fits into the time, and write what was found."""
    options = _parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", filename=options.out / LOG_NAME, filemode="w")
    keep_freed_memory()  # as the commands do
    began, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="check-gpu-") as folder:
        machine = Machine(choose_device(options.device), Path(folder), options.tiny, options.hippocampus)
        if machine.has_cuda and machine.device.index is not None:
            torch.cuda.set_device(machine.device)
        settings = {"device": machine.name, "torch": torch.__version__, "size": "tiny" if options.tiny else "full"}
        for check in CHECKS:
            if options.only and check.name not in options.only:
                continue
            left = options.seconds - (time.monotonic() - began)
            outcomes.append(_make(check, machine, left))
            print(outcomes[-1].describe(), flush=True)
            write_results(outcomes, settings, options.out)
    print_table(outcomes)
    missed = [outcome.check for outcome in outcomes if outcome.has_failed()]
    print(f"{options.out / RESULTS_NAME}: {len(outcomes)} checks, not as they should be: {', '.join(missed) or 'none'}")
    return MISSED if missed else DONE


def _make(check: Check, machine: Machine, seconds_left: float) -> Outcome:
    """One check; what it raises becomes part of its outcome, so that the others are made all the same."""
    if check.seconds > seconds_left and not machine.is_tiny:
        return Outcome(check.name, check.question, skipped=f"it takes about {check.seconds:g} s; --only makes it alone")
    began = time.monotonic()
    try:
        if machine.has_gpu:
            check_device_works(machine.device)
        findings = check.make(machine)
    except SkippedError as reason:
        return Outcome(check.name, check.question, skipped=str(reason))
    except Exception as error:  # noqa: BLE001  # whatever fails on an unknown machine is a finding
        lines = traceback.format_exc(limit=-TRACEBACK_LINES)
        message = f"{type(error).__name__}: {error}\n{lines}"
        outcome = Outcome(check.name, check.question, time.monotonic() - began, error=message)
    else:
        outcome = Outcome(check.name, check.question, time.monotonic() - began, findings)
    machine.start_peak()
    return outcome


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="check_gpu", description="What works on this machine's GPU, and how fast.")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--seconds", type=float, default=600.0, help="no check begins that needs longer (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_check"), metavar="FOLDER", help="for the results (%(default)s)"
    )
    names = ", ".join(check.name for check in CHECKS)
    parser.add_argument("--only", nargs="+", default=(), metavar="CHECK", help=f"make these alone: {names}")
    parser.add_argument("--hippocampus", type=Path, metavar="FOLDER", help="the Decathlon's Task04_Hippocampus")
    parser.add_argument("--tiny", action="store_true", help="everything so small that a CPU does it in a minute")
    options = parser.parse_args()
    unknown = sorted(set(options.only) - {check.name for check in CHECKS})
    if unknown:
        parser.error(f"no check is called {', '.join(unknown)}; there are {names}")
    return options


if __name__ == "__main__":  # workers that are not forked import this file again
    raise SystemExit(main())
