"""Charts with one horizontal row per name: box plots with points, ranges, and means with intervals.

Tested in tests/report/charts/test_charts.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.cbook import boxplot_stats

from autoseg.report.charts.charts import Figure
from autoseg.report.charts.svg import (
    WIDTH,
    Scale,
    chart,
    dot,
    line,
    linear_scale,
    log_scale,
    name_margin,
    rectangle,
    row_names,
    series_class,
    x_axis,
)
from autoseg.report.numbers import format_interval

ROW_HEIGHT = 26.0
RIGHT = WIDTH - 14.0
MAX_DOTS = 300
"""Points of one row; with more cases, only those outside the whiskers are drawn."""
LOG_RATIO = 50.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""
WHISKER = 1.5
"""Maximum length of a whisker in lengths of its box; Tukey 1977."""
NUM_LANES = 5
"""Vertical positions over which the points of a row are spread, so that equal values remain visible."""


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
    x = linear_scale(min(ends), max(ends), left, RIGHT, max_ticks=5)
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
    x = log_scale(floor, high, left, RIGHT) if is_log else linear_scale(low, high, left, RIGHT)
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
        scale = linear_scale(low, max(high, low + 0.02 * (bounds[1] - bounds[0])), left, RIGHT, max_ticks=5)
        return Scale(max(scale.low, bounds[0]), min(scale.high, bounds[1]), left, RIGHT)
    if low > 0 and high / low > LOG_RATIO:
        return log_scale(low, high, left, RIGHT)
    return linear_scale(0.0 if 0 <= low < 0.5 * high else low, high, left, RIGHT, max_ticks=5)


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
