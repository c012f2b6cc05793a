"""`instances.csv`: position, size and mean probability of each instance of each case.

One row per case and instance, in the order of case names and, within a case, of the numbers in its instance map.
"""

from collections.abc import Sequence
from pathlib import Path

from autoseg.inference.files.case_table import CaseTable
from autoseg.records.prediction import Instance

INSTANCES_FILE = "instances.csv"

_COLUMNS = (
    "case", "id", "label", "value", "voxels", "volume_mm3", "mean_probability", "touches_border",
    "center_z", "center_y", "center_x", "center_x_mm", "center_y_mm", "center_z_mm",
    "start_z", "start_y", "start_x", "stop_z", "stop_y", "stop_x",
)  # fmt: skip


def instance_table(path: Path) -> CaseTable:
    """The table of instances in a file, which need not exist.

    Raises:
        UsageError: If the file exists and is not a table of instances.
    """
    return CaseTable(path, _COLUMNS, "instances")


def instance_rows(case: str, instances: Sequence[Instance]) -> list[tuple[str, ...]]:
    """Cells of the rows of one case."""
    return [_cells(case, instance) for instance in instances]


def _cells(case: str, instance: Instance) -> tuple[str, ...]:
    world = instance.center_mm
    return (
        case,
        str(instance.id),
        instance.label,
        str(instance.value),
        str(instance.voxels),
        "" if instance.volume_mm3 is None else f"{instance.volume_mm3:.7g}",
        "" if instance.mean_probability is None else f"{instance.mean_probability:.4f}",
        "yes" if instance.touches_border else "no",
        *(f"{position:.2f}" for position in instance.center),
        *(("",) * 3 if world is None else (f"{position:.3f}" for position in world)),
        *map(str, instance.start),
        *map(str, instance.stop),
    )
