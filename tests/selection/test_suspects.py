"""Suspects from label maps on disk, and their files."""

import csv

import numpy as np
import pytest

from autoseg.metrics.overlap import score_case
from autoseg.records.dataset import CaseFiles, LabelValues
from autoseg.records.files import read_record
from autoseg.records.suspects import Suspects
from autoseg.records.workspace import Workspace
from autoseg.selection.case_maps import CaseMapFiles
from autoseg.selection.suspects import find_suspects, write_suspects
from tests.builders import make_plan, write_nifti

LABELS: dict[str, LabelValues] = {"background": 0, "=liver": 10, "lesion": 20}
SPACING = (2.0, 0.9, 0.7)
NUM_CASES = 8


def make_map(case):
    labels = np.zeros((7, 20, 24), dtype=np.uint8)
    labels[2:6, 4:13, 5 + case % 3 : 15] = 10
    labels[3:5, 6:10, 16:21] = 20
    return labels


@pytest.fixture
def plan():
    return make_plan(labels=LABELS)


@pytest.fixture
def maps(tmp_path):
    """Label maps and scores; the reference of case 3 is moved, case 5 lacks its lesion, case 6 is a little off."""
    files, scores = [], []
    for number in range(NUM_CASES):
        reference, prediction = make_map(number), make_map(number)
        prediction[2, 4, 5:12] = 0
        if number == 3:
            reference = np.roll(reference, (1, 4, 3), axis=(0, 1, 2))
        if number == 5:
            reference[reference == 20] = 0
        if number == 6:
            prediction[2:4, 4, 5:12] = 0
        case = f"c{number}"
        write_nifti(reference, tmp_path / "data" / f"{case}.nii.gz", SPACING)
        write_nifti(prediction, tmp_path / "maps" / f"{case}.nii.gz", SPACING)
        own = CaseFiles(case=case, images=(), label=f"{case}.nii.gz")
        files.append(CaseMapFiles(tmp_path / "maps" / f"{case}.nii.gz", tmp_path / "data", own))
        scores.append(score_case(case, prediction, reference, LABELS))
    return files, scores


def test_damaged_references_are_listed_with_their_reasons(plan, maps):
    files, scores = maps
    found = find_suspects(plan, files, scores, {})
    assert found.num_cases == NUM_CASES
    by_case = {suspect.case: suspect for suspect in found.suspects}
    assert {case: suspect.kind for case, suspect in by_case.items()} == {"c3": "shifted", "c5": "missing"}
    assert "shifted by (1, 4, 3) voxels (z, y, x)" in by_case["c3"].reason
    assert by_case["c5"].reason == (
        "lesion is missing in the reference: 40 voxels around (3, 7, 18) (z, y, x) are predicted"
    )
    assert (by_case["c5"].label, by_case["c5"].dice) == ("lesion", 0.0)
    assert by_case["c5"].score == pytest.approx(2 * by_case["c5"].deviation)
    assert [suspect.score for suspect in found.suspects] == sorted((own.score for own in found.suspects), reverse=True)


def test_a_structure_that_the_networks_are_unsure_of_is_less_suspicious(plan, maps):
    files, scores = maps
    sure = {f"c{number}": {"=liver": 0.95, "lesion": 0.95} for number in range(NUM_CASES)}
    unsure = sure | {"c5": {"=liver": 0.95, "lesion": 0.3}}
    by_confidence = [find_suspects(plan, files, scores, promised).suspects for promised in (sure, unsure)]
    first, second = ({own.case: own.score for own in suspects}["c5"] for suspects in by_confidence)
    assert second < first


def test_intact_references_have_no_suspects(plan, maps):
    files, scores = maps
    kept = [number for number in range(NUM_CASES) if number not in (3, 5)]
    found = find_suspects(plan, [files[number] for number in kept], [scores[number] for number in kept], {})
    assert found == Suspects(num_cases=len(kept), suspects=())


def test_the_files_say_the_same(plan, maps, tmp_path):
    workspace = Workspace(tmp_path / "w")
    found = find_suspects(plan, maps[0], maps[1], {})
    write_suspects(found, workspace)
    assert read_record(Suspects, workspace.suspects) == found
    with workspace.suspects_table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert [row["case"] for row in rows] == [suspect.case for suspect in found.suspects]
    assert [row["kind"] for row in rows] == [suspect.kind for suspect in found.suspects]
    labels = {row["case"]: row["label"] for row in rows}
    assert labels["c3"] in ("'=liver", "lesion")
