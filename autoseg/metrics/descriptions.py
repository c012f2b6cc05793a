"""Every metric, described once: how it is measured, how missed structures count, and how tables show it.

A new metric is a function in a module of this folder, a field of `LabelScores` (records/evaluation.py) and an entry
here. Scores of cases, their summary, evaluation.json, the CSV file, the tables of the terminal and the report follow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoseg.metrics.detection import PanopticQuality, match_lesions
from autoseg.metrics.surface import (
    SurfaceDistances,
    average_surface_distance,
    hausdorff_distance,
    measure_surfaces,
    surface_dice,
)
from autoseg.records.evaluation import LabelScores

Mask = NDArray[np.bool_]

TableName = Literal["main", "details", "comparison", "page"]
"""`main` and `details` are the terminal's tables of an evaluation, `comparison` that of two; `page` is the report's."""


@dataclass(frozen=True)
class StructurePair:
    """One structure, predicted and in the reference, with what all metrics of it share."""

    prediction: Mask
    """(Z, Y, X), the box around both masks."""
    reference: Mask
    """(Z, Y, X), on the same grid."""
    ignored: Mask | None
    """(Z, Y, X), voxels that do not count and are in neither mask; None when every voxel counts."""
    spacing: Sequence[float]
    """Voxel size in mm, (z, y, x)."""
    tolerance_mm: float
    """Distance within which surfaces are considered equal, mm."""

    @cached_property
    def surfaces(self) -> SurfaceDistances:
        """Distances between both surfaces, measured once for all metrics."""
        return measure_surfaces(self.prediction, self.reference, self.spacing, self.ignored)

    @cached_property
    def lesions(self) -> PanopticQuality:
        """Connected components of both masks, matched once for all metrics."""
        return match_lesions(self.prediction, self.reference)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of a label in a case."""

    name: str
    """Field of `LabelScores`, key in evaluation.json and column of the CSV file."""
    title: str
    """Name for the report."""
    short_title: str = ""
    """Name for the columns of the terminal; empty: the title."""
    unit: Literal["", "mm", "ml"] = ""
    """Unit of the values; distances in mm are in pixels where an image has no spacing."""
    better: Literal["higher", "lower", "near zero"] = "higher"
    """Which values are better; those near zero are shown with their sign."""
    miss: Literal["scored", "worst"] = "scored"
    """What a missed structure or a false alarm counts. `scored`: the metric's own value, such as Dice 0, if it has one.
    `worst`: the metric is undefined there, and `mean_with_misses` takes 0 where higher is better, else the diagonal of
    the image."""
    uses_tolerance: bool = False
    """Whether the value depends on the tolerance, so that only values of one tolerance are averaged."""
    tables: tuple[TableName, ...] = ()
    """Tables that show it; the files have every metric."""
    decimals: int = 3
    """Decimals in the terminal's tables."""
    measure: Callable[[StructurePair], float | None] | None = None
    """Computes the value from both masks; None: it follows from counts of voxels, in `overlap` and `case_scores`."""
    reference: str
    """Source of the definition."""

    def describe(self, unit: str = "mm") -> str:
        """Name with unit for the report, such as `HD95 (mm)`; `unit` is that of distances."""
        shown = unit if self.unit == "mm" else self.unit
        return f"{self.title} ({shown})" if shown else self.title

    def column(self, unit: str = "mm") -> str:
        """Name with unit for the terminal, such as `HD95 mm`; `unit` is that of distances."""
        shown = unit if self.unit == "mm" else self.unit
        return " ".join(part for part in (self.short_title or self.title, shown) if part)


METRICS = (
    Metric(
        name="dice",
        title="Dice",
        tables=("main", "comparison", "page"),
        reference="Dice 1945",
    ),
    Metric(
        name="iou",
        title="IoU",
        tables=("main", "comparison", "page"),
        reference="Jaccard 1912",
    ),
    Metric(
        name="hausdorff_95_mm",
        title="HD95",
        unit="mm",
        better="lower",
        miss="worst",
        tables=("main", "comparison", "page"),
        decimals=2,
        measure=lambda pair: hausdorff_distance(pair.surfaces, 0.95),
        reference="Huttenlocher et al. 1993; percentile by area: Nikolov et al. 2018",
    ),
    Metric(
        name="average_surface_distance_mm",
        title="ASSD",
        unit="mm",
        better="lower",
        miss="worst",
        tables=("main", "comparison", "page"),
        decimals=2,
        measure=lambda pair: average_surface_distance(pair.surfaces),
        reference="Heimann et al. 2009",
    ),
    Metric(
        name="surface_dice",
        title="surface Dice",
        uses_tolerance=True,
        tables=("main", "comparison", "page"),
        measure=lambda pair: surface_dice(pair.surfaces, pair.tolerance_mm),
        reference="Nikolov et al. 2018",
    ),
    Metric(
        name="volume_error_ml",
        title="volume error",
        short_title="volume",
        unit="ml",
        better="near zero",
        tables=("main", "page"),
        reference="predicted minus reference volume",
    ),
    Metric(
        name="precision",
        title="precision",
        miss="worst",
        tables=("details", "page"),
        reference="positive predictive value",
    ),
    Metric(
        name="recall",
        title="recall",
        miss="worst",
        tables=("details", "page"),
        reference="sensitivity",
    ),
    Metric(
        name="volume_overlap_error",
        title="volume overlap error",
        short_title="VOE",
        better="lower",
        tables=("details",),
        reference="Heimann et al. 2009; 1 - IoU, so the report leaves it out",
    ),
    Metric(
        name="relative_volume_difference",
        title="relative volume difference",
        short_title="RVD",
        better="near zero",
        tables=("details", "page"),
        reference="Heimann et al. 2009",
    ),
    Metric(
        name="pixel_accuracy",
        title="pixel accuracy",
        short_title="pixel acc.",
        tables=("details",),
        decimals=4,
        reference="fraction of all voxels that are right; always near 1, so the report leaves it out",
    ),
    Metric(
        name="hausdorff_mm",
        title="Hausdorff",
        short_title="MSD",
        unit="mm",
        better="lower",
        miss="worst",
        tables=("details", "page"),
        decimals=2,
        measure=lambda pair: hausdorff_distance(pair.surfaces),
        reference="Huttenlocher et al. 1993",
    ),
    Metric(
        name="lesion_f1",
        title="lesion F1",
        tables=("details", "page"),
        measure=lambda pair: pair.lesions.recognition_quality,
        reference="recognition quality of Kirillov et al. 2019, of connected components",
    ),
    Metric(
        name="panoptic_quality",
        title="panoptic quality",
        short_title="PQ",
        tables=("details", "comparison", "page"),
        measure=lambda pair: pair.lesions.panoptic_quality,
        reference="Kirillov et al. 2019, of connected components",
    ),
)
"""Every metric, in the order of the tables."""

BY_NAME = {metric.name: metric for metric in METRICS}

NAMES = tuple(field for field in LabelScores.model_fields if field in BY_NAME)
"""Names of all metrics in the order of the files."""


def metrics_of(table: TableName) -> tuple[Metric, ...]:
    """Metrics that a table shows, in its order."""
    return tuple(metric for metric in METRICS if table in metric.tables)
