"""Which names the labels of a dataset have: its own, those that the user gives, or those of a file beside it.

Tested in tests/imaging/datasets/labels/test_label_tables.py.
"""

from collections.abc import Mapping
from dataclasses import replace

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.labels.annotated_labels import name_annotated
from autoseg.imaging.datasets.labels.label_tables import LabelNames, find_label_names, given_labels
from autoseg.imaging.datasets.labels.part_names import has_parts, select_parts, split_segmentations
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.records.dataset import BACKGROUND, IGNORE, LabelValues
from autoseg.records.files import real_path, relative_path


def name_labels(found: FoundDataset, given: Mapping[str, LabelValues] | LabelNames | None) -> FoundDataset:
    """The dataset with the names of its labels, as far as they are known before files are opened.

    Args:
        found: Dataset, with the labels that its dataset.json declares.
        given: Labels of the user; None: those declared, else those of a file beside the dataset, else none.

    Raises:
        DatasetError: If labels are given and declared, the names fit no mask, a file beside it is ambiguous, or
            `annotated` of a case names no label.
    """
    if given is None:
        named = split_segmentations(found)
        if named.labels is None and named.value_names is None:
            beside = find_label_names(named.folder)
            named = named if beside is None or not _fits_parts(named, beside) else _with_names(named, beside)
    elif found.labels is not None:
        raise DatasetError(
            f"{found.folder}: dataset.json declares the labels; leave --label-names out, or change it there"
        )
    else:
        names = given if isinstance(given, LabelNames) else given_labels(given)
        named = split_segmentations(_with_names(found, names))
    named = select_parts(named) if has_parts(named) else named
    if named.labels is None:
        return named
    return replace(named, cases=name_annotated(named.cases, named.labels, named.source))


def _with_names(found: FoundDataset, names: LabelNames) -> FoundDataset:
    source = "" if names.source is None else relative_path(real_path(names.source), real_path(found.folder))
    labels = names.labels
    if names.value_names is not None and has_parts(found):  # masks have names: the table says which are used
        known = _part_labels(found)
        labels = {name: value for value, name in names.value_names.items() if name in known}
    return replace(
        found,
        labels=labels,
        regions_class_order=names.regions_class_order,
        value_names=names.value_names,
        channel_names=found.channel_names or names.channel_names,
        faults=tuple(fault for fault in found.faults if not source or fault.file != source),
        notes=(*found.notes, *([f"labels are named by {source}"] if source else [])),
    )


def _fits_parts(found: FoundDataset, names: LabelNames) -> bool:
    """Whether a file beside the dataset names its labels; masks and segments have names of their own."""
    if not has_parts(found):
        return True
    return names.labels is not None and set(names.labels) - {BACKGROUND, IGNORE} <= _part_labels(found)


def _part_labels(found: FoundDataset) -> set[str]:
    return {part.label for files in found.cases for part in files.parts or ()}
