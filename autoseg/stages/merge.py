"""Merge: several datasets as one list, in which each case has the labels that were looked for in it.

Label maps are written again only where a dataset has other values than the merged ones, or its labels are not in label
maps; images stay where they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import UsageError
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.datasets.labels.label_tables import LabelNames
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.imaging.datasets.list_writing import write_case_list, write_datalist
from autoseg.imaging.datasets.merging import (
    CommonChannels,
    CommonLabels,
    check_grids,
    match_channels,
    match_labels,
    merge_images,
    name_merged_cases,
)
from autoseg.imaging.formats.writing import label_map_ending, write_label_map
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import BACKGROUND, IGNORE, CaseFiles, DatasetDescription, LabelValues
from autoseg.stages.describe import describe_dataset

ENDINGS = (".json", ".csv")
"""Endings of the list: a datalist, which holds names of labels and channels too, or a table."""


@dataclass(frozen=True)
class MergeOptions:
    """What the user says of the datasets."""

    label_names: tuple[LabelNames | None, ...] = ()
    """Labels of each dataset; None, and where there are fewer: its own."""
    renamed: Mapping[str, str] | None = None
    """Names in the merged list by names in a dataset."""
    channel_names: tuple[str, ...] | None = None
    """Channels of every dataset; None: their own."""
    may_lack_channels: bool = False
    """Whether cases, or whole datasets, may lack some of the channels."""
    workers: int | None = None
    """Processes that check files; None: one per core, or fewer for small files."""


@dataclass(frozen=True)
class MergedDatasets:
    """What was written."""

    labels: dict[str, LabelValues]
    channel_names: tuple[str, ...]
    counts: tuple[tuple[str, int, tuple[str, ...]], ...]
    """Dataset, number of its cases and names of its labels."""
    num_written: int
    """Label maps that were written again."""
    notes: tuple[str, ...]


def merge_datasets(
    folders: Sequence[Path], output: Path, options: MergeOptions, progress: Progress = no_progress
) -> MergedDatasets:
    """Check datasets, match their labels and channels, and write one list of all cases.

    Args:
        folders: Dataset folders or lists, two or more.
        output: List to write: a MONAI datalist (.json) with labels and channels, or a table (.csv). Label maps that
            have to be written again go into a folder beside it, `NAME_labels`.
        options: What the user says of the datasets.
        progress: Called after each label map that was written.

    Returns:
        What was written.

    Raises:
        UsageError: If there are fewer than two datasets, or the list exists or has another ending.
        DatasetError: If a dataset has faults, or the datasets do not go together.
        ImageFileError: If a file cannot be read or written.
    """
    _check_request(folders, output, options)
    names = [*options.label_names, *[None] * len(folders)]
    datasets = [
        describe_dataset(
            folder,
            labels=given,
            channel_names=options.channel_names,
            missing_channels=options.may_lack_channels,
            workers=options.workers,
        )
        for folder, given in zip(folders, names, strict=False)
    ]
    channels = match_channels(datasets, may_lack=options.may_lack_channels)
    labels = match_labels(datasets, options.renamed or {})
    notes = [*check_grids(datasets), *_lost(datasets)]
    maps = output.with_name(f"{output.stem}_labels")
    rewritten = _rewrite_labels(datasets, labels, maps, progress)
    cases = _list_cases(datasets, labels, channels, rewritten)
    _write(output, cases, datasets[0], labels, channels.names)
    return MergedDatasets(
        labels.labels,
        channels.names,
        tuple(
            (dataset.folder, len(dataset.cases), tuple(own.values()))
            for dataset, own in zip(datasets, labels.names, strict=True)
        ),
        len(rewritten),
        tuple(notes),
    )


def _rewrite_labels(
    datasets: Sequence[DatasetDescription], labels: CommonLabels, folder: Path, progress: Progress
) -> dict[str, Path]:
    """Write label maps again that need other values; each by the name that its case has in the list."""
    ids = name_merged_cases(datasets)
    waiting = [
        (number, dataset, files)
        for number, dataset in enumerate(datasets)
        for files in dataset.cases
        if _is_rewritten(labels, number, dataset)
    ]
    written = {}
    for number, dataset, files in waiting:
        case = ids[number][files.case]
        written[case] = _write_labels(dataset, files, labels.values[number], folder / case)
        progress(len(written), len(waiting))
    return written


def _list_cases(
    datasets: Sequence[DatasetDescription],
    labels: CommonLabels,
    channels: CommonChannels,
    rewritten: Mapping[str, Path],
) -> list[CaseFiles]:
    """All cases, with the files, channels and labels that they have in the list."""
    ids = name_merged_cases(datasets)
    has_folds = all(any(files.fold is not None for files in dataset.cases) for dataset in datasets)
    cases = []
    for number, dataset in enumerate(datasets):
        for files in dataset.cases:
            case = ids[number][files.case]
            images, absent = merge_images(dataset, files, channels.positions[number])
            cases.append(
                CaseFiles(
                    case=case,
                    images=images,
                    absent_channels=absent,
                    label=str(rewritten.get(case) or (Path(dataset.folder) / files.label).absolute()),
                    group=files.group,
                    fold=files.fold if has_folds else None,
                    annotated=_annotated(files, labels, number),
                )
            )
    return cases


def _check_request(folders: Sequence[Path], output: Path, options: MergeOptions) -> None:
    if len(folders) < 2:
        raise UsageError(f"{len(folders)} dataset is given, expected two or more: autoseg merge A B -o LIST.json")
    if len(options.label_names) > len(folders):
        raise UsageError(f"--label-names: {len(options.label_names)} are given for {len(folders)} datasets")
    if output.suffix.lower() not in ENDINGS:
        raise UsageError(f"-o {output}: the name of the list must end in {' or '.join(ENDINGS)}")
    for path in (output, *(output.with_suffix(ending) for ending in ENDINGS)):  # whose label maps lie in one folder
        if path.exists():
            raise UsageError(f"-o {output}: {path.name} already exists; choose another name, or delete it")


def _lost(datasets: Sequence[DatasetDescription]) -> list[str]:
    """What the merged list does not have, and notes about values of the datasets."""
    notes = [
        f"{dataset.folder}: numbers of objects are not used in a merged list"
        for dataset in datasets
        if any(files.instances for files in dataset.cases)
    ]
    folds = [dataset.folder for dataset in datasets if any(files.fold is not None for files in dataset.cases)]
    if folds and len(folds) < len(datasets):
        notes.append(f"{', '.join(folds)}: folds are not used, because other datasets have none")
    return notes


def _is_rewritten(labels: CommonLabels, number: int, dataset: DatasetDescription) -> bool:
    """Whether label maps of a dataset are not yet what the merged list needs."""
    is_same = all(old == new for old, new in labels.values[number].items())
    return not is_same or dataset.encoding.reading is not None or any(f.parts is not None for f in dataset.cases)


def _write_labels(dataset: DatasetDescription, files: CaseFiles, values: Mapping[int, int], target: Path) -> Path:
    """Write a label map with the merged values."""
    reference = read_reference(Path(dataset.folder), files, dataset.encoding)
    array = reference.array[0]
    merged = np.zeros(array.shape, dtype=np.uint16)
    for old, new in values.items():
        merged[array == old] = new
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f"{target.name}{label_map_ending(dataset.file_ending)}")
    return write_label_map(merged, reference.template, path).absolute()


def _annotated(files: CaseFiles, labels: CommonLabels, number: int) -> tuple[str, ...] | None:
    """Labels that were looked for in a case; None: all of the merged ones."""
    own = labels.names[number]
    found = {own[name] for name in (own if files.annotated is None else files.annotated)}
    every = [name for name in labels.labels if name not in (BACKGROUND, IGNORE)]
    return None if found >= set(every) else tuple(name for name in every if name in found)


def _write(
    output: Path,
    cases: Sequence[CaseFiles],
    first: DatasetDescription,
    labels: CommonLabels,
    channel_names: tuple[str, ...],
) -> None:
    order = [first.encoding.values[head.painted_index] for head in first.encoding.heads]
    merged = FoundDataset(
        name=output.stem,
        folder=output.absolute().parent,
        layout="list",
        cases=tuple(sorted(cases, key=lambda files: files.case)),
        labels=labels.labels,
        regions_class_order=tuple(order) if first.encoding.activation == "sigmoid" else None,
        channel_names=channel_names,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix.lower() == ".json":
        write_datalist(merged, output)
    else:
        write_case_list(merged, output)
