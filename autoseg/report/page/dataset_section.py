"""Overview of the dataset: its contents, sample cases, distributions and possible faults.

Tested in tests/report/page/test_sections.py.
"""

from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from autoseg.imaging.arrays.display import choose_window
from autoseg.imaging.formats.volume import length_unit
from autoseg.records.dataset import DatasetDescription, LabelEncoding, LabelValues
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.report.charts.charts import BoxRow, Figure, draw_boxes, draw_histogram, draw_ranges
from autoseg.report.charts.slices import NUM_LABEL_COLOURS
from autoseg.report.page.outliers import MM3_PER_ML, Outlier, find_outliers, flagged_cases, group_outliers
from autoseg.report.page.samples import Sample, read_samples
from autoseg.report.page.templates import render_template
from autoseg.report.page.windows import describe_window
from autoseg.text import Row, distinct_names, format_quantity

MAX_CHANNELS = 8
"""Channels with charts of their own."""
MAX_NAMED = 6
"""Unusual cases that are named in a row of the table."""
NUM_COLOURS = 3
NUM_BINS = 60
"""Bins of a histogram."""
COMMON_SCALE_RATIO = 10.0
"""Ratio of the largest to the smallest upper end of the intensities above which each case has a scale of its own."""
ENDS = (0.5, 99.5)
"""Percentiles that bound the intensities of a case."""


def render_dataset(
    workspace: Workspace, description: DatasetDescription, fingerprint: Fingerprint | None, plan: Plan | None
) -> Markup:
    """Read sample cases and describe the dataset."""
    outliers = () if fingerprint is None else find_outliers(fingerprint)
    groups = group_outliers(outliers)
    flagged = flagged_cases(groups)
    samples, notes = read_samples(workspace, description, fingerprint, plan, flagged)
    unit, rows = _label_rows(description.labels, fingerprint)
    return render_template(
        "dataset.html",
        overview=_overview(description, fingerprint),
        label_columns=("label", "value", "in cases", f"median {unit}", "smallest", "largest", "median components"),
        labels=rows,
        channels=[] if fingerprint is None else _channel_rows(fingerprint),
        samples=samples,
        sample_notes=notes,
        figures=[
            *([] if fingerprint is None else _case_figures(fingerprint, flagged)),
            *_histograms(description.channel_names, samples),
        ],
        notes=description.notes,
        warnings=[(fault.case, fault.file, fault.what) for fault in description.warnings],
        outliers=[_outlier_row(group) for group in groups],
        reasons={
            outlier.case: f"{outlier.what} {outlier.found}, usually {outlier.usual}" for outlier in outliers[::-1]
        },
        legend=label_legend(description.encoding),
        range_words=describe_window(choose_window(plan)),
        in_colour=len(description.channel_names) == NUM_COLOURS
        and is_flat_data(fingerprint.cases if fingerprint else ()),
    )


def label_legend(encoding: LabelEncoding) -> list[tuple[str, int]]:
    """Name and colour class of each label index in the images; values of regions only are named by number."""
    names = {head.indices[0]: head.name for head in encoding.heads if len(head.indices) == 1}
    return [
        (names.get(index, f"value {encoding.values[index]}"), (index - 1) % NUM_LABEL_COLOURS)
        for index in range(1, len(encoding.values))
        if encoding.values[index] not in encoding.values[:index]  # a value with several indices counts once
    ]


def _outlier_row(group: Sequence[Outlier]) -> Row:
    """Quantity, usual value, and the cases with their values."""
    named = ", ".join(f"{outlier.case} ({outlier.found})" for outlier in group[:MAX_NAMED])
    others = len(group) - MAX_NAMED
    return group[0].what, group[0].usual, f"{named} and {others} more" if others > 0 else named


def _overview(description: DatasetDescription, fingerprint: Fingerprint | None) -> list[Row]:
    facts: list[Row] = [
        ("cases", str(len(description.cases))),
        ("channels", ", ".join(description.channel_names)),
        ("layout", f"{description.layout}, {description.file_ending} files, orientation {description.orientation}"),
    ]
    if fingerprint is not None:
        facts.append(("shape (z, y, x), voxels", _ranges(case.shape for case in fingerprint.cases)))
        if length_unit(description.file_ending) == "mm":
            facts.append(("spacing (z, y, x), mm", _ranges(case.spacing for case in fingerprint.cases)))
        else:
            facts.append(("spacing", "none in these files: lengths are in pixels"))
        facts.append(("fraction kept by cropping to nonzero", f"{fingerprint.median_cropped_fraction:.0%} (median)"))
    return facts


def _channel_rows(fingerprint: Fingerprint) -> list[Row]:
    return [
        (
            name,
            *(format_quantity(value) for value in (s.mean, s.std, s.percentile_00_5, s.median, s.percentile_99_5)),
        )
        for name, s in zip(distinct_names(fingerprint.channel_names), fingerprint.intensities, strict=True)
    ]


def _label_rows(labels: dict[str, LabelValues], fingerprint: Fingerprint | None) -> tuple[str, list[Row]]:
    """Unit of the sizes, and a row per foreground label; sizes of the cases that have the label."""
    cases: tuple[CaseFingerprint, ...] = fingerprint.cases if fingerprint is not None else ()
    is_flat = is_flat_data(cases)
    rows: list[Row] = []
    for name, value in labels.items():
        facts = [case.labels[name] for case in cases if name in case.labels and case.labels[name].voxels > 0]
        sizes = [float(fact.voxels) if is_flat else fact.volume_mm3 / MM3_PER_ML for fact in facts]
        if not sizes:
            figures: Row = ("0" if cases else "–", "–", "–", "–", "–")
        else:
            shown = (format_quantity(size) for size in (median(sizes), min(sizes), max(sizes)))
            figures = (str(len(sizes)), *shown, f"{median(fact.components for fact in facts):g}")
        if name not in ("background", "ignore"):
            rows.append((name, str(value), *figures))
    return ("pixels" if is_flat else "volume (ml)"), rows


def is_flat_data(cases: Sequence[CaseFingerprint]) -> bool:
    """Whether all cases are single slices; True without any case."""
    return all(min(case.shape) == 1 for case in cases)


def _ranges(triples: Iterable[Sequence[float]]) -> str:
    """Smallest, median and largest value along each axis."""
    axes = list(zip(*triples, strict=True))
    return "; ".join(
        f"{min(axis):.4g}"
        if min(axis) == max(axis)
        else f"{min(axis):.4g} to {max(axis):.4g}, median {median(axis):.4g}"
        for axis in axes
    )


def _case_figures(fingerprint: Fingerprint, flagged: Sequence[str]) -> list[Figure]:
    """Charts of the volumes by label, of shapes and spacings where they differ, and of intensities by case."""
    cases, is_flat = fingerprint.cases, is_flat_data(fingerprint.cases)
    rows = []
    for name in dict.fromkeys(name for case in cases for name in case.labels):
        facts = {case.case: case.labels[name] for case in cases if name in case.labels}
        sizes = {case: float(fact.voxels) if is_flat else fact.volume_mm3 / MM3_PER_ML for case, fact in facts.items()}
        rows.append(BoxRow(name, {case: size for case, size in sizes.items() if size > 0}, 0))
    figures = []
    if any(row.values for row in rows):
        figures.append(draw_boxes("Size of every label", rows, "area (pixels)" if is_flat else "volume (ml)"))
    axes = [(place, name) for place, name in enumerate("zyx") if not is_flat or place > 0]
    for what, unit in (("shape", "voxels"), ("spacing", "mm")):
        values = {name: {case.case: float(getattr(case, what)[place]) for case in cases} for place, name in axes}
        if any(len(set(of_axis.values())) > 1 for of_axis in values.values()):
            boxes = [BoxRow(name, values[name], 0) for _, name in axes]
            figures.append(draw_boxes(f"{what.capitalize()} of every case", boxes, f"{what} ({unit})"))
    for channel, name in list(enumerate(distinct_names(fingerprint.channel_names)))[:MAX_CHANNELS]:
        known = {
            case.case: case.channel_ranges[channel]
            for case in cases
            if channel < len(case.channel_ranges) and channel not in case.absent_channels
        }
        if len(known) > 1 and len(set(known.values())) > 1:
            title = f"{name}: smallest to largest intensity of every case" + (
                ", unusual cases in orange" if set(flagged) & set(known) else ""
            )
            figures.append(draw_ranges(title, known, flagged, "intensity"))
    return figures


def _histograms(channel_names: Sequence[str], samples: Sequence[Sample]) -> list[Figure]:
    used = [sample for sample in samples if sample.is_preprocessed == samples[0].is_preprocessed]
    figures = []
    for channel, name in list(enumerate(distinct_names(channel_names)))[: MAX_CHANNELS if used else 0]:
        parts = [(sample.inside[channel], sample.outside[channel]) for sample in used]
        figure = _histogram(name, parts, is_preprocessed=used[0].is_preprocessed)
        if figure is not None:
            figures.append(figure)
    return figures


def _histogram(
    name: str, parts: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], *, is_preprocessed: bool
) -> Figure | None:
    """Histogram of the intensities inside and outside of labels, in the slices of the sample cases."""
    ends = [np.percentile(np.concatenate(pair), ENDS) for pair in parts]
    uppers = [float(high) for _, high in ends]
    if max(uppers) <= min(float(low) for low, _ in ends):
        return None
    own_scale = min(uppers) <= 0 or max(uppers) / min(uppers) > COMMON_SCALE_RATIO
    if own_scale and not is_preprocessed:
        parts = [
            ((inside - low) / max(high - low, 1e-6), (outside - low) / max(high - low, 1e-6))
            for (inside, outside), (low, high) in zip(parts, ends, strict=True)
        ]
        edges, label = np.linspace(0, 1, NUM_BINS + 1), "intensity relative to the range of its case"
    else:
        edges = np.linspace(min(float(low) for low, _ in ends), max(uppers), NUM_BINS + 1)
        label = "normalised intensity" if is_preprocessed else "intensity"
    counts = {
        kind: np.sum([np.histogram(pair[side], edges)[0] for pair in parts], axis=0)
        for side, kind in enumerate(("inside labels", "outside labels"))
    }
    return draw_histogram(f"{name}: intensities in the sample slices", edges, counts, label)
