"""Labels of a dataset whose label maps consist of parts: which parts are used, and with which values.

Tested in tests/imaging/datasets/labels/test_label_parts.py.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.errors import DatasetError, ImageFileError
from autoseg.imaging.datasets.checks import CaseFacts
from autoseg.imaging.datasets.labels.label_parts import name_values
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.imaging.formats.segmentations import is_dicom_file, is_segmentation, read_segments
from autoseg.records.dataset import BACKGROUND, IGNORE, CaseFiles, Fault, LabelPart

_LISTED = 8
"""Number of labels that a sentence names; it counts the others."""


def has_parts(found: FoundDataset) -> bool:
    """Whether the label maps of a dataset consist of parts."""
    return any(files.parts is not None for files in found.cases)


def segment_parts(file: str, path: Path) -> tuple[LabelPart, ...]:
    """The segments of a segmentation as parts.

    Args:
        file: Path as the parts name it.
        path: The same file.

    Raises:
        ImageFileError: If the header cannot be read or is wrong.
    """
    return tuple(
        LabelPart(label=segment.name, file=file, layer=segment.layer, value=segment.value)
        for segment in read_segments(path)
    )


def split_segmentations(found: FoundDataset) -> FoundDataset:
    """The dataset with the segments of 3D Slicer's segmentations as parts, which are matched by name.

    Values and order of segments may differ from case to case. Where labels are declared that no segment is called, the
    values in the files count.
    """
    parts: dict[str, tuple[LabelPart, ...]] = {}
    faults: list[Fault] = []
    for files in found.cases:
        if not is_segmentation(files.label) or files.parts is not None or not (found.folder / files.label).is_file():
            continue
        try:
            of_case = segment_parts(files.label, found.folder / files.label)
        except ImageFileError as error:
            what = str(error).removeprefix(f"{found.folder / files.label}: ")
            faults.append(Fault(severity="error", case=files.case, file=files.label, what=what))
            continue
        if of_case:
            parts[files.case] = of_case
    names = list(dict.fromkeys(part.label for of_case in parts.values() for part in of_case))
    are_values_named = found.value_names is not None or (
        found.labels is not None and not set(found.labels) & set(names)
    )
    if not parts or are_values_named:
        return found
    faults += [
        Fault(
            severity="error", case=files.case, file=files.label,
            what="has no names of segments, which other cases have; name them in 3D Slicer",
        )
        for files in found.cases
        if files.case not in parts and files.parts is None and files.label
    ]  # fmt: skip
    cases = tuple(
        files.model_copy(update={"parts": parts[files.case]}) if files.case in parts else files for files in found.cases
    )
    is_dicom = all(is_dicom_file(part.file) for of_case in parts.values() for part in of_case)
    kind = "DICOM" if is_dicom else "3D Slicer's"
    note = f"recognised {kind} segmentations; segments are matched by name: {_few(names)}"
    return replace(found, cases=cases, faults=(*found.faults, *faults), notes=(*found.notes, note))


def select_parts(found: FoundDataset) -> FoundDataset:
    """The dataset with those parts only that its declared labels name; all of them where none are declared.

    Raises:
        DatasetError: If a declared label has no part in any case, or is a region.
    """
    if found.labels is None:
        return found
    regions = [name for name, values in found.labels.items() if not isinstance(values, int)]
    if regions:
        raise DatasetError(
            f"{found.folder}: the region '{regions[0]}' cannot be declared, because the labels are in masks of their "
            "own. Declare the labels alone; masks that overlap are trained as outputs of their own"
        )
    known = list(dict.fromkeys(part.label for files in found.cases for part in files.parts or ()))
    names = [name for name in found.labels if name != BACKGROUND]
    missing = [name for name in names if name not in known and name != IGNORE]
    if missing:
        raise DatasetError(f"{found.folder}: there is no mask of {_few(missing)}; there are masks of {_few(known)}")
    left_out = [name for name in known if name not in names]
    notes = [f"not used, because the labels given leave them out: {_few(left_out)}"] if left_out else []
    cases = tuple(_with_labels(files, names) for files in found.cases)
    return replace(found, cases=cases, notes=(*found.notes, *notes))


def name_parts(found: FoundDataset, facts: Sequence[CaseFacts]) -> tuple[FoundDataset, list[CaseFacts]]:
    """Give values to the labels of parts, and to labels that share voxels.

    Args:
        found: Dataset with parts; its labels are those declared, or None.
        facts: The cases that count.

    Returns:
        The dataset with labels; and the facts with the voxels of each value.
    """
    names = list(dict.fromkeys(part.label for files in found.cases for part in files.parts or ()))
    declared = {name: value for name, value in (found.labels or {}).items() if isinstance(value, int)}
    declared.pop(BACKGROUND, None)
    own_values = declared or _segment_values(found.cases)
    named = name_values(
        [name for name in declared or names if name in names],
        [case.combinations for case in facts if case.combinations is not None],
        own_values,
    )
    ignored = named.values.get(frozenset({IGNORE}))
    counted = [
        replace(case, label_voxels={named.values[names]: voxels for names, voxels in case.combinations.items()})
        if case.combinations is not None
        else case
        for case in facts
    ]
    labels = {name: value for name, value in named.labels.items() if name != IGNORE}
    if ignored is not None:
        labels[IGNORE] = ignored
    named_found = replace(
        found,
        labels=labels,
        regions_class_order=named.regions_class_order,
        overlapping=named.regions_class_order is not None,
        notes=(*found.notes, *_missing_parts(found.cases, names), *named.notes),
    )
    return named_found, counted


def _segment_values(cases: Sequence[CaseFiles]) -> Mapping[str, int]:
    """Values of the labels in the files, where they are the same in all cases and each belongs to one label."""
    pairs = {(part.label, part.value) for files in cases for part in files.parts or ()}
    values = {label: value for label, value in pairs if value is not None}
    is_unique = len(values) == len(pairs) == len(set(values.values())) and all(values.values())
    return values if is_unique else {}


def _missing_parts(cases: Sequence[CaseFiles], names: Sequence[str]) -> list[str]:
    """One sentence about labels that some cases have no part of."""
    count = Counter(label for files in cases for label in {part.label for part in files.parts or ()})
    missing = [f"{name} in {len(cases) - count[name]}" for name in names if count[name] < len(cases)]
    if not missing:
        return []
    return [f"masks that are missing count as empty: {_few(missing)} of {len(cases)} cases"]


def _with_labels(files: CaseFiles, names: Sequence[str]) -> CaseFiles:
    if files.parts is None:
        return files
    return files.model_copy(update={"parts": tuple(part for part in files.parts if part.label in names)})


def _few(names: Sequence[str]) -> str:
    few = ", ".join(names[:_LISTED])
    return few if len(names) <= _LISTED else f"{few} and {len(names) - _LISTED} more"
