"""Run autoseg as on Windows or macOS: `python foreign_system.py win32|darwin FOLDER`; started by test_every_desktop.

autoseg sees the platform's name, no module and no function that only Unix has, and no /proc. Other packages are
imported before, so that they work as on the system that they are installed on. Worker processes are spawned, as on both
systems, and a spawned process imports this file again, so that it sees the same.
"""

import builtins
import importlib
import importlib.util
import io
import multiprocessing
import os
import pkgutil
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from typing_extensions import override

OTHER_PACKAGES = (
    "PIL.Image", "SimpleITK", "batchgenerators.dataloading.multi_threaded_augmenter", "blosc2", "jinja2", "joblib",
    "matplotlib.figure", "multiprocessing.popen_spawn_posix", "nibabel", "numpy", "psutil",
    "pydantic", "rich.console", "rich.progress", "safetensors.torch", "scipy.ndimage", "skimage.segmentation", "torch",
    "torch.distributed.launcher.api", "torch.utils.flop_counter",
)  # fmt: skip
UNIX_MODULES = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix")
UNIX_FUNCTIONS = {
    "os": {
        "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getpgrp", "getsid", "getuid",
        "killpg", "mkfifo", "nice", "sched_getaffinity", "sched_setaffinity", "setpgid", "setsid", "statvfs",
        "sysconf", "uname", "wait", "waitid",
    },
    "signal": {
        "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2", "alarm", "pause", "setitimer",
    },
}  # fmt: skip
"""Functions and signals that Windows lacks; autoseg is to do without them on macOS too."""


class Altered(ModuleType):
    """A module without some of its names and with other values of others."""

    def __init__(self, module: ModuleType, hidden: Collection[str] = (), **values: str) -> None:
        super().__init__(module.__name__)
        self._module, self._hidden = module, hidden
        self.__dict__.update(values)

    @override
    def __getattr__(self, name: str):
        if name in self._hidden:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on this system")
        return getattr(self._module, name)


def hide_unix(platform: str) -> None:
    """Hide what only Unix has from all modules that are imported from now on."""
    optional = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is not None]
    for name in (*OTHER_PACKAGES, *optional):
        importlib.import_module(name)
    for name in UNIX_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    sys.modules["os"] = Altered(os, UNIX_FUNCTIONS["os"])
    sys.modules["signal"] = Altered(signal, UNIX_FUNCTIONS["signal"])
    sys.modules["sys"] = Altered(sys, platform=platform)
    io.open = builtins.open = open_without_proc


def open_without_proc(file, *arguments, _open=builtins.open, **options):
    """The built-in `open` of a system without /proc; other packages still have it."""
    frame = sys._getframe(1)
    while frame.f_globals["__name__"] == "pathlib" and frame.f_back is not None:
        frame = frame.f_back
    if str(file).startswith("/proc/") and frame.f_globals["__name__"].startswith(("autoseg", "planners")):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return _open(file, *arguments, **options)


OF_EXTRAS = {
    "autoseg.server.http": "fastapi",
    "autoseg.networks.zoo.monai_networks": "monai",
    "autoseg.networks.zoo.smp_networks": "segmentation_models_pytorch",
}
"""Packages and modules of autoseg that need an extra, by a package that it installs."""


def import_everything() -> int:
    """Import all modules of autoseg and planners that can be imported here; returns their number."""
    count = 0
    missing = tuple(f"{name}." for name, needed in OF_EXTRAS.items() if importlib.util.find_spec(needed) is None)
    for package in ("autoseg", "planners"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__") and not f"{module.name}.".startswith(missing):
                importlib.import_module(module.name)
                count += 1
    return count


def plan_train_predict(folder: Path) -> None:
    """Plan a phantom dataset with two processes, train one epoch of two steps with one worker, and predict."""
    from autoseg.cli.main import main
    from autoseg.pipeline import PlanningOptions, plan_dataset
    from autoseg.records.budget import Budget, Throughput
    from autoseg.records.workspace import Workspace
    from autoseg.testing import write_phantom_dataset

    multiprocessing.set_start_method("spawn")
    dataset, workspace, output = folder / "phantoms", Workspace(folder / "phantoms.autoseg"), folder / "output"
    write_phantom_dataset(dataset, training=4, held_out=1)
    slow = tuple(Throughput(dimensions=number, base_features=8, macs_per_second=1e9) for number in (2, 3))
    budget = Budget(device="cpu", time_per_fold_seconds=60.0, throughput=slow)
    plan = plan_dataset(dataset, workspace, budget, PlanningOptions(planner="unet", folds=2), workers=2)
    name = next(iter(plan.configurations))
    steps = ["--epochs", "1", "--steps-per-epoch", "2", "--workers", "1", "--device", "cpu"]
    done = main(["train", str(workspace.root), "-c", name, "-f", "0", *steps])
    done |= main(["predict", "-m", str(workspace.root), "-i", str(dataset / "imagesTs"), "-o", str(output)])
    label_maps = len([*output.glob("*.nii.gz")])
    if done or label_maps != 1:
        sys.exit(f"exit code {done}, {label_maps} label maps")


if __name__ in ("__main__", "__mp_main__"):
    hide_unix(sys.argv[1])
if __name__ == "__main__":
    if import_everything() < 200:
        sys.exit("too few modules were found")
    plan_train_predict(Path(sys.argv[2]))
