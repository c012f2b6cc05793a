"""Planners of packages that are really installed, in a folder of their own."""

import sys
from pathlib import Path

import pytest

from autoseg.errors import PlanningError, UsageError
from autoseg.plugins import find_planner, planner_names
from autoseg.records.budget import Budget
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
    assert planner_names() == ("mine", "unet")
    assert find_planner("mine")(FINGERPRINT, Budget()).planner == "mine"


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
