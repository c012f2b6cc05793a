"""Facts about the training cases that planning uses.

Tested in tests/stages/test_fingerprint.py.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from autoseg.records.contrast import ChannelContrast
from autoseg.records.dataset import LabelEncoding, LabelValues, OrientationName
from autoseg.records.files import Record
from autoseg.records.names import FileName
from autoseg.records.plan import Split, hash_of

COLOURS = (("r", "g", "b"), ("red", "green", "blue"))
"""Names of the channels of photographs, in lower case."""


class IntensityStatistics(Record):
    """Foreground intensities of one channel over the dataset, every case weighted equally."""

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


class LabelFacts(Record):
    """One label in one case."""

    voxels: int
    volume_mm3: float
    components: int
    """Connected components, full connectivity (26 neighbours in 3D, 8 in 2D)."""
    instance_sizes: tuple[tuple[int, int, int], ...] = Field(default=(), exclude_if=lambda value: not value)
    """Edges (z, y, x) of the boxes around components, or around objects that have numbers, voxels of the case,
    ascending by volume; of many some of all sizes. Empty in older files, and for an absent label."""


class CaseFingerprint(Record):
    """One training case."""

    case: FileName
    shape: tuple[int, int, int]
    """Before cropping, voxels, (z, y, x)."""
    cropped_shape: tuple[int, int, int]
    """After cropping to nonzero, voxels, (z, y, x)."""
    spacing: tuple[float, float, float]
    """mm, (z, y, x)."""
    channel_ranges: tuple[tuple[float, float], ...]
    """Smallest and largest intensity per channel; 0 and 0 for one that the case lacks."""
    absent_channels: tuple[int, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Numbers of the channels that the case lacks, ascending; empty where cases may lack none."""
    labels: dict[str, LabelFacts]
    """Foreground labels and regions by name; absent ones have 0 voxels, those that were not looked for are left out."""
    content_hash: str
    """Hash of all files of the case, to notice changed data."""
    files_state: str = Field(default="", exclude_if=lambda value: value == "")
    """Hash of the sizes and times of change of these files: while it stays, they need not be read to know that they did
    not change. Empty in older files."""


class Fingerprint(Record):
    """The dataset's facts; cases are sorted by id."""

    schema_version: Literal[1] = 1
    dataset_name: str
    channel_names: tuple[str, ...]
    labels: dict[str, LabelValues]
    encoding: LabelEncoding
    orientation: OrientationName
    cases: tuple[CaseFingerprint, ...]
    missing_channels: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether images may lack channels, in training and at prediction."""
    intensities: tuple[IntensityStatistics, ...]
    """One per channel, from the cases that have it."""
    median_cropped_fraction: float
    """Median over cases of (voxels after cropping / voxels before)."""
    contrasts: tuple[ChannelContrast, ...] = Field(default=(), exclude_if=lambda value: not value)
    """One per channel: what an image's intensities are compared with at prediction. Empty in older files."""


def is_photographs(fingerprint: Fingerprint) -> bool:
    """Whether all cases are single slices with the channels red, green and blue."""
    names = tuple(name.casefold() for name in fingerprint.channel_names)
    return names in COLOURS and bool(fingerprint.cases) and all(min(case.shape) == 1 for case in fingerprint.cases)


def data_hash(fingerprint: Fingerprint, split: Split) -> str:
    """Hash of the files of all cases that a fold trains and validates on, as they were when they were planned.

    For a case in which only some labels were looked for, their names belong to it.
    """
    every = {name for case in fingerprint.cases for name in case.labels}
    found = {
        case.case: [case.content_hash, *(sorted(case.labels) if every - case.labels.keys() else ())]
        for case in fingerprint.cases
    }

    def describe(cases: Sequence[str]) -> list[list[str]]:
        return [[case, *found.get(case, [""])] for case in sorted(cases)]

    return hash_of([describe(split.training), describe(split.validation)])
