"""Provenance: what made a result, written beside it.

    <workspace>/provenance/plan.json, select.json, ...      of the files at the top of a workspace
    models/<configuration>/fold_<k>/provenance.json         of a training, by its last command

It has a file of its own, so that equal results stay equal byte by byte.
"""

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from autoseg import DISTRIBUTION
from autoseg.records.files import read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan, hash_of, hash_plan
from autoseg.records.provenance import Provenance
from autoseg.records.workspace import Workspace
from autoseg.text import format_this_command

PROVENANCE_NAME = "provenance.json"
"""Name of the file beside the results of a fold, and beside label maps."""


def write_provenance(path: Path, workspace: Workspace, *, device: str = "", seed: int | None = None) -> None:
    """Write the provenance of a result that was made from a workspace, atomically.

    Args:
        path: File to write.
        workspace: Its plan and fingerprint are named by their hashes.
        device: Device of the networks; empty: none was used.
        seed: Seed of the training.

    Raises:
        RecordError: If plan.json or fingerprint.json is damaged.
    """
    write_record(describe_provenance(workspace, device=device, seed=seed), path)


def describe_provenance(workspace: Workspace | None, *, device: str = "", seed: int | None = None) -> Provenance:
    """Describe what this process makes from a workspace or model, if any; else as `write_provenance`."""
    plan, fingerprint = None, None
    if workspace is not None and workspace.plan.exists():
        plan = read_record(Plan, workspace.plan)
    if workspace is not None and workspace.fingerprint.exists():
        fingerprint = read_record(Fingerprint, workspace.fingerprint)
    return Provenance(
        command=format_this_command(),
        autoseg_version=version(DISTRIBUTION),
        python=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        libraries=_library_versions(),
        device=device,
        seed=seed,
        plan_hash="" if plan is None else hash_plan(plan),
        data_hash="" if fingerprint is None else _hash_data(fingerprint),
    )


def _hash_data(fingerprint: Fingerprint) -> str:
    """Hash of the files of all cases; empty if it is not known of a case."""
    hashes = {case.case: case.content_hash for case in fingerprint.cases}
    return hash_of(hashes) if all(hashes.values()) else ""


def _library_versions() -> dict[str, str]:
    """Installed versions of the packages that the distribution requires, extras included, by name."""
    found = {}
    for requirement in requires(DISTRIBUTION) or ():
        match = re.match(r"[\w.-]+", requirement)
        if match is None or 'extra == "test"' in requirement:
            continue
        try:
            found[match[0]] = version(match[0])
        except PackageNotFoundError:  # of an extra
            continue
    return dict(sorted(found.items()))
