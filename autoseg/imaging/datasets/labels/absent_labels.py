"""Labels that networks cannot learn, because no case that they are trained with has them any more.

Small structures vanish when images are resampled to a coarser spacing, and structures outside the nonzero part of an
image when it is cropped; a label that few cases have may be missing from the training cases of a fold.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from autoseg.imaging.arrays.labels import foreground_heads
from autoseg.imaging.arrays.storage import open_case
from autoseg.imaging.formats.volume import length_unit
from autoseg.records.dataset import LabelEncoding
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan, Splits
from autoseg.records.workspace import Workspace

MAX_NAMED_CASES = 5
"""Cases that a sentence names before it says how many there are."""


def labels_lost_in_preprocessing(workspace: Workspace, plan: Plan, fingerprint: Fingerprint) -> Iterator[str]:
    """Find labels that cases have in their files, and not in their preprocessed arrays.

    Args:
        workspace: Workspace with the arrays of every configuration.
        plan: Plan of the workspace.
        fingerprint: Labels of the files.

    Yields:
        One sentence for each configuration and label.

    Raises:
        RecordError: If a preprocessed case is missing.
        DatasetError: If one is damaged.
    """
    with_label = {label: cases for label in _labels(plan.encoding) if (cases := _cases_with(label, fingerprint))}
    for name, configuration in plan.configurations.items():
        if configuration.preprocessed_as != name:
            continue
        folder = workspace.preprocessed(name)
        stored = {case.case: stored_labels(folder, case.case, plan.encoding) for case in fingerprint.cases}
        spacing = f"{' x '.join(f'{size:g}' for size in configuration.spacing)} {length_unit(plan.file_ending)}"
        done = f"resampled to {spacing} and cropped to the nonzero part of the image ({name})"
        for label, cases in with_label.items():
            lost = [case for case in cases if label not in stored[case]]
            if len(lost) == len(cases):
                yield (
                    f"the label '{label}' is in {len(cases)} case(s), and in none once they are {done}, so networks of "
                    f"{name} cannot learn it: {_few(lost)}. Plan with a smaller --spacing."
                )
            elif lost:
                yield f"the label '{label}' is lost in {len(lost)} of {len(cases)} cases when {done}: {_few(lost)}"


def labels_without_training_case(fingerprint: Fingerprint, splits: Splits) -> Iterator[str]:
    """Find labels that the dataset has, but no training case of a fold; one sentence for each fold and label."""
    for fold, split in enumerate(splits.folds):
        for label in _labels(fingerprint.encoding):
            cases = _cases_with(label, fingerprint)
            if cases and set(cases).isdisjoint(split.training):
                yield (
                    f"no training case of fold {fold} has the label '{label}', so its networks cannot learn it; it is "
                    f"in {_few(cases)} only"
                )


def stored_labels(folder: Path, case: str, encoding: LabelEncoding) -> frozenset[str]:
    """Names of the labels and regions that a preprocessed case has; reads no voxels.

    Args:
        folder: Folder of the configuration's arrays.
        case: Case id.
        encoding: Encoding of the plan; a label that is divided into core and border is there if one of them is.

    Raises:
        RecordError: If the case has no record, or a damaged one.
        DatasetError: If its array is missing or damaged.
    """
    locations = open_case(folder, case).locations
    return frozenset(head.part_of or head.name for index, head in foreground_heads(encoding) if len(locations[index]))


def missing_labels(folder: Path, cases: Sequence[str], encoding: LabelEncoding) -> list[str]:
    """Labels and regions that none of these preprocessed cases has, in the order of the encoding.

    Args:
        folder: Folder of the configuration's arrays.
        cases: Case ids.
        encoding: Encoding of the plan.

    Raises:
        RecordError: If a case has no record, or a damaged one.
        DatasetError: If an array is missing or damaged.
    """
    missing = _labels(encoding)
    for case in cases:
        if not missing:
            break
        present = stored_labels(folder, case, encoding)
        missing = [label for label in missing if label not in present]
    return missing


def _labels(encoding: LabelEncoding) -> list[str]:
    return list(dict.fromkeys(head.part_of or head.name for _, head in foreground_heads(encoding)))


def _cases_with(label: str, fingerprint: Fingerprint) -> list[str]:
    return [case.case for case in fingerprint.cases if label in case.labels and case.labels[label].voxels]


def _few(cases: Sequence[str]) -> str:
    named = ", ".join(cases[:MAX_NAMED_CASES])
    return named if len(cases) <= MAX_NAMED_CASES else f"{named}, ... ({len(cases)} cases)"
