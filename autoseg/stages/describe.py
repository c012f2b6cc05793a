"""Stage 1, describe: find the cases of a dataset, open every file once, and report all faults."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from autoseg.cluster.dask_workers import Workers
from autoseg.errors import DatasetError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.datasets.case_comparison import channel_faults, compare_cases, label_faults, stray_values
from autoseg.imaging.datasets.cases import map_in_processes
from autoseg.imaging.datasets.channel_names import check_channel_names, choose_channel_names
from autoseg.imaging.datasets.checks import CaseFacts, check_case
from autoseg.imaging.datasets.effort import choose_workers, reading_memory_bytes
from autoseg.imaging.datasets.findings import Findings, fault_table
from autoseg.imaging.datasets.labels.annotated_labels import describe_annotated, name_annotated_facts
from autoseg.imaging.datasets.labels.dataset_labels import choose_labels, refuse_intensities
from autoseg.imaging.datasets.labels.label_naming import name_labels
from autoseg.imaging.datasets.labels.label_reading import (
    AS_LABEL_VALUES,
    MIXED_SCALES,
    ReadingOptions,
    describe_reading,
    has_mixed_scales,
    resolve_reading,
    suggest_colors,
    with_own_numbers,
)
from autoseg.imaging.datasets.labels.label_tables import LabelNames
from autoseg.imaging.datasets.labels.mirror_pairs import ask_about_sides, find_mirror_pairs
from autoseg.imaging.datasets.labels.part_names import has_parts
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset, order_images
from autoseg.imaging.datasets.layouts.patterns import FilePatterns
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.imaging.datasets.missing_channels import describe_channels, settle_missing_channels
from autoseg.imaging.formats.dicom.reading import SERIES_ENDING
from autoseg.imaging.formats.reading import describe_notes, stored_ending
from autoseg.processes import WorkerDeath
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import (
    BACKGROUND,
    CaseFiles,
    DatasetDescription,
    Fault,
    LabelEncoding,
    LabelReading,
    LabelValues,
    OrientationName,
    Rgb,
)
from autoseg.system import count_cores
from autoseg.text import format_command, format_count
from autoseg.worker_memory import limit_workers

logger = logging.getLogger("autoseg.pipeline")

_Value = TypeVar("_Value", int, str)


def describe_dataset(
    folder: Path,
    *,
    patterns: FilePatterns | None = None,
    channel_names: Sequence[str] | None = None,
    labels: Mapping[str, LabelValues] | LabelNames | None = None,
    reading: ReadingOptions = AS_LABEL_VALUES,
    orientation: OrientationName = "canonical",
    skip_faulty: bool = False,
    missing_channels: bool = False,
    workers: Workers | None = 1,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> DatasetDescription:
    """Describe a dataset on disk.

    Args:
        folder: A Decathlon, nnU-Net raw or plain folder, or a CSV or JSON list of files.
        patterns: Names of the files in the folder; None: the layout is recognised.
        channel_names: Names that replace the declared or guessed ones, in channel order.
        labels: Values in the files by name, for datasets that do not declare their labels; `ignore` names voxels that
            do not count; or what a file names. None: the declared ones, else those that a file beside the dataset
            names, else one for each value in the files.
        reading: How label files are read whose pixels are not label values: colours, soft masks.
        orientation: Working orientation of all later stages.
        skip_faulty: Whether faulty cases are left out, with their faults as warnings, instead of an error; they do not
            count for labels, channels or anything else.
        missing_channels: Whether cases may lack some of the channels; else those that do have a fault.
        workers: Processes that check cases; 1 checks in this process; None: as many as are worth their start.
        max_memory: Memory in bytes that they may take together; None: what is free. Fewer are started then.
        progress: Called after each checked case.

    Returns:
        The description: cases sorted by id, labels and their encoding, warnings, and notes about guesses.

    Raises:
        DatasetError: If anything is wrong; the message lists every fault of every case.
        UsageError: If worker processes cannot start, or `reading` does not fit the labels.
    """
    found = find_dataset(folder, patterns, missing_channels=missing_channels)
    found = settle_missing_channels(found, allowed=missing_channels)
    found = _with_names(found, labels, channel_names)
    found, rule = _with_reading(found, reading)
    workers = workers or choose_workers(found.folder, found.cases, count_cores())
    workers = limit_workers(workers, reading_memory_bytes(found.folder, found.cases), max_memory, "checking")
    facts = _check_cases(found, rule, orientation, workers, progress)
    if found.labels is None and rule is None and has_mixed_scales([set(case.label_voxels or ()) for case in facts]):
        facts, rule = [_with_one_label(case) for case in facts], MIXED_SCALES
    findings = Findings(found, facts, _suggest_reading(folder, found, facts), skip_faulty=skip_faulty)
    return _describe(findings, rule, channel_names, orientation, missing_channels=missing_channels)


def _describe(
    findings: Findings,
    rule: LabelReading | None,
    channel_names: Sequence[str] | None,
    orientation: OrientationName,
    *,
    missing_channels: bool,
) -> DatasetDescription:
    """Name labels and channels, compare the cases, and leave out those with faults."""
    num_channels = _check_channels(findings)
    labels, encoding, label_notes = _check_labels(findings, rule)
    names, channel_notes = choose_channel_names(findings.found, findings.counted, channel_names, num_channels)
    findings.report(check_channel_names(names, num_channels, is_given=channel_names is not None))
    findings.report(compare_cases(findings.counted, labels))
    kept, warnings = findings.take_sound_cases()
    found = findings.found
    kept = name_annotated_facts(kept, labels, found.source)
    channel_notes += describe_channels(found, kept, names) if missing_channels else []
    return DatasetDescription(
        name=found.name,
        folder=str(found.folder),
        layout=found.layout,
        orientation=orientation,
        channel_names=names,
        labels=labels,
        encoding=encoding,
        file_ending=_most_common([_map_ending(found.folder / case.files.images[0]) for case in kept]),
        cases=tuple(case.files for case in kept),
        missing_channels=missing_channels,
        warnings=tuple(warnings),
        notes=(
            *found.notes,
            *describe_reading(rule),
            *label_notes,
            *describe_annotated(kept, encoding),
            *_ask_about_sides(kept, labels, orientation),
            *channel_notes,
            *describe_notes({case.files.case: case.notes for case in kept}),
        ),
    )


def _check_channels(findings: Findings) -> int:
    """Number of channels that most cases have; the others have a fault."""
    counts = [len(case.hounsfield_channels) for case in findings.counted if case.image_hash]
    num_channels = _most_common(counts or [1])
    findings.report(channel_faults(findings.counted, num_channels))
    return num_channels


def _check_labels(
    findings: Findings, rule: LabelReading | None
) -> tuple[dict[str, LabelValues], LabelEncoding, list[str]]:
    """Labels, their encoding, and notes; values that do not fit them are faults."""
    findings.name_parts()
    found = findings.found
    labels, notes = choose_labels(findings)
    encoding = make_encoding(labels, found.regions_class_order, overlapping=found.overlapping)
    encoding = encoding.model_copy(update={"reading": rule})
    counted = findings.counted
    findings.report(label_faults(counted, encoding))
    if found.labels is None and found.value_names is None:
        findings.report(stray_values(counted))
    return labels, encoding, notes


def _with_reading(found: FoundDataset, reading: ReadingOptions) -> tuple[FoundDataset, LabelReading | None]:
    """The dataset with the labels that colours or grey levels stand for, and the rule that reads them."""
    if reading != AS_LABEL_VALUES and has_parts(found):
        raise DatasetError(
            f"{found.folder}: every label has a mask file of its own, so there are no colours or grey levels to read. "
            "Leave --label-colors, --label-threshold and --label-ids out."
        )
    rule, declared = resolve_reading(reading, found.labels)
    return replace(found, labels=declared, cases=with_own_numbers(found.cases, rule)), rule


def _with_names(
    found: FoundDataset, labels: Mapping[str, LabelValues] | LabelNames | None, channel_names: Sequence[str] | None
) -> FoundDataset:
    """The dataset with labels and channels as the user names them.

    Wrong labels and datasets without cases are refused before any image is opened.
    """
    found = name_labels(found, labels)
    names = channel_names or found.channel_names
    if names:
        found = order_images(found, names)
    if found.labels is not None:
        make_encoding(found.labels, found.regions_class_order)
    if not found.cases:
        ending = "No cases were found."
        remedy = "Put images and label maps there, or give the folder that has them."
        if found.layout == "list":
            remedy = f"Add a row for each case to the list {found.name}, with its image and its label map."
        raise DatasetError(
            fault_table(found, found.faults, ending) if found.faults else f"{found.folder}: {ending} {remedy}"
        )
    return found


def _check_cases(
    found: FoundDataset,
    rule: LabelReading | None,
    orientation: OrientationName,
    workers: Workers,
    progress: Progress,
) -> list[CaseFacts]:
    has_declared_labels = found.labels is not None or found.value_names is not None
    check = partial(
        check_case, found.folder, orientation=orientation, has_declared_labels=has_declared_labels, reading=rule
    )
    outcomes = map_in_processes(check, found.cases, task="checking", workers=workers, progress=progress)
    facts = [
        _without_facts(files, outcome) if isinstance(outcome, WorkerDeath) else outcome
        for files, outcome in zip(found.cases, outcomes, strict=True)
    ]
    return [case if has_declared_labels else refuse_intensities(case) for case in facts]


def _without_facts(files: CaseFiles, death: WorkerDeath) -> CaseFacts:
    """A case that could not be checked, because it ended its worker process."""
    return CaseFacts(files, (Fault(severity="error", case=files.case, file="", what=death.describe()),))


def _ask_about_sides(
    facts: Sequence[CaseFacts], labels: Mapping[str, LabelValues], orientation: OrientationName
) -> list[str]:
    """The question about labels without names that lie like left and right, where it is known where those are."""
    pairs = find_mirror_pairs([case.places for case in facts]) if orientation == "canonical" else []
    return [ask_about_sides(pairs, labels)] if pairs else []


def _with_one_label(case: CaseFacts) -> CaseFacts:
    """The facts of a mask of one structure as `MIXED_SCALES` reads it."""
    if case.label_voxels is None:
        return case
    return replace(case, label_voxels={min(value, 1): voxels for value, voxels in case.label_voxels.items()})


def _suggest_reading(dataset: Path, found: FoundDataset, facts: Sequence[CaseFacts]) -> str:
    """The command that reads colour masks, or soft masks; empty where there are none, or they are the exception."""
    colors: Counter[Rgb] = sum((Counter(case.mask_colors) for case in facts), Counter())
    if colors and found.labels is None:
        command = format_command("autoseg-plan", dataset, "--label-colors", suggest_colors(colors))
        return (
            "\nThe label maps are colour masks. Say which label each colour is, with names of your own; other colours "
            f"are refused where they cover areas:\n  {command}"
        )
    thresholds = [case.suggested_threshold for case in facts if case.suggested_threshold]
    if 2 * len(thresholds) <= len(facts) or len(set(found.labels or ()) - {BACKGROUND}) > 1:
        return ""
    threshold = max(thresholds)
    command = format_command("autoseg-plan", dataset, "--label-threshold", f"{threshold:g}")
    return f"\nFor masks of one structure, this reads every value from {threshold:g} on as the structure:\n  {command}"


def _map_ending(image: Path) -> str:
    """Ending of the label maps of validation cases: NIfTI beside DICOM series too."""
    ending = stored_ending(image)
    return ".nii.gz" if ending == SERIES_ENDING else ending


def _most_common(values: Sequence[_Value]) -> _Value:
    return Counter(values).most_common(1)[0][0]


def log_description(description: DatasetDescription) -> None:
    """Log what a dataset is, with its notes and warnings."""
    logger.info(
        "%s: %s, channels %s, labels %s",
        description.name, format_count(len(description.cases), "case"), ", ".join(description.channel_names),
        ", ".join(name for name in description.labels if name not in ("background", "ignore")),
    )  # fmt: skip
    for note in description.notes:
        logger.info("note: %s", note)
    for warning in description.warnings:
        concerned = " ".join(name for name in (warning.case, warning.file) if name)
        logger.warning("warning: %s%s", f"{concerned}: " if concerned else "", warning.what)
