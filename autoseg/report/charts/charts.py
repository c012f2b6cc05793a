"""Charts of the page as inline SVG, made by `svg`.

Curves, histograms and reliability diagrams come first, then charts with one horizontal row per name: box plots with
points, means with intervals, and ranges.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.cbook import boxplot_stats
from numpy.typing import NDArray

from autoseg.report.charts.svg import (
    WIDTH,
    Scale,
    chart,
    dot,
    line,
    linear_scale,
    log_scale,
    name_margin,
    polyline,
    rectangle,
    row_names,
    series_class,
    text,
    x_axis,
    y_axis,
)
from autoseg.text import format_interval

HEIGHT = 230.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, WIDTH - 12.0, 10.0, HEIGHT - 38.0
"""Borders of the area between the axes, user units."""
MAX_POINTS = 240
"""Points of one curve; longer curves are thinned out, as a chart is only about 300 pixels wide."""

LONG_SECONDS = 10.0
"""Values on a horizontal axis from which on fractions are not shown."""

MAX_MARKED = 8
"""Points of one path that get a dot each; of a longer one only the last has a dot."""

ROW_HEIGHT = 26.0
ROWS_RIGHT = WIDTH - 14.0
"""Right end of the rows, user units."""
MAX_DOTS = 300
"""Points of one row; with more cases, only those outside the whiskers are drawn."""
LOG_RATIO = 50.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""
WHISKER = 1.5
"""Maximum length of a whisker in lengths of its box; Tukey 1977."""
NUM_LANES = 5
"""Vertical positions over which the points of a row are spread, so that equal values remain visible."""


@dataclass(frozen=True)
class Figure:
    """A chart with its heading."""

    title: str
    drawing: Markup
    legend: tuple[str, ...] = ()
    """Names of the series, where several charts of the page do not share a legend."""


def draw_curves(
    title: str,
    curves: Mapping[str, Sequence[float | None]],
    *,
    label: str = "epoch",
    bounds: tuple[float, float] | None,
) -> Figure:
    """Draw one line per name over 0, 1, 2, ...; the colour of a line follows from its position.

    Args:
        title: Heading.
        curves: Values by name; None is a gap.
        label: Quantity on the horizontal axis.
        bounds: Limits of the vertical axis; None: those of the values.
    """
    known = [value for values in curves.values() for value in values if value is not None]
    longest = max(map(len, curves.values()), default=0)
    low, high = bounds or (min(known, default=0.0), max(known, default=1.0))
    x = Scale(0.0, float(max(longest - 1, 1)), LEFT, RIGHT)
    y = linear_scale(low, high, BOTTOM, TOP, max_ticks=5)
    parts = [*x_axis(x, TOP, BOTTOM, label), *y_axis(y, LEFT, RIGHT)]
    for position, values in enumerate(curves.values()):
        steps = sorted({round(step) for step in np.linspace(0, len(values) - 1, MAX_POINTS)}) if values else []
        points = [None if (value := values[step]) is None else (x(step), y(value)) for step in steps]
        parts.append(polyline(points, f"curve {series_class(position)}"))
        lone = [point for point in points if point is not None] if len(steps) < 2 else []
        parts += [dot(*point, 3, f"dot {series_class(position)}") for point in lone]
    ends = ", ".join(f"{name} ends at {values[-1]:.3g}" for name, values in curves.items() if values and values[-1])
    return Figure(title, chart(parts, HEIGHT, f"{title} over {label}s: {ends}"))


def draw_paths(title: str, paths: Mapping[str, Sequence[tuple[float, float]]], label: str) -> Figure:
    """Draw one line per name through points of its own, with dots if these are few; colours follow from the order.

    Args:
        title: Heading.
        paths: Points (value on the horizontal axis, value on the vertical axis) by name, in order.
        label: Quantity on the horizontal axis, with its unit.
    """
    points = [point for path in paths.values() for point in path]
    right = max((x for x, _ in points), default=1.0)
    heights = [height for _, height in points] or [0.0, 1.0]
    x = linear_scale(0.0, right, LEFT, RIGHT)
    y = linear_scale(min(heights), max(heights), BOTTOM, TOP, max_ticks=5)
    parts = [*x_axis(x, TOP, BOTTOM, label), *y_axis(y, LEFT, RIGHT)]
    for position, (name, path) in enumerate(paths.items()):
        colour = series_class(position)
        parts.append(polyline([(x(across), y(height)) for across, height in path], f"curve {colour}"))
        marked = path if len(path) <= MAX_MARKED else path[-1:]
        parts += [
            dot(x(across), y(height), 4, f"dot {colour}", f"{name}: {height:.3f} at {_format_across(across)}")
            for across, height in marked
        ]
    ends = ", ".join(f"{name} ends at {path[-1][1]:.3g}" for name, path in paths.items() if path)
    return Figure(title, chart(parts, HEIGHT, f"{title} over {label}: {ends}"), tuple(paths))


def _format_across(value: float) -> str:
    """Whole seconds; of short times two digits."""
    return f"{value:.0f}" if value >= LONG_SECONDS else f"{value:.2g}"


def draw_histogram(
    title: str, edges: NDArray[np.float64], counts: Mapping[str, NDArray[np.int64]], label: str
) -> Figure:
    """Draw the outlines of histograms with common bins, each scaled to its own highest bin, as totals differ widely.

    Args:
        title: Heading.
        edges: Edges of N bins, (N + 1,), ascending.
        counts: Counts per bin, (N,), by name.
        label: Quantity on the horizontal axis, with its unit.
    """
    x = linear_scale(float(edges[0]), float(edges[-1]), LEFT - 26, RIGHT)
    parts = x_axis(x, TOP, BOTTOM, label)
    for position, values in enumerate(counts.values()):
        y = Scale(0.0, float(max(values.max(initial=0), 1)), BOTTOM, TOP + 4)
        corners: list[tuple[float, float] | None] = [(x(edges[0]), BOTTOM)]
        for left, right, value in zip(edges[:-1], edges[1:], values, strict=True):
            corners += [(x(left), y(value)), (x(right), y(value))]
        corners.append((x(edges[-1]), BOTTOM))
        parts.append(polyline(corners, f"area {series_class(position)}"))
    parts.append(line(x.start, BOTTOM, RIGHT, BOTTOM, "axis"))
    return Figure(title, chart(parts, HEIGHT, f"Histogram: {title}, {label}; {', '.join(counts)}"), tuple(counts))


def draw_reliability(
    title: str, probabilities: Sequence[float], frequencies: Sequence[float], counts: Sequence[int], summary: str
) -> Figure:
    """Draw how many of the voxels with a predicted probability have the label; on the diagonal both agree.

    Args:
        title: Heading.
        probabilities: Mean predicted probability of each bin that has voxels.
        frequencies: Fraction of the voxels of each bin that have the label.
        counts: Number of voxels in each bin.
        summary: Result in words, for screen readers.
    """
    x, y = Scale(0.0, 1.0, LEFT, RIGHT), Scale(0.0, 1.0, BOTTOM, TOP)
    parts = [*x_axis(x, TOP, BOTTOM, "predicted probability"), *y_axis(y, LEFT, RIGHT)]
    largest = max(counts, default=1)
    for probability, count in zip(probabilities, counts, strict=True):
        height = 0.22 * (BOTTOM - TOP) * count / largest
        left = min(x(probability) - 5, RIGHT - 10)
        parts.append(rectangle(left, BOTTOM - height, 10, height, "bar", f"{count:,} voxels"))
    parts.append(line(x(0), y(0), x(1), y(1), "diagonal"))
    points = [(x(p), y(f)) for p, f in zip(probabilities, frequencies, strict=True)]
    parts.append(polyline(points, "curve c0"))
    for point, p, f, count in zip(points, probabilities, frequencies, counts, strict=True):
        tooltip = f"predicted {p:.2f}, observed {f:.2f}, {count:,} voxels"
        parts.append(dot(*point, 3, "dot c0", tooltip))
    parts.append(text(x(0.04), y(0.93), "observed fraction", anchor="start", classes="label"))
    return Figure(title, chart(parts, HEIGHT, f"{title}: {summary}"))


@dataclass(frozen=True)
class ExpectedPoint:
    """A measured value of a case, and the one that was expected, with its interval; all in [0, 1]."""

    name: str
    measured: float
    expected: float
    interval: tuple[float, float]


def draw_expected(title: str, points: Sequence[ExpectedPoint], quantity: str, summary: str) -> Figure:
    """Draw what was measured over what was expected, with intervals; on the diagonal both agree.

    Args:
        title: Heading.
        points: At least one; of more than MAX_DOTS every n-th is drawn.
        quantity: What was measured.
        summary: Result in words, for screen readers.
    """
    shown = points[:: -(-len(points) // MAX_DOTS)]
    lowest = min(min(point.measured, point.expected) for point in shown)
    low = min(math.floor(10 * lowest) / 10, 0.9)
    x, y = Scale(low, 1.0, LEFT, RIGHT), Scale(low, 1.0, BOTTOM, TOP)
    parts = [*x_axis(x, TOP, BOTTOM, f"expected {quantity}"), *y_axis(y, LEFT, RIGHT)]
    parts.append(line(x(low), y(low), x(1), y(1), "diagonal"))
    for point in shown:
        start, stop = map(x, point.interval)
        parts.append(line(start, y(point.measured), stop, y(point.measured), "interval c0"))
    for point in shown:
        first, last = point.interval
        expected = f"expected {point.expected:.3f}, {first:.3f} to {last:.3f}"
        tooltip = f"{point.name}: {point.measured:.3f}, {expected}"
        parts.append(dot(x(point.expected), y(point.measured), 2.6, "dot c0", tooltip))
    parts.append(text(x.start + 8, TOP + 12, f"measured {quantity}", anchor="start", classes="label"))
    return Figure(title, chart(parts, HEIGHT, f"{title}: {summary}"))


@dataclass(frozen=True)
class BoxRow:
    """One row of a box plot."""

    name: str
    values: Mapping[str, float]
    """Value of each case that has one."""
    series: int
    """Position of its colour."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval."""

    name: str
    mean: float
    interval: tuple[float, float] | None
    series: int


def draw_boxes(title: str, rows: Sequence[BoxRow], label: str, *, bounds: tuple[float, float] | None = None) -> Figure:
    """Draw a box plot per row: quartiles, median, whiskers to the last value within 1.5 boxes, and a point per case.

    Args:
        title: Heading.
        rows: Values by row; rows without any value stay empty.
        label: Quantity on the horizontal axis, with its unit.
        bounds: Limits that the axis does not exceed, such as 0 and 1; None: no limits, and positive values that
            differ by a large factor get a logarithmic axis.
    """
    left, middles, bottom = _rows([row.name for row in rows])
    known = [value for row in rows for value in row.values.values()]
    x = _scale(known, left, bounds)
    parts = x_axis(x, 4, bottom, f"{label}, logarithmic" if x.is_log else label)
    parts += row_names([row.name for row in rows], middles, left)
    for row, middle in zip(rows, middles, strict=True):
        parts += _box(row, x, middle)
    medians = (f"{row.name} {np.median(list(row.values.values())):.3g}" for row in rows if row.values)
    return Figure(title, chart(parts, bottom + 38, f"{title}: medians of {label}: {', '.join(medians)}"))


def draw_estimates(title: str, estimates: Sequence[Estimate], label: str) -> Figure:
    """Draw a mean with its interval per row; a dashed line marks the mean of the first row."""
    left, middles, bottom = _rows([estimate.name for estimate in estimates])
    ends = [end for estimate in estimates for end in (estimate.mean, *(estimate.interval or ()))]
    x = linear_scale(min(ends), max(ends), left, ROWS_RIGHT, max_ticks=5)
    parts = x_axis(x, 4, bottom, label)
    parts += row_names([estimate.name for estimate in estimates], middles, left)
    if len(estimates) > 1:
        parts.append(line(x(estimates[0].mean), 4, x(estimates[0].mean), bottom, "diagonal"))
    for estimate, middle in zip(estimates, middles, strict=True):
        colour = series_class(estimate.series)
        if estimate.interval is not None:
            low, high = estimate.interval
            parts.append(line(x(low), middle, x(high), middle, f"whisker wide {colour}"))
        parts.append(dot(x(estimate.mean), middle, 4.5, f"dot {colour}", describe_estimate(estimate)))
    return Figure(title, chart(parts, bottom + 38, f"{title}: {'; '.join(map(describe_estimate, estimates))}"))


def describe_estimate(estimate: Estimate) -> str:
    """Name, mean and interval as text."""
    if estimate.interval is None:
        return f"{estimate.name} {estimate.mean:.3f}"
    return f"{estimate.name} {estimate.mean:.3f} (95 % interval {format_interval(estimate.interval)})"


def draw_ranges(title: str, ranges: Mapping[str, tuple[float, float]], flagged: Sequence[str], label: str) -> Figure:
    """Draw a thin bar per case from its smallest to its largest value, ordered by the largest; flagged cases stand out.

    Args:
        title: Heading.
        ranges: Smallest and largest value by case.
        flagged: Cases to show in another colour.
        label: Quantity on the horizontal axis.
    """
    ordered = sorted(ranges.items(), key=lambda pair: (pair[1][1], pair[0]))
    left, height = 18.0, min(max(3.0 * len(ordered), 120.0), 180.0)
    low, high = min(pair[0] for pair in ranges.values()), max(pair[1] for pair in ranges.values())
    smallest_top = ordered[0][1][1]
    is_log = low >= 0 and smallest_top > 0 and high / smallest_top > LOG_RATIO
    floor = smallest_top / 100
    x = log_scale(floor, high, left, ROWS_RIGHT) if is_log else linear_scale(low, high, left, ROWS_RIGHT)
    parts = x_axis(x, 4, 4 + height, f"{label}, logarithmic" if is_log else label)
    step = height / len(ordered)
    for place, (case, (first, last)) in enumerate(ordered):
        start = x(first)
        kind = "range flagged" if case in flagged else "range c0"
        tooltip = f"{case}: {first:.4g} to {last:.4g}"
        parts.append(rectangle(start, 4 + place * step, max(x(last) - start, 1.0), max(0.8 * step, 0.5), kind, tooltip))
    return Figure(title, chart(parts, height + 42, f"{title}: {len(ordered)} cases from {low:.4g} to {high:.4g}"))


def _rows(names: Sequence[str]) -> tuple[float, list[float], float]:
    """Left end of the rows, their middles, and the position of the axis below them."""
    middles = [4 + ROW_HEIGHT * (place + 0.5) for place in range(len(names))]
    return name_margin(names), middles, 4 + ROW_HEIGHT * max(len(names), 1)


def _scale(values: Sequence[float], left: float, bounds: tuple[float, float] | None) -> Scale:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if bounds is not None:
        scale = linear_scale(low, max(high, low + 0.02 * (bounds[1] - bounds[0])), left, ROWS_RIGHT, max_ticks=5)
        return Scale(max(scale.low, bounds[0]), min(scale.high, bounds[1]), left, ROWS_RIGHT)
    if low > 0 and high / low > LOG_RATIO:
        return log_scale(low, high, left, ROWS_RIGHT)
    return linear_scale(0.0 if 0 <= low < 0.5 * high else low, high, left, ROWS_RIGHT, max_ticks=5)


def _box(row: BoxRow, x: Scale, middle: float) -> list[Markup]:
    if not row.values:
        return []
    colour = series_class(row.series)
    (statistics,) = boxplot_stats(list(row.values.values()), whis=WHISKER)
    low, first, median, third, high = (float(statistics[key]) for key in ("whislo", "q1", "med", "q3", "whishi"))
    many = len(row.values) > MAX_DOTS
    shown = {case: value for case, value in row.values.items() if not many or not low <= value <= high}
    parts = [
        line(x(low), middle, x(high), middle, f"whisker {colour}"),
        rectangle(x(first), middle - 8, x(third) - x(first), 16, f"box {colour}"),
    ]
    for place, (case, value) in enumerate(sorted(shown.items())):
        lane = middle + (place % NUM_LANES - NUM_LANES // 2) * 2.4
        parts.append(dot(x(value), lane, 1.7, f"point {colour}", f"{case}: {value:.4g}"))
    parts.append(line(x(median), middle - 9, x(median), middle + 9, f"median {colour}"))
    return parts
