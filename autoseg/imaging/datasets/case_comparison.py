"""Faults in a case compared with what the dataset declares, and with the other cases; no file is opened.

Tested in tests/imaging/datasets/test_checks.py.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from autoseg.imaging.arrays.labels import value_list
from autoseg.imaging.arrays.soft_masks import middle_value
from autoseg.imaging.datasets.checks import CaseFacts
from autoseg.records.dataset import Fault, LabelEncoding

SPACING_OUTLIER_FACTOR = 3.0
"""Ratio of the spacing of a case along an axis to the median, or the inverse, above which a warning is given."""

STRAY_FRACTION = 0.01
"""Part of all foreground voxels below which a value of a single case may be a slip of the mouse."""


def channel_faults(facts: Sequence[CaseFacts], num_channels: int) -> list[Fault]:
    """Errors about images with another number of channels than expected."""
    return [
        _fault(
            "error", case, case.files.images[0], f"{len(case.hounsfield_channels)} channels, expected {num_channels}"
        )
        for case in facts
        if case.image_hash and len(case.hounsfield_channels) != num_channels
    ]


def label_faults(facts: Sequence[CaseFacts], encoding: LabelEncoding) -> list[Fault]:
    """Errors about undeclared label values, and warnings about label maps without foreground."""
    return [fault for case in facts for fault in _label_faults(case, encoding)]


def stray_values(facts: Sequence[CaseFacts]) -> list[Fault]:
    """Warnings about rare values of a single case, where every value in the files becomes a label."""
    with_values = [case for case in facts if case.label_voxels is not None]
    cases = Counter(value for case in with_values for value in case.label_voxels or {})
    num_foreground = sum(voxels for case in with_values for value, voxels in (case.label_voxels or {}).items() if value)
    return [
        _fault(
            "warning",
            case,
            case.files.label,
            f"the value {value} occurs in {voxels} voxels of this case alone and becomes the label label_{value}; "
            "correct the label map unless it is a structure",
        )
        for case in with_values
        for value, voxels in (case.label_voxels or {}).items()
        if value and cases[value] == 1 < len(with_values) and voxels < STRAY_FRACTION * num_foreground
    ]


def compare_cases(facts: Sequence[CaseFacts], labels: Mapping[str, int | tuple[int, ...]]) -> list[Fault]:
    """Warnings that need all cases: equal images, unusual spacings, labels that occur in no case."""
    return _equal_images(facts) + _unusual_spacings(facts) + _absent_labels(facts, labels)


def _label_faults(case: CaseFacts, encoding: LabelEncoding) -> list[Fault]:
    if case.label_voxels is None:
        return []
    no_foreground = {encoding.values[0], encoding.ignore_value}
    undeclared = sorted(set(case.label_voxels) - set(encoding.values) - no_foreground)
    if undeclared:
        voxels = sum(case.label_voxels[value] for value in undeclared)
        what = (
            f"undeclared label values: {value_list(undeclared)} in {voxels} voxels; "
            f"declared are {value_list(sorted(encoding.values))}"
        )
        if len(encoding.values) == 2 and min(case.label_voxels) >= 0:
            threshold = middle_value(max(case.label_voxels))
            what += f"; for masks of this one structure, --label-threshold {threshold} reads the values from there on"
        return [_fault("error", case, case.files.label, what)]
    if not set(case.label_voxels) - no_foreground:
        return [_fault("warning", case, case.files.label, "the label map has no foreground")]
    return []


def _equal_images(facts: Sequence[CaseFacts]) -> list[Fault]:
    first_case: dict[str, CaseFacts] = {}
    faults = []
    for case in facts:
        other = first_case.setdefault(case.image_hash, case) if case.image_hash else case
        if other is not case:
            what = f"the image is the same as that of case {other.files.case}; keep both in one fold, or drop one"
            faults.append(_fault("warning", case, case.files.images[0], what))
    return faults


def _unusual_spacings(facts: Sequence[CaseFacts]) -> list[Fault]:
    with_spacing = [(case, np.array(case.spacing)) for case in facts if case.spacing is not None]
    if not with_spacing:
        return []
    median = np.median([spacing for _, spacing in with_spacing], axis=0)
    return [
        _fault(
            "warning",
            case,
            case.files.images[0],
            f"unusual spacing: {value_list(spacing.tolist())} mm (z, y, x), the median is "
            f"{value_list(median.tolist())}; is the header right?",
        )
        for case, spacing in with_spacing
        if max((spacing / median).max(), (median / spacing).max()) > SPACING_OUTLIER_FACTOR
    ]


def _absent_labels(facts: Sequence[CaseFacts], labels: Mapping[str, int | tuple[int, ...]]) -> list[Fault]:
    found = Counter(value for case in facts for value in case.label_voxels or {})
    if not found:
        return []  # no label map could be read
    return [
        Fault(severity="warning", case="", file="", what=f"the label '{name}' ({entry}) occurs in no case")
        for name, entry in labels.items()
        if name != "ignore" and not any(found[value] for value in (entry if isinstance(entry, tuple) else (entry,)))
    ]


def _fault(severity: str, case: CaseFacts, file: str, what: str) -> Fault:
    return Fault(severity="error" if severity == "error" else "warning", case=case.files.case, file=file, what=what)
