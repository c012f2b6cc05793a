"""The sentence about the range of intensities that slices show."""

from autoseg.imaging.arrays.display import Window


def describe_window(window: Window | None) -> str:
    """Range of the grey values, as a sentence."""
    if window is None:
        return "Grey values run from the 0.5th to the 99.5th percentile."
    low, high = window
    return f"Grey values run from {low:.0f} to {high:.0f} HU, a soft-tissue window around the labels."
