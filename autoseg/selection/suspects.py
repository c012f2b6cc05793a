"""Validation cases whose references may be wrong: networks that did not see them are sure, and the reference differs.

Dice after the recipe, overlaps that the probabilities promise --> cases far below the others
their label maps, one case at a time --> what is wrong in words, and how far undoing it helps --> suspects.json, .csv
"""

import csv
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from autoseg.imaging.arrays.labels import encode_label_map
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.inference.files.label_maps import read_prediction
from autoseg.metrics.label_faults import LabelFault, MapPair, explain_fault
from autoseg.metrics.label_noise import Deviation, measure_deviations
from autoseg.progress import ProgressBar, no_bar, no_progress
from autoseg.records.evaluation import CaseScores
from autoseg.records.files import replacing, write_record
from autoseg.records.plan import Plan
from autoseg.records.suspects import Suspect, Suspects
from autoseg.records.workspace import Workspace
from autoseg.selection.case_maps import CaseMapFiles
from autoseg.text import format_cell

MIN_DEVIATION = 1.0
"""Robust standard deviations below which the label maps of a case are not looked at."""
MAX_EXPLAINED = 50
"""Largest number of cases whose label maps are looked at."""
MIN_SCORE = 2.5
"""Score from which on a case is a suspect."""


def find_suspects(
    plan: Plan,
    maps: Sequence[CaseMapFiles],
    scores: Sequence[CaseScores],
    promised: Mapping[str, Mapping[str, float]],
    bar: ProgressBar = no_bar,
) -> Suspects:
    """Rank validation cases by how much speaks for a fault of their references.

    Args:
        plan: The plan with the labels.
        maps: Label maps of the cases, predicted by networks that did not see them.
        scores: Scores of these cases after the whole recipe.
        promised: Overlaps that the probabilities promise, by case and label; empty: not known.
        bar: Progress of the cases whose label maps are compared.

    Returns:
        Suspects, the most suspicious one first. One case is in memory at a time.

    Raises:
        ImageFileError: If a label map cannot be read.
    """
    worst: dict[str, Deviation] = {}
    for found in measure_deviations(scores, promised):
        if found.case not in worst or found.deviation > worst[found.case].deviation:
            worst[found.case] = found
    ranked = sorted(worst.values(), key=lambda found: (-found.deviation, found.case))
    wanted = [found for found in ranked[:MAX_EXPLAINED] if found.deviation >= MIN_DEVIATION]
    files = {item.case: item for item in maps}
    known = {item.case: [name for name, own in item.labels.items() if own.dice is not None] for item in scores}
    suspects = []
    with bar("suspects") if wanted else nullcontext(no_progress) as progress:
        for number, found in enumerate(wanted, start=1):
            suspects.append(_judge(found, _read_pair(plan, files[found.case], known[found.case])))
            progress(number, len(wanted))
    listed = sorted((own for own in suspects if own.score >= MIN_SCORE), key=lambda own: (-own.score, own.case))
    return Suspects(num_cases=len(worst), suspects=tuple(listed))


def write_suspects(suspects: Suspects, workspace: Workspace) -> None:
    """Write suspects.json, and suspects.csv with a row per case; see `text.format_cell`."""
    fields = list(Suspect.model_fields)
    with replacing(workspace.suspects_table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("rank", *fields))
        for rank, suspect in enumerate(suspects.suspects, start=1):
            cells = (getattr(suspect, field) for field in fields)
            writer.writerow((rank, *(format_cell(cell) if isinstance(cell, str) else f"{cell:.4g}" for cell in cells)))
    write_record(suspects, workspace.suspects)


def _read_pair(plan: Plan, files: CaseMapFiles, names: Sequence[str]) -> MapPair:
    reference = read_reference(files.folder, files.files, plan.encoding)
    prediction = read_prediction(files.case, files.prediction, reference)
    labels, predicted = (encode_label_map(volume.array[0], plan.encoding) for volume in (reference, prediction))
    return MapPair(labels, predicted, plan.encoding, names, reference.grid.spacing)


def _judge(found: Deviation, pair: MapPair) -> Suspect:
    differs = (
        f"the prediction is confident and differs: {found.label} has Dice {found.dice:.2f}, "
        f"{found.expected_dice:.2f} is expected"
    )
    fault = explain_fault(pair) or LabelFault("unexplained", differs, 0.0)
    return Suspect(
        case=found.case,
        score=found.deviation * (1 + min(fault.gain, 1.0)),
        deviation=found.deviation,
        label=found.label,
        dice=found.dice,
        expected_dice=found.expected_dice,
        kind=fault.kind,
        reason=fault.words,
    )
