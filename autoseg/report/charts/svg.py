"""Small charts as inline SVG: scales, axes and marks.

Nothing here names a colour: marks carry the classes of style.css (`c0` to `c6` for series), so one drawing serves
light and dark screens, and text stays text.

Tested in tests/report/charts/test_charts.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator

from autoseg.text import format_tick

WIDTH = 360.0
"""Width of a chart in user units; a phone shows them as CSS pixels."""
NUM_SERIES = 7
SAME = 1e-9
"""Relative and absolute difference below which values count as equal and get an axis around them."""
TICK_STEPS = (1, 2, 2.5, 5, 10)
"""Multiples of a power of ten that ticks of linear axes may be apart."""
CHARACTER_WIDTH = 6.0
"""Width of a character of axis text in user units, slightly above the mean of common fonts."""


@dataclass(frozen=True)
class Scale:
    """Map from values to positions, linear or logarithmic."""

    low: float
    high: float
    start: float
    """Position of `low`, user units."""
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value; values outside the scale are clipped to its ends."""
        low, high, value = (
            (math.log10(self.low), math.log10(self.high), math.log10(max(value, self.low)))
            if self.is_log
            else (self.low, self.high, value)
        )
        fraction = (value - low) / (high - low)
        return self.start + min(max(fraction, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, max_ticks: int = 6) -> list[float]:
        """Round values inside the scale."""
        ticker = LogLocator(numticks=max_ticks) if self.is_log else MaxNLocator(max_ticks, steps=TICK_STEPS)
        slack = SAME * (self.high - self.low)
        found = ticker.tick_values(self.low, self.high)
        ticks = [float(tick) for tick in found if self.low - slack <= tick <= self.high + slack]
        return ticks if len(ticks) > 1 else [self.low, self.high]


def linear_scale(low: float, high: float, start: float, end: float, max_ticks: int = 6) -> Scale:
    """A scale whose ends are round and enclose the values."""
    if high - low <= max(SAME * max(abs(low), abs(high)), SAME):
        low, high = low - max(abs(low), 1.0) / 10, high + max(abs(high), 1.0) / 10
    ticks = MaxNLocator(max_ticks, steps=TICK_STEPS).tick_values(low, high)
    return Scale(float(ticks[0]), float(ticks[-1]), start, end)


def log_scale(low: float, high: float, start: float, end: float) -> Scale:
    """A logarithmic scale between powers of ten that enclose the values.

    Args:
        low: Above 0.
        high: At least `low`.
        start: Position of the lower end.
        end: Position of the upper end.
    """
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    return Scale(10.0**first, 10.0 ** max(last, first + 1), start, end, is_log=True)


def text(x: float, y: float, words: str, *, anchor: str = "middle", classes: str = "") -> Markup:
    """Text at a point; `anchor` is start, middle or end."""
    kind = Markup(' class="{}"').format(classes) if classes else ""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(x, y, anchor, kind, words)


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> Markup:
    """A straight line."""
    return Markup('<path class="{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(classes, x1, y1, x2, y2)


def rectangle(x: float, y: float, width: float, height: float, classes: str, title: str = "") -> Markup:
    """A rectangle; the title is its tooltip."""
    shape = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"').format(
        classes, x, y, max(width, 0.0), max(height, 0.0)
    )
    return shape + (Markup("><title>{}</title></rect>").format(title) if title else Markup("/>"))


def dot(x: float, y: float, radius: float, classes: str, title: str = "") -> Markup:
    """A point; the title is its tooltip."""
    shape = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"').format(classes, x, y, radius)
    return shape + (Markup("><title>{}</title></circle>").format(title) if title else Markup("/>"))


def polyline(points: Sequence[tuple[float, float] | None], classes: str) -> Markup:
    """A line through points; None interrupts it."""
    parts, pen_is_down = [], False
    for point in points:
        if point is not None:
            parts.append(f"{'L' if pen_is_down else 'M'}{point[0]:.1f} {point[1]:.1f}")
        pen_is_down = point is not None
    return Markup('<path class="{}" d="{}"/>').format(classes, "".join(parts))


def x_axis(scale: Scale, top: float, bottom: float, label: str) -> list[Markup]:
    """Vertical grid lines, with their numbers and the label of the axis below."""
    parts = []
    for tick in scale.ticks():
        parts.append(line(scale(tick), top, scale(tick), bottom, "grid"))
        parts.append(text(scale(tick), bottom + 14, format_tick(tick)))
    parts.append(text((scale.start + scale.end) / 2, bottom + 30, label, classes="label"))
    return parts


def y_axis(scale: Scale, left: float, right: float) -> list[Markup]:
    """Horizontal grid lines, with their numbers on the left."""
    parts = []
    for tick in scale.ticks(5):
        parts.append(line(left, scale(tick), right, scale(tick), "grid"))
        parts.append(text(left - 6, scale(tick) + 3.5, format_tick(tick), anchor="end"))
    return parts


def row_names(names: Sequence[str], middles: Sequence[float], left: float) -> list[Markup]:
    """Names of horizontal rows, cut where they do not fit; the tooltip has the whole name."""
    fitting = max(int((left - 8) / CHARACTER_WIDTH), 3)
    parts = []
    for name, middle in zip(names, middles, strict=True):
        shown = name if len(name) <= fitting else f"{name[: fitting - 1]}…"
        words = Markup("{}<title>{}</title>").format(shown, name)
        parts.append(text(left - 8, middle + 3.5, words, anchor="end"))
    return parts


def name_margin(names: Sequence[str]) -> float:
    """Width of the margin for names of rows, user units."""
    return min(max(CHARACTER_WIDTH * max(map(len, names), default=0) + 12, 40.0), 130.0)


def chart(parts: Sequence[Markup], height: float, description: str) -> Markup:
    """The complete drawing; the description is the text for screen readers."""
    start = Markup('<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">').format(
        WIDTH, height, description
    )
    return start + Markup("").join(parts) + Markup("</svg>")


def series_class(position: int) -> str:
    """CSS class of the colour of a series; colours repeat after NUM_SERIES."""
    return f"c{position % NUM_SERIES}"
