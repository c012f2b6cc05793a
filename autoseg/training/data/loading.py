"""Batches for training and validation, read and augmented here or in worker processes (`workers`).

Sample i of batch n is drawn from a generator seeded with (seed, stream, n, i) alone, so it is the same in a resumed
run, for any number of workers, and in whichever training process it lands. Called by the training loop, once for each
of its two streams.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.errors import TrainingError
from autoseg.imaging.arrays.labels import Locations
from autoseg.imaging.arrays.storage import StoredCase
from autoseg.networks.device_types import device_type
from autoseg.records.case import Triple
from autoseg.records.dataset import LabelEncoding
from autoseg.records.mirrored_sides import find_training_swap
from autoseg.records.partial_labels import code_labels, count_indices, find_set, heads_of_set
from autoseg.records.plan import Configuration, count_presence_planes, count_slices
from autoseg.system import count_cores
from autoseg.training.data.augmentation.compose import compose_transforms
from autoseg.training.data.augmentation.on_device import build_device_augmentation
from autoseg.training.data.augmentation.spatial import draw_affine, mirror_labels, read_label_patch, read_patch
from autoseg.training.data.batch import Batch, BatchStream, DrawnBatch
from autoseg.training.data.sampling import (
    SliceableArray,
    SliceableLabels,
    draw_case_of_sets,
    draw_case_with_foreground,
    draw_centre_voxel,
    draw_patch_corner,
    forced_fraction,
    group_cases_by_set,
    is_forced_foreground,
    list_cases_by_head,
)
from autoseg.training.data.soft_labels import DrawnArray, SoftLabels
from autoseg.training.data.workers import deliver
from autoseg.training.losses.maps import MAPS, count_map_classes, make_maps

LABEL_BYTES = 2
"""Per voxel of a label map."""

MAX_WORKERS = 12
"""Processes that prepare batches, unless a user asks for more."""


@dataclass(frozen=True)
class TrainingCase:
    """What the loader needs of a preprocessed case."""

    case_id: str
    array: SliceableArray
    """(C + 1, Z, Y, X) float32, in memory or on disk; label indices last, -1 outside the nonzero mask."""
    locations: Mapping[int, Locations]
    """Foreground voxels by head."""
    annotated: Locations | None
    """Locations without the ignore label; None for a dataset without one."""
    previous: SliceableLabels | None = None
    """Label indices by the cascade's previous configuration, on the array's grid."""
    soft: SoftLabels | None = None
    """Labels of a teacher, instead of the array's own, for a case without reference; None: it has one."""
    targets: NDArray[np.int16] | None = None
    """Target by label index, and last that of -1, in a case in which some labels were not looked for, see
    `records.partial_labels`; None: the label indices themselves."""
    absent_channels: tuple[int, ...] = ()
    """Numbers of the channels that the case lacks."""

    def presence(self) -> NDArray[np.bool_]:
        """Whether the case has each channel, (C,)."""
        channels = np.arange(self.array.shape[0] - 1)
        return ~np.isin(channels, self.absent_channels)


def default_workers(device: torch.device, *, ranks_here: int = 1) -> int:
    """Processes that prepare batches: a GPU must not wait; on a CPU they would take cores from the network.

    Args:
        device: Where the network is.
        ranks_here: Training processes that share this machine's cores, each with workers of its own.
    """
    if not device_type(device).is_gpu:
        return 0
    return max(1, min(MAX_WORKERS, count_cores() // ranks_here))


def build_loader(
    cases: Sequence[TrainingCase],
    configuration: Configuration,
    encoding: LabelEncoding,
    stream: BatchStream,
    *,
    workers: int,
    start_method: str | None = None,
) -> Generator[Batch, None, None]:
    """Batches without end, in an order that depends on the stream's seed alone.

    Args:
        cases: Made by `training_cases`; all with the same channels, all or none of a cascade.
        configuration: Patch, batch size, foreground fraction, mirror axes, channels with a mask.
        encoding: Labels of the dataset; their number is that of a cascade's additional channels.
        stream: Which batches to make.
        workers: Processes that prepare batches; 0: this process does, when a batch is asked for.
        start_method: How workers are started: `fork`, `forkserver` or `spawn`; None: the best way here. Cases in memory
            are shared with them in any case.

    Returns:
        A generator; close it (`.close()`) to end the workers.

    Raises:
        ValueError: If the stream's share of a batch is empty.
        TrainingError: If there are no cases; while iterating, if a batch cannot be made. The message names the case
            that was being read, also when that happened in a worker.
    """
    if not cases:
        raise TrainingError(
            f"The {'validation' if stream.rules is None else 'training'} part of this fold has no cases. "
            "Preprocess the dataset, or correct splits.json."
        )
    loader = PatchLoader(cases, configuration, encoding, stream)
    if workers == 0:
        return (loader.draw_batch(number) for number in count(loader.first_batch))
    return deliver(loader, workers, start_method)


def training_cases(
    stored: Mapping[str, StoredCase],
    encoding: LabelEncoding,
    *,
    ram_bytes: int,
    previous: Mapping[str, SliceableLabels] | None = None,
    annotated: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[TrainingCase, ...]:
    """Cases in order of their id; arrays and label maps are read into memory if all of them fit.

    Args:
        stored: Stored cases by case id.
        encoding: Tells foreground heads from the background.
        ram_bytes: Largest size of all arrays together.
        previous: Label indices by the cascade's previous configuration, of all cases; None: no cascade.
        annotated: Labels that were looked for, by case; all were in cases that are not listed.
    """
    label_maps = {} if previous is None else {case: previous[case] for case in stored}
    needed = [math.prod(case.array.shape) * case.array.dtype.itemsize for case in stored.values()]
    needed += [math.prod(labels.shape) * LABEL_BYTES for labels in label_maps.values()]
    fits = sum(needed) <= ram_bytes
    foreground = {head for head, spec in enumerate(encoding.heads) if set(spec.indices) != {0}}
    everything = (slice(None),) * 3
    sets = {case: find_set(encoding, (annotated or {}).get(case)) for case in stored}
    heads = {case: foreground & heads_of_set(encoding, number) for case, number in sets.items()}
    return tuple(
        TrainingCase(
            case_id=case,
            array=stored[case].array[:] if fits else stored[case].array,
            locations={head: voxels for head, voxels in stored[case].locations.items() if head in heads[case]},
            annotated=stored[case].annotated,
            previous=label_maps[case][everything] if fits and label_maps else label_maps.get(case),
            targets=np.array(code_labels(encoding, sets[case]), dtype=np.int16) if sets[case] else None,
            absent_channels=stored[case].record.absent_channels,
        )
        for case in sorted(stored)
    )


@dataclass(frozen=True)
class CasePool:
    """Cases among which a case is drawn."""

    cases: tuple[TrainingCase, ...]
    by_head: Mapping[int, Sequence[int]]
    """Positions of the cases that have foreground of a head, where labels are balanced; else empty."""
    by_set: Sequence[Sequence[int]] = ()
    """Positions of the cases in which the same labels were looked for; empty where all were in every case."""


def split_pools(cases: Sequence[TrainingCase], *, by_head: bool, by_set: bool = False) -> tuple[CasePool, ...]:
    """The labelled cases, and those that a teacher labelled, each a pool unless it is empty."""
    parts = [[case for case in cases if (case.soft is None) == is_labelled] for is_labelled in (True, False)]
    return tuple(
        CasePool(
            tuple(part),
            list_cases_by_head([case.locations for case in part]) if by_head else {},
            group_cases_by_set([case.targets for case in part]) if by_set else (),
        )
        for part in parts
        if part
    )


class PatchLoader:
    """Draws, reads and transforms batches; one copy of it lives in every worker."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        configuration: Configuration,
        encoding: LabelEncoding,
        stream: BatchStream,
    ) -> None:
        """Nothing is read yet.

        Args:
            cases: At least one; see `build_loader`.
            configuration: Patch, batch size, foreground fraction, mirror axes, channels with a mask.
            encoding: Labels of the dataset.
            stream: Which batches to make.
        """
        self.cases = cases
        growing, batch_size = stream.growing, configuration.batch_size
        self.forcing = batch_size, configuration.training.foreground_fraction
        self.patch_size = configuration.patch_size
        if growing is not None:
            self.forcing = growing.batch_size, forced_fraction(*self.forcing)
            self.patch_size, batch_size = growing.patch_size, growing.batch_size
        self.samples = stream.share.samples(batch_size)
        self.planned_patch_size = configuration.patch_size
        self.neighbor_slices, self.num_slices = configuration.neighbor_slices, count_slices(configuration)
        self.num_planes = count_presence_planes(configuration)
        depth, height, width = (1, *self.patch_size)[-3:]  # a 2D patch is one slice
        self.box: Triple = (depth, height, width)
        is_balanced = configuration.training.case_sampling == "balanced"
        is_partial = bool(encoding.annotated_sets)
        self.pools = split_pools(cases, by_head=is_balanced or is_partial, by_set=is_partial)
        soft_labels = configuration.training.soft_labels
        self.labelled_fraction = 1.0 if soft_labels is None else soft_labels.labelled_fraction
        self.rules = stream.rules
        num_previous = 0 if cases[0].previous is None else len(encoding.values) - 1
        self.swap = find_training_swap(configuration.training, encoding)
        self.transform = compose_transforms(
            configuration,
            stream.rules,
            num_previous_labels=num_previous,
            intensity_on_device=stream.intensity_on_device,
            swap=self.swap,
        )
        self.seed = stream.seed
        self.first_batch = stream.first_batch
        has_objects = configuration.network.detection is not None
        self.label_type = np.dtype(np.int16) if has_objects else smallest_label_type(encoding)
        num_clicks = num_previous + 1 if num_previous and configuration.clicks is not None else 0
        self.num_appended = num_previous + num_clicks
        self.encoding = encoding
        self.map_shapes = stream.map_shapes
        self.make_map = MAPS[configuration.training.loss] if stream.map_shapes else None
        self.on_device = None
        if stream.rules is not None and stream.intensity_on_device:
            self.on_device = build_device_augmentation(configuration, stream.rules, self.swap)

    def batch_bytes(self) -> int:
        """Size of all arrays of a batch in bytes."""
        voxels = len(self.samples) * math.prod(self.box)
        channels = self.num_slices * (self.cases[0].array.shape[0] - 1) + self.num_appended + self.num_planes
        seeds = len(self.samples) * np.dtype(np.int64).itemsize
        maps = count_map_classes(self.encoding) * sum(math.prod(shape) for shape in self.map_shapes)
        floats = voxels * channels + len(self.samples) * maps
        return floats * np.dtype(np.float32).itemsize + voxels * self.label_type.itemsize + seeds

    def draw_batch(self, number: int) -> Batch:
        """Make a batch by its number.

        Raises:
            TrainingError: If a case cannot be read or a transform fails; the cause is chained.
        """
        generators = [np.random.default_rng([*self.seed, number, sample]) for sample in self.samples]
        places = [
            self._draw_place(generator, forced=is_forced_foreground(sample, *self.forcing))
            for sample, generator in zip(self.samples, generators, strict=True)
        ]
        cases, corners = zip(*places, strict=True)
        return self.make_batch(cases, corners, generators)

    def _draw_place(self, generator: np.random.Generator, *, forced: bool) -> tuple[TrainingCase, Triple]:
        """A case and the lower corner of a patch in it."""
        pool = self.pools[0]
        if len(self.pools) > 1 and generator.random() >= self.labelled_fraction:
            pool = self.pools[1]
        if forced and pool.by_head:
            head, position = draw_case_with_foreground(pool.by_head, generator)
            case = pool.cases[position]
            voxel = draw_centre_voxel({head: case.locations[head]}, None, forced=True, generator=generator)
            return case, draw_patch_corner(case.array.shape[1:], self.box, voxel, generator)
        if pool.by_set:
            case = pool.cases[draw_case_of_sets(pool.by_set, generator)]
        else:
            case = pool.cases[int(generator.integers(len(pool.cases)))]
        return case, self.draw_corner(case, generator, forced=forced)

    def draw_corner(self, case: TrainingCase, generator: np.random.Generator, *, forced: bool) -> Triple:
        """Lower corner of a patch in a case, voxels; `forced`: around foreground, if the case has any."""
        voxel = draw_centre_voxel(case.locations, case.annotated, forced=forced, generator=generator)
        return draw_patch_corner(case.array.shape[1:], self.box, voxel, generator)

    def make_batch(
        self, cases: Sequence[TrainingCase], corners: Sequence[Triple], generators: list[np.random.Generator]
    ) -> Batch:
        """Read patches and transform them.

        Args:
            cases: One per sample.
            corners: Corners of the patches before rotation and scaling, voxels.
            generators: One per sample.

        Raises:
            TrainingError: If a case cannot be read or a transform fails; the cause is chained.
        """
        num_channels = self.num_slices * (cases[0].array.shape[0] - 1)
        image = np.empty((len(cases), num_channels, *self.box), dtype=np.float32)
        label_maps = np.empty((1 if cases[0].previous is None else 2, len(cases), *self.box), dtype=np.int16)
        for sample, (case, corner, generator) in enumerate(zip(cases, corners, generators, strict=True)):
            matrix = None if self.rules is None else draw_affine(self.planned_patch_size, self.rules, generator)
            with self._naming(f"Reading a patch of case {case.case_id}"):
                array = case.array if case.soft is None else DrawnArray(case.array, case.soft, generator)
                read_patch(
                    array, corner, matrix,
                    image=image[sample], labels=label_maps[0, sample], neighbor_slices=self.neighbor_slices,
                )  # fmt: skip
                if case.targets is not None:
                    label_maps[0, sample] = case.targets[label_maps[0, sample]]  # -1 is the index of the last one
                if case.previous is not None:
                    label_maps[1, sample] = read_label_patch(case.previous, corner, matrix, self.box)
        target, *previous = label_maps.reshape(-1, len(cases), *self.patch_size)
        names = [case.case_id for case in cases]
        image = image.reshape(len(cases), num_channels, *self.patch_size)
        drawn = DrawnBatch(image=image, target=target, cases=names, generators=generators)
        if previous:
            drawn["previous"] = previous[0]
        if self.num_planes:
            drawn["presence"] = np.stack([case.presence() for case in cases])
        with self._naming(f"Augmenting patches of the cases {', '.join(names)}"):
            made = self.transform(**drawn)
        batch = Batch(image=made["image"], target=made["target"].astype(self.label_type), cases=names)
        if "seeds" in made:
            batch["seeds"] = made["seeds"]
        if self.make_map is not None:
            target = self._augmented_target(batch)
            batch["maps"] = tuple(make_maps(target, self.encoding, shape, self.make_map) for shape in self.map_shapes)
        return batch

    def _augmented_target(self, batch: Batch) -> NDArray[np.integer]:
        """The target that the loss gets: where the device continues, as its seeds will make it mirror the samples."""
        target = np.maximum(batch["target"], 0)
        if self.on_device is None:
            return target
        for labels, seed in zip(target, batch["seeds"], strict=True):
            axes = self.on_device.draw(np.random.default_rng(seed), labels.ndim).mirrored_axes
            labels[...] = mirror_labels(labels, axes, self.swap)
        return target

    @contextmanager
    def _naming(self, task: str) -> Iterator[None]:
        """Give an error the name of what was being done."""
        try:
            yield
        except Exception as error:
            raise TrainingError(f"{task} failed: {type(error).__name__}: {error}") from error


def smallest_label_type(encoding: LabelEncoding) -> "np.dtype[np.signedinteger]":
    """The smallest type that holds -1 and all targets with that of the ignore label: fewer bytes to hand over."""
    largest = count_indices(encoding) * max(1, len(encoding.annotated_sets)) - 1
    return np.dtype(np.int8 if largest <= np.iinfo(np.int8).max else np.int16)
