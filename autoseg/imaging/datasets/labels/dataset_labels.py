"""Labels of a dataset: those it declares, those that a table names, or one for each value in the files.

Tested in tests/stages/test_describe.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.labels import value_list
from autoseg.imaging.datasets.checks import CaseFacts
from autoseg.imaging.datasets.findings import Findings
from autoseg.records.dataset import BACKGROUND, Fault, LabelValues

MAX_FOUND_LABELS = 256
"""With more different values than this, the files are assumed to be images in the wrong folder."""


def choose_labels(findings: Findings) -> tuple[dict[str, LabelValues], list[str]]:
    """Declared labels with the background first, else one label for each value in the files; and notes.

    Raises:
        DatasetError: If labels that are not declared cannot be found in the files, or two have one name.
    """
    found, facts = findings.found, findings.counted
    if found.labels is not None:
        return {BACKGROUND: 0, **found.labels}, []
    if found.value_names is not None:
        return _named_values(found.value_names, facts), []
    values = sorted({0, *(value for case in facts for value in case.label_voxels or ())})
    if len(values) > MAX_FOUND_LABELS:
        raise DatasetError(
            f"{found.folder}: the label files have {len(values)} different values ({value_list(values)}), expected one "
            "whole number per structure. Check that they are label maps."
        )
    if len(values) == 1:
        is_read = any(case.label_voxels is not None for case in facts)
        ending = "No label map has any foreground: they hold 0 only." if is_read else "Every case has errors."
        raise findings.refusal(f"{ending}{findings.remedy}")
    labels: dict[str, LabelValues] = {BACKGROUND: 0, **{f"label_{value}": value for value in values if value}}
    return labels, [
        f"no labels are declared; found in the label files: {value_list(values)} (0 is background); name "
        "them with --label-names"
    ]


def _named_values(names: Mapping[int, str], facts: Sequence[CaseFacts]) -> dict[str, LabelValues]:
    """The labels of a table that occur; other values are undeclared.

    Raises:
        DatasetError: If two values that occur have one name.
    """
    occurring = {value for case in facts for value in case.label_voxels or {}} & names.keys() - {0}
    labels: dict[str, LabelValues] = {BACKGROUND: 0}
    for value in sorted(occurring):
        if names[value] in labels:
            raise DatasetError(
                f"the values {labels[names[value]]} and {value} are both called {names[value]!r}; give each a name of "
                "its own"
            )
        labels[names[value]] = value
    return labels


def refuse_intensities(case: CaseFacts) -> CaseFacts:
    """Drop the label map of a case when it looks like an image, and record the fault."""
    values = sorted(case.label_voxels or ())
    if len(values) <= MAX_FOUND_LABELS:
        return case
    what = (
        f"{len(values)} different values ({value_list(values)}), expected one per structure; is it a label map? "
        "Numbers of objects are read with --label-ids"
    )
    fault = Fault(severity="error", case=case.files.case, file=case.files.label, what=what)
    return replace(case, faults=(*case.faults, fault), label_voxels=None)
