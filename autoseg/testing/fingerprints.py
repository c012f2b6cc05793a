"""Fingerprints of datasets that do not exist.

Tested in tests/test_testing.py.
"""

from collections.abc import Sequence

from autoseg.records.case import Spacing, Triple
from autoseg.records.dataset import Head, LabelEncoding, LabelValues
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics

INTENSITIES = IntensityStatistics(
    mean=90.0, median=88.0, std=31.0, minimum=-40.0, maximum=300.0, percentile_00_5=-10.0, percentile_99_5=240.0
)


def synthetic_fingerprint(
    spacings: Sequence[Spacing],
    shapes: Sequence[Triple],
    *,
    channel_names: Sequence[str] = ("MR",),
    label_values: Sequence[int] = (0, 1),
    regions: bool = False,
    ignore: bool = False,
) -> Fingerprint:
    """A fingerprint of cases that do not exist.

    Args:
        spacings: Spacing of each case in mm, (z, y, x).
        shapes: Shape of each case after cropping in voxels, (z, y, x).
        channel_names: Names in channel order.
        label_values: Values in the files, ascending, background first, the ignore label not.
        regions: Labels are nested regions: each one holds all labels after it.
        ignore: Add an ignore label, the largest value.
    """
    values = tuple(label_values)
    ignore_value = values[-1] + 1 if ignore else None
    return Fingerprint(
        dataset_name="synthetic",
        channel_names=tuple(channel_names),
        labels=_synthetic_labels(values, ignore_value, regions=regions),
        encoding=_synthetic_encoding(values, ignore_value, regions=regions),
        orientation="canonical",
        cases=tuple(
            CaseFingerprint(
                case=f"case_{index:04d}",
                shape=shape,
                cropped_shape=shape,
                spacing=spacing,
                channel_ranges=((INTENSITIES.minimum, INTENSITIES.maximum),) * len(channel_names),
                labels={},
                content_hash=f"{index:08x}",
            )
            for index, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
        ),
        intensities=(INTENSITIES,) * len(channel_names),
        median_cropped_fraction=1.0,
    )


def _synthetic_labels(values: tuple[int, ...], ignore_value: int | None, *, regions: bool) -> dict[str, LabelValues]:
    labels: dict[str, LabelValues] = {"background": values[0]}
    for index, value in enumerate(values[1:], start=1):
        inner = values[index:]
        labels[f"label{index}"] = inner if regions and len(inner) > 1 else value
    return labels if ignore_value is None else labels | {"ignore": ignore_value}


def _synthetic_encoding(values: tuple[int, ...], ignore_value: int | None, *, regions: bool) -> LabelEncoding:
    heads = [] if regions else [Head(name="background", indices=(0,), painted_index=0)]
    for index in range(1, len(values)):
        indices = tuple(range(index, len(values))) if regions else (index,)
        heads.append(Head(name=f"label{index}", indices=indices, painted_index=index))
    return LabelEncoding(
        values=values,
        ignore_value=ignore_value,
        activation="sigmoid" if regions else "softmax",
        heads=tuple(heads),
    )
