"""Repair: damaged cases are stored again as they were, others are not touched, and nothing is written beside others."""

import os

import pytest

from autoseg.errors import LockedError, UsageError
from autoseg.locks import lock
from autoseg.records.temporaries import name_temporary
from autoseg.stages.repair import find_damage, remove_leftovers, store_damaged_again
from tests.training.small_folds import NAME


def arrays(workspace):
    return {path: path.read_bytes() for path in workspace.root.glob("preprocessed/*/*")}


def damage_two(workspace):
    """A flipped bit in one array, and another one cut; returns both."""
    first, second = sorted(workspace.preprocessed(NAME).glob("*.b2nd"))[:2]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-9])
    return first, second


def test_damaged_cases_are_stored_again_and_no_others(workspace):
    before = arrays(workspace)
    assert find_damage(workspace) == {}
    damaged = damage_two(workspace)
    times = {path: path.stat().st_mtime_ns for path in before}
    found = find_damage(workspace, workers=2)
    assert {name: set(cases) for name, cases in found.items()} == {NAME: {path.stem for path in damaged}}
    store_damaged_again(workspace, found)
    assert arrays(workspace) == before
    changed = {path for path in before if path.stat().st_mtime_ns != times[path]}
    assert changed == {file for path in damaged for file in (path, path.with_suffix(".json"))}
    assert find_damage(workspace) == {}


def test_nothing_is_stored_while_a_fold_trains(workspace):
    damage_two(workspace)
    found, before = find_damage(workspace), arrays(workspace)
    with (
        lock(workspace.training_lock(NAME, "0"), "trained"),
        pytest.raises(LockedError, match="while they may be read"),
    ):
        store_damaged_again(workspace, found)
    assert arrays(workspace) == before


def test_cases_whose_files_were_changed_are_left_to_planning(workspace, tmp_path):
    first, _ = damage_two(workspace)
    link = workspace.root.parent / "phantoms"
    source = link.resolve()
    link.unlink()
    link.mkdir()
    for path in source.rglob("*.*"):
        (link / path.relative_to(source)).parent.mkdir(exist_ok=True)
        (link / path.relative_to(source)).write_bytes(path.read_bytes())
    label = link / "labelsTr" / f"{first.stem}.nii.gz"
    label.write_bytes(label.read_bytes() + b"\0")
    with pytest.raises(UsageError, match="changed after the dataset was planned"):
        store_damaged_again(workspace, find_damage(workspace))


def test_only_locks_and_temporary_files_of_processes_that_are_gone_are_removed(workspace):
    mine = name_temporary(workspace.plan)
    gone = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-"))
    mine.touch()
    gone.touch()
    stale = workspace.training_lock(NAME, "1")
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    os.utime(stale, (1e9, 1e9))
    with lock(workspace.training_lock(NAME, "0"), "trained"):
        assert remove_leftovers(workspace) == [str(stale)]
        assert workspace.training_lock(NAME, "0").exists()
    assert not stale.exists()
    assert (mine.exists(), gone.exists()) == (True, False)
