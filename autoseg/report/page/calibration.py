"""Calibration: predicted probabilities compared with how often voxels have the label."""

from collections.abc import Sequence
from functools import reduce

from markupsafe import Markup

from autoseg.records.calibration import CalibrationCounts
from autoseg.records.workspace import Workspace
from autoseg.report.charts.charts import Figure, draw_reliability
from autoseg.report.page.templates import render_template
from autoseg.report.page.validation import add_counts, read_calibration
from autoseg.text import Row

MAX_ROWS = 30
"""Labels of a configuration in the table, the worst calibrated first."""


def render_calibration(workspace: Workspace, models: Sequence[tuple[str, Sequence[str]]]) -> Markup:
    """A reliability diagram per configuration over all labels, and the calibration error of each label.

    Args:
        workspace: Workspace with validated folds.
        models: Names of configurations, each with the names of its folds.
    """
    figures: list[Figure] = []
    rows: list[Row] = []
    missing: list[str] = []
    for name, folds in models:
        by_label = {
            label: counts for label, counts in read_calibration(workspace, name, folds).items() if sum(counts.voxels)
        }
        if not by_label:
            missing.append(name)
            continue
        together = reduce(add_counts, by_label.values())
        figures.append(_draw(name, together))
        if len(by_label) > 1:
            rows.append((name, "all labels", f"{expected_calibration_error(together):.3f}", _describe_bias(together)))
        ranked = sorted(by_label.items(), key=lambda pair: -expected_calibration_error(pair[1]))[:MAX_ROWS]
        rows += [
            (name, label, f"{expected_calibration_error(counts):.3f}", _describe_bias(counts))
            for label, counts in ranked
        ]
    return render_template("calibration.html", figures=figures, rows=rows, missing=missing)


def expected_calibration_error(counts: CalibrationCounts) -> float:
    """Mean over voxels of the gap between the mean probability of a bin and the fraction of its voxels with the label.

    Args:
        counts: Counts with at least one voxel.

    Returns:
        A fraction in [0, 1]; 0 is perfect.

    References:
        Naeini et al. 2015, expected calibration error; per class as in Kull et al. 2019.
    """
    gaps = (abs(total - observed) for total, observed in zip(counts.probability_sums, counts.label_voxels, strict=True))
    return sum(gaps) / sum(counts.voxels)


def _describe_bias(counts: CalibrationCounts) -> str:
    """Direction of the error at probabilities above one half, where voxels usually get the label."""
    half = len(counts.voxels) // 2
    surplus = sum(counts.probability_sums[half:]) - sum(counts.label_voxels[half:])
    bias = surplus / max(sum(counts.voxels[half:]), 1)
    if abs(bias) < 0.01:
        return "correct to within 1 %"
    return f"{'over' if bias > 0 else 'under'}confident by {abs(bias):.1%}"


def _draw(name: str, counts: CalibrationCounts) -> Figure:
    filled = [place for place, voxels in enumerate(counts.voxels) if voxels]
    error = expected_calibration_error(counts)
    return draw_reliability(
        f"{name}: expected calibration error {error:.3f}",
        [counts.probability_sums[place] / counts.voxels[place] for place in filled],
        [counts.label_voxels[place] / counts.voxels[place] for place in filled],
        [counts.voxels[place] for place in filled],
        f"expected calibration error {error:.3f} over {sum(counts.voxels):,} voxels",
    )
