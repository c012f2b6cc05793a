"""Whether datasets go together, and what they have in common: values of labels, order of channels, names of cases.

Tested in tests/stages/test_merge.py.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.cases import choose_orientation
from autoseg.imaging.formats.reading import read_image
from autoseg.records.dataset import BACKGROUND, IGNORE, CaseFiles, DatasetDescription, LabelValues
from autoseg.text import comparable_name

MAX_SPACING_RATIO = 20.0
"""Ratio of the mean edges of voxels of two datasets from which on a wrong unit is more likely than another scanner:
the next smaller units differ by 10 and 1000, and images of one organ by less than this."""

CASES_OF_GRID = 3
"""Cases of a dataset whose grids are compared with those of the others; describing it has compared them all."""

THICK_RATIO = 2.0
"""Ratio of the largest spacing to the middle one from which on slices are thick."""

_UNNAMED = re.compile(r"label_\d+")
_AXES = ("from foot to head", "from front to back", "from left to right")


@dataclass(frozen=True)
class CommonLabels:
    """Labels of merged datasets."""

    labels: dict[str, LabelValues]
    """Value of each label in the merged label maps, background first."""
    names: tuple[Mapping[str, str], ...]
    """Name in the merged datasets by own name, of each dataset."""
    values: tuple[Mapping[int, int], ...]
    """Value in the merged label maps by own value, of each dataset."""


def match_labels(datasets: Sequence[DatasetDescription], renamed: Mapping[str, str]) -> CommonLabels:
    """Common names and values of labels: capitals, blanks and hyphens make no difference.

    The first dataset keeps its values; further labels get the next ones. Regions are merged only if every dataset
    defines the same ones.

    Args:
        datasets: At least two.
        renamed: Names in the merged datasets by names in any of them.

    Raises:
        DatasetError: If labels have no names, regions differ, or a name to rename is not there.
    """
    for dataset in datasets:
        _check_named(dataset)
    unknown = renamed.keys() - {name for dataset in datasets for name in dataset.labels}
    if unknown:
        known = sorted({name for dataset in datasets for name in _foreground(dataset)})
        raise DatasetError(f"--rename {min(unknown)}: no dataset has this label; expected one of {', '.join(known)}")
    labels: dict[str, LabelValues] = {BACKGROUND: 0}
    names: list[dict[str, str]] = []
    spelled: dict[str, str] = {}
    for dataset in datasets:
        own = {name: spelled.setdefault(comparable_name(renamed.get(name, name)), renamed.get(name, name))
               for name in _foreground(dataset)}  # fmt: skip
        twice = [name for name, count in Counter(own.values()).items() if count > 1]
        if twice:
            raise DatasetError(f"{dataset.folder}: two labels would be called {twice[0]!r}; give them different names")
        names.append(own)
    if any(isinstance(value, tuple) for dataset in datasets for value in dataset.labels.values()):
        return _same_regions(datasets, names)
    for dataset, own in zip(datasets, names, strict=True):
        for name in _foreground(dataset):
            if own[name] not in labels:
                value = dataset.labels[name]
                labels[own[name]] = value if value not in labels.values() else _next_value(labels)
    if any(IGNORE in dataset.labels for dataset in datasets):
        labels[IGNORE] = _next_value(labels)
    return CommonLabels(labels, tuple(names), tuple(map(_values, datasets, names, [labels] * len(datasets))))


@dataclass(frozen=True)
class CommonChannels:
    """Channels of merged datasets."""

    names: tuple[str, ...]
    positions: tuple[tuple[int | None, ...], ...]
    """Number of each merged channel among the own ones of each dataset; None: it lacks the channel."""


def match_channels(datasets: Sequence[DatasetDescription], *, may_lack: bool = False) -> CommonChannels:
    """Channels of all datasets, those of the first one first, matched by name.

    Args:
        datasets: At least two.
        may_lack: Whether a dataset may lack channels that another one has.

    Raises:
        DatasetError: If a dataset has other channels, or its images hold several that are in another order.
    """
    spelled: dict[str, str] = {}
    for dataset in datasets if may_lack else datasets[:1]:
        for name in dataset.channel_names:
            spelled.setdefault(comparable_name(name), name)
    first, positions = datasets[0], []
    for dataset in datasets:
        own = [comparable_name(name) for name in dataset.channel_names]
        if not may_lack and sorted(own) != sorted(spelled):
            raise DatasetError(
                f"{dataset.folder}: has the channels {', '.join(dataset.channel_names)}, and {first.folder} has "
                f"{', '.join(first.channel_names)}; merged datasets have the same channels. If only their names "
                "differ, give the names with --channels; if cases may lack channels, --allow-missing-channels."
            )
        of_dataset = tuple(own.index(word) if word in own else None for word in spelled)
        is_reordered = of_dataset != tuple(range(len(own)))
        if is_reordered and any(len(files.images) + len(files.absent_channels) != len(own) for files in dataset.cases):
            raise DatasetError(
                f"{dataset.folder}: the channels are others, or in another order, than in {first.folder}, and each "
                "image file holds all of them. Store each channel in a file of its own."
            )
        positions.append(of_dataset)
    return CommonChannels(tuple(spelled.values()), tuple(positions))


def merge_images(
    dataset: DatasetDescription, files: CaseFiles, positions: Sequence[int | None]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Absolute paths of the images of a case in the order of the merged channels, and the channels that it lacks."""
    images = [str((Path(dataset.folder) / file).absolute()) for file in files.images]
    if len(images) + len(files.absent_channels) != len(dataset.channel_names):
        return tuple(images), files.absent_channels
    for channel in files.absent_channels:
        images.insert(channel, "")
    merged = ["" if own is None else images[own] for own in positions]
    return tuple(filter(None, merged)), tuple(number for number, image in enumerate(merged) if not image)


def check_grids(datasets: Sequence[DatasetDescription]) -> list[str]:
    """Compare units of spacing, dimensions and orientation of the first cases of each dataset.

    Returns:
        What may be meant and should be looked at, one sentence each.

    Raises:
        DatasetError: If units, dimensions or orientations do not go together.
        ImageFileError: If an image cannot be read.
    """
    first, notes = _Grids.of(datasets[0]), []
    for dataset in datasets[1:]:
        other = _Grids.of(dataset)
        if first.is_flat != other.is_flat:
            flat, deep = (first, other) if first.is_flat else (other, first)
            raise DatasetError(
                f"{flat.folder}: images are single slices, and those of {deep.folder} are volumes; such datasets "
                "cannot be merged."
            )
        if datasets[0].orientation != dataset.orientation or first.has_size != other.has_size:
            lacking, having = (other, first) if first.has_size else (first, other)
            raise DatasetError(
                f"{lacking.folder}: the files do not say how large their voxels are and how they lie, as those of "
                f"{having.folder} do. Convert them to NIfTI with spacing and orientation."
            )
        ratio = max(first.edge_mm / other.edge_mm, other.edge_mm / first.edge_mm)
        if ratio > MAX_SPACING_RATIO and not first.is_flat:
            raise DatasetError(
                f"{dataset.folder}: voxels have edges of {other.edge_mm:.3g} mm on average, those of "
                f"{datasets[0].folder} {first.edge_mm:.3g} mm, {ratio:.0f} times as much or as little. Correct the "
                "unit of the spacing in the headers of one of them."
            )
        if None not in (first.thick, other.thick) and first.thick != other.thick:
            notes.append(
                f"slices of {first.folder} follow each other {_AXES[first.thick or 0]}, those of {other.folder} "
                f"{_AXES[other.thick or 0]}"
            )
    return notes


def name_merged_cases(datasets: Sequence[DatasetDescription]) -> list[dict[str, str]]:
    """Names of the cases by own name, of each dataset: with that of the dataset where two have a case of one name."""
    count = Counter(files.case for dataset in datasets for files in dataset.cases)
    owners = Counter(dataset.name for dataset in datasets)
    found = []
    for number, dataset in enumerate(datasets, start=1):
        owner = re.sub(r"[^\w.-]+", "_", dataset.name) + (f"_{number}" if owners[dataset.name] > 1 else "")
        is_shared = any(count[files.case] > 1 for files in dataset.cases)
        found.append({files.case: f"{owner}_{files.case}" if is_shared else files.case for files in dataset.cases})
    return found


@dataclass(frozen=True)
class _Grids:
    """What the first images of a dataset have in common."""

    folder: str
    is_flat: bool
    """Whether images have one slice."""
    has_size: bool
    """Whether files say how large their voxels are."""
    edge_mm: float
    """Geometric mean of the edges of a voxel."""
    thick: int | None
    """Working axis along which slices are thick; None: along none."""

    @classmethod
    def of(cls, dataset: DatasetDescription) -> "_Grids":
        """Read the first images."""
        volumes = [
            read_image([Path(dataset.folder) / file for file in files.images[:1]])
            for files in dataset.cases[:CASES_OF_GRID]
        ]
        spacings = []
        for volume in volumes:
            axes = choose_orientation(volume.grid, dataset.orientation).axes
            spacings.append([volume.grid.spacing[axis] for axis in axes])
        typical = np.median(spacings, axis=0)
        ordered = np.sort(typical)
        is_thick = ordered[2] >= THICK_RATIO * ordered[1]
        return cls(
            dataset.folder,
            all(min(volume.grid.shape) == 1 for volume in volumes),
            all(volume.has_voxel_size for volume in volumes),
            float(np.exp(np.log(typical).mean())),
            int(np.argmax(typical)) if is_thick else None,
        )


def _check_named(dataset: DatasetDescription) -> None:
    if all(_UNNAMED.fullmatch(name) for name in _foreground(dataset)):
        raise DatasetError(
            f"{dataset.folder}: its labels have no names ({', '.join(_foreground(dataset))}), so it is not known which "
            "of them another dataset has too. Name them with --label-names, once for each dataset, such as "
            "liver=1,spleen=2; - for a dataset that names its own."
        )


def _same_regions(datasets: Sequence[DatasetDescription], names: Sequence[Mapping[str, str]]) -> CommonLabels:
    first = datasets[0]
    for dataset, own in zip(datasets, names, strict=True):
        defined = {own.get(name, name): values for name, values in dataset.labels.items()}
        known = {names[0].get(name, name): values for name, values in first.labels.items()}
        if defined != known or dataset.encoding.values != first.encoding.values:
            raise DatasetError(
                f"{dataset.folder}: its regions are not those of {first.folder}; datasets with regions, or with labels "
                "that overlap, can be merged only if all define the same ones with the same values."
            )
    labels: dict[str, LabelValues] = {names[0].get(name, name): values for name, values in first.labels.items()}
    kept = {value: value for value in first.encoding.values}
    if first.encoding.ignore_value is not None:
        kept[first.encoding.ignore_value] = first.encoding.ignore_value
    return CommonLabels(labels, tuple(names), (kept,) * len(datasets))


def _values(dataset: DatasetDescription, names: Mapping[str, str], labels: Mapping[str, LabelValues]) -> dict[int, int]:
    """Common value by own value; regions are not among them."""
    own = {value: names.get(name, name) for name, value in dataset.labels.items() if isinstance(value, int)}
    return {value: common for value, name in own.items() if isinstance(common := labels[name], int)}


def _foreground(dataset: DatasetDescription) -> list[str]:
    return [name for name in dataset.labels if name not in (BACKGROUND, IGNORE)]


def _next_value(labels: Mapping[str, LabelValues]) -> int:
    return 1 + max(value for value in labels.values() if isinstance(value, int))
