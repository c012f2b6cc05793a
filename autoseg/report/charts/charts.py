"""Charts of the page: training curves, histograms, reliability diagrams. All are inline SVG, made by `svg`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from autoseg.report.charts.svg import (
    WIDTH,
    Scale,
    chart,
    dot,
    line,
    linear_scale,
    polyline,
    rectangle,
    series_class,
    text,
    x_axis,
    y_axis,
)

HEIGHT = 230.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, WIDTH - 12.0, 10.0, HEIGHT - 38.0
"""Borders of the area between the axes, user units."""
MAX_POINTS = 240
"""Points of one curve; longer curves are thinned out, as a chart is only about 300 pixels wide."""


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
