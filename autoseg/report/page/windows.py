"""The range of intensities that slices show: a soft-tissue window around the labels for CT, else that of each slice."""

from autoseg.records.plan import Plan
from autoseg.report.charts.slices import Window

HALF_WIDTH_HU = 200.0
"""Half of the width of the usual soft-tissue window, 400 HU."""

MIN_RANGE_HU = 20.0
"""Range of the labels' intensities below which a channel that is called CT does not hold Hounsfield units: the noise
of a scan alone has more."""


def choose_window(plan: Plan | None) -> Window | None:
    """Soft-tissue window around the mean of the labels, wider where the labels' own intensities are.

    Only where the plan treats the first channel, which is the one that slices show, as CT; None for the percentiles of
    each slice.
    """
    if plan is None or not plan.configurations:
        return None
    channel = next(iter(plan.configurations.values())).normalization[0]
    if channel.scheme != "ct" or channel.upper - channel.lower < MIN_RANGE_HU:
        return None
    return min(channel.mean - HALF_WIDTH_HU, channel.lower), max(channel.mean + HALF_WIDTH_HU, channel.upper)


def describe_window(window: Window | None) -> str:
    """Range of the grey values, as a sentence."""
    if window is None:
        return "Grey values run from the 0.5th to the 99.5th percentile."
    low, high = window
    return f"Grey values run from {low:.0f} to {high:.0f} HU, a soft-tissue window around the labels."
