"""Planners of other packages: metadata as an installer leaves it, and one package that is really installed."""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any, get_args

import pytest

from autoseg.errors import PlanningError, UsageError
from autoseg.plugins import find_architectures, find_planner, planner_names
from autoseg.records.budget import Budget
from autoseg.records.network import Architecture
from autoseg.testing import synthetic_fingerprint

FINGERPRINT = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 3, [(36, 50, 35)] * 3)


def install(folder: Path, package: str, entries: str, source: str = "") -> None:
    """What an installer leaves behind: metadata, and a module."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[autoseg.planners]\n{entries}\n")
    (folder / f"{package}.py").write_text(source)


def test_own_planner_is_found_like_any_other():
    assert "unet" in planner_names()
    assert find_planner("unet")(FINGERPRINT, Budget()).planner == "unet"


def test_planner_of_another_package(tmp_path, monkeypatch):
    source = (
        "import planners.unet\n"
        "def plan(f, b):\n"
        "    return planners.unet.plan(f, b).model_copy(update={'planner': 'mine'})\n"
    )
    install(tmp_path, "autoseg_mine", "mine = autoseg_mine:plan", source)
    monkeypatch.syspath_prepend(tmp_path)
    assert "mine" in planner_names()
    assert find_planner("mine")(FINGERPRINT, Budget()).planner == "mine"


def test_planners_say_which_networks_they_may_build():
    auto = find_planner("auto")
    assert find_architectures(auto, Budget(time_per_fold_seconds=9.0)) == ("unet",)
    assert find_architectures(auto, Budget(latency_seconds=9.0)) == ("unet", "residual_unet", "unext")
    assert find_architectures(auto, Budget(device="cpu", latency_seconds=9.0)) == ("unet", "unext")
    assert find_architectures(find_planner("resenc-l"), Budget()) == ("residual_unet",)
    assert find_architectures(find_planner("unext"), Budget()) == ("unext",)


def test_a_planner_that_does_not_say_may_build_all(tmp_path, monkeypatch):
    install(tmp_path, "autoseg_silent", "silent = autoseg_silent:plan", "def plan(f, b):\n    return None\n")
    source = "def plan(f, b):\n    return None\ndef architectures(budget):\n    return ['unext', 'unet']\n"
    install(tmp_path, "autoseg_talking", "talking = autoseg_talking:plan", source)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_architectures(find_planner("silent"), Budget()) == get_args(Architecture)
    assert find_architectures(find_planner("talking"), Budget()) == ("unet", "unext")


def test_unknown_planner_lists_what_is_installed():
    with pytest.raises(UsageError, match=r"No planner is called 'unett'; installed: .*unet"):
        find_planner("unett")


def test_two_packages_with_one_name_are_both_named(tmp_path, monkeypatch):
    install(tmp_path, "autoseg_one", "twin = autoseg_one:plan")
    install(tmp_path, "autoseg_two", "twin = autoseg_two:plan")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="'twin' is in several packages: autoseg_one, autoseg_two"):
        find_planner("twin")


def test_one_package_found_twice_is_one_package(tmp_path, monkeypatch):
    for folder in (tmp_path / "a", tmp_path / "b"):
        install(folder, "autoseg_double", "double = autoseg_double:plan", "def plan(f, b):\n    return None\n")
        monkeypatch.syspath_prepend(folder)
    assert callable(find_planner("double"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("gone = module_that_is_missing:plan", "'gone' of package 'autoseg_bad' cannot be loaded from module_that_is"),
        ("gone = autoseg_bad:other", "'gone' of package 'autoseg_bad' cannot be loaded.*other"),
        ("gone = autoseg_bad:number", "autoseg_bad:number is not a function"),
    ],
)
def test_broken_packages_are_named(tmp_path, monkeypatch, entry, message):
    install(tmp_path, "autoseg_bad", entry, "number = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "autoseg_bad", raising=False)
    with pytest.raises(PlanningError, match=message):
        find_planner("gone")


PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "steady-planner"
version = "0.1"

[project.entry-points."autoseg.planners"]
steady = "steady_planner.planner:plan"
""",
    "steady_planner/__init__.py": "",
    "steady_planner/planner.py": """
import planners.unet


def plan(fingerprint, budget):
    \"\"\"nnU-Net's default plans, with decay three times as strong.\"\"\"
    made = planners.unet.plan(fingerprint, budget)
    configurations = {}
    for name, configuration in made.configurations.items():
        training = configuration.training.model_copy(update={"weight_decay": 3 * configuration.training.weight_decay})
        configurations[name] = configuration.model_copy(update={"training": training})
    return made.model_copy(update={"planner": "steady", "configurations": configurations})
""",
}

USE = """
import json

from autoseg.plugins import find_planner, planner_names
from autoseg.records.budget import Budget
from autoseg.stages.plan import make_plan
from autoseg.testing import planner_violations, synthetic_fingerprint

names = planner_names()
found = {"names": names}
if "steady" in names:
    fingerprint = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 3, [(36, 50, 35)] * 3)
    plan = make_plan(fingerprint, Budget(), "steady")
    found["planner"] = plan.planner
    found["weight_decay"] = plan.configurations["3d_fullres"].training.weight_decay
    found["violations"] = planner_violations(find_planner("steady"))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_second_package_is_installed_used_and_uninstalled(tmp_path):
    package = tmp_path / "package"
    for name, text in PACKAGE.items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip())
    python = make_environment(tmp_path / "environment")
    assert "steady" not in use(python)["names"]

    pip(python, "install", "--no-index", "--no-deps", "--no-build-isolation", str(package))
    found = use(python)
    assert {"steady", "unet", "auto"} <= set(found["names"])
    assert found["planner"] == "steady"
    assert found["weight_decay"] == pytest.approx(9e-5)
    assert found["violations"] == []

    pip(python, "uninstall", "--yes", "steady-planner")
    assert "steady" not in use(python)["names"]
    assert "steady" not in planner_names()


def make_environment(folder: Path) -> Path:
    """A fresh environment that sees the packages of this one, autoseg included; gives its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = sysconfig.get_path("purelib")
    site_packages = folder / "lib" / version / "site-packages"
    # A line of a .pth file that begins with `import` is run; addsitedir also reads the .pth files of editable installs.
    (site_packages / "ours.pth").write_text(f"import site; site.addsitedir({packages!r})\n")
    return folder / "bin" / "python"


def pip(python: Path, *arguments: str) -> None:
    """Run this environment's pip on another one."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def use(python: Path) -> dict[str, Any]:
    """What a user of an environment finds there."""
    done = subprocess.run([str(python), "-c", USE], capture_output=True, text=True, check=False, cwd=python.parent)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
