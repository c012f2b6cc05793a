"""Batches for training and validation, read, augmented and delivered by batchgenerators' workers.

Sample i of batch n is drawn from a generator seeded with (seed, stream, n, i) alone, so it is the same in a resumed
run, for any number of workers, and in whichever training process it lands. Called by the training loop, once for each
of its two streams.

Workers are forked, so cases in memory are shared with them; only their own batches add to it. They end with the loader
that is closed, and with their parent.
"""

import logging
import math
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue

import numpy as np
import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from autoseg.errors import TrainingError
from autoseg.imaging.arrays.labels import Locations
from autoseg.imaging.arrays.storage import StoredCase
from autoseg.networks.device_types import device_type
from autoseg.records.case import Triple
from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import Configuration
from autoseg.system import count_cores, leave_signals_to_parent, measure_available_memory
from autoseg.text import format_memory
from autoseg.training.data.augmentation.compose import compose_transforms
from autoseg.training.data.augmentation.spatial import draw_affine, read_label_patch, read_patch
from autoseg.training.data.batch import Batch, BatchStream, DrawnBatch
from autoseg.training.data.sampling import (
    SliceableArray,
    SliceableLabels,
    draw_centre_voxel,
    draw_patch_corner,
    is_forced_foreground,
)

logger = logging.getLogger("autoseg.train")

BATCHES_AHEAD_PER_WORKER = 2
"""How many finished batches a worker keeps ready: hides one slow batch, bounds memory."""

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
) -> Generator[Batch, None, None]:
    """Batches without end, in an order that depends on the stream's seed alone.

    Args:
        cases: Made by `training_cases`; all with the same channels, all or none of a cascade.
        configuration: Patch, batch size, foreground fraction, mirror axes, channels with a mask.
        encoding: Labels of the dataset; their number is that of a cascade's additional channels.
        stream: Which batches to make.
        workers: Processes that prepare batches; 0: this process does, when a batch is asked for.

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
    loader = PatchLoader(cases, configuration, encoding, stream, stride=max(workers, 1))
    if workers == 0:
        return (batch for batch in SingleThreadedAugmenter(loader, None))
    return deliver(loader, workers)


def training_cases(
    stored: Mapping[str, StoredCase],
    encoding: LabelEncoding,
    *,
    ram_bytes: int,
    previous: Mapping[str, SliceableLabels] | None = None,
) -> tuple[TrainingCase, ...]:
    """Cases in order of their id; arrays and label maps are read into memory if all of them fit.

    Args:
        stored: Stored cases by case id.
        encoding: Tells foreground heads from the background.
        ram_bytes: Largest size of all arrays together.
        previous: Label indices by the cascade's previous configuration, of all cases; None: no cascade.
    """
    label_maps = {} if previous is None else {case: previous[case] for case in stored}
    needed = [math.prod(case.array.shape) * case.array.dtype.itemsize for case in stored.values()]
    needed += [math.prod(labels.shape) * LABEL_BYTES for labels in label_maps.values()]
    fits = sum(needed) <= ram_bytes
    foreground = {head for head, spec in enumerate(encoding.heads) if set(spec.indices) != {0}}
    everything = (slice(None),) * 3
    return tuple(
        TrainingCase(
            case_id=case,
            array=stored[case].array[:] if fits else stored[case].array,
            locations={head: voxels for head, voxels in stored[case].locations.items() if head in foreground},
            annotated=stored[case].annotated,
            previous=label_maps[case][everything] if fits and label_maps else label_maps.get(case),
        )
        for case in sorted(stored)
    )


class PatchLoader(SlimDataLoaderBase):  # type: ignore[misc]  # batchgenerators has no type hints
    """Draws, reads and transforms batches; one copy of it lives in every worker."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        configuration: Configuration,
        encoding: LabelEncoding,
        stream: BatchStream,
        *,
        stride: int = 1,
    ) -> None:
        """Nothing is read yet.

        Args:
            cases: At least one; see `build_loader`.
            configuration: Patch, batch size, foreground fraction, mirror axes, channels with a mask.
            encoding: Labels of the dataset.
            stream: Which batches to make.
            stride: Number of loaders that take turns.
        """
        self.samples = stream.share.samples(configuration.batch_size)
        super().__init__(cases, len(self.samples), stride)
        self.patch_size = configuration.patch_size
        depth, height, width = (1, *self.patch_size)[-3:]  # a 2D patch is one slice
        self.box: Triple = (depth, height, width)
        self.forcing = configuration.batch_size, configuration.training.foreground_fraction
        self.rules = stream.rules
        self.transform = compose_transforms(
            configuration,
            stream.rules,
            num_previous_labels=0 if cases[0].previous is None else len(encoding.values) - 1,
            intensity_on_device=stream.intensity_on_device,
        )
        self.seed = stream.seed
        self.next_batch = stream.first_batch
        self.stride = stride
        # batchgenerators only prints a worker's error
        self.failures: SimpleQueue[str] = multiprocessing.SimpleQueue()

    def set_thread_id(self, thread_id: int) -> None:
        """Take this worker's turn in the order of batches; batchgenerators calls it inside the worker."""
        super().set_thread_id(thread_id)
        self.next_batch += thread_id
        # the workers share the cores; without this each of them would use all
        torch.set_num_threads(1)
        # the parent finishes its step, for which it may need one more batch
        leave_signals_to_parent(("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"), partial(os._exit, 1))

    def generate_train_batch(self) -> Batch:
        """Make this loader's next batch.

        Raises:
            TrainingError: If a case cannot be read or a transform fails; the cause is chained.
        """
        number = self.next_batch
        self.next_batch += self.stride
        generators = [np.random.default_rng([*self.seed, number, sample]) for sample in self.samples]
        cases = [self._data[generator.integers(len(self._data))] for generator in generators]
        corners = [
            self.draw_corner(case, generator, forced=is_forced_foreground(sample, *self.forcing))
            for sample, case, generator in zip(self.samples, cases, generators, strict=True)
        ]
        return self.make_batch(cases, corners, generators)

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
        num_channels = cases[0].array.shape[0] - 1
        image = np.empty((len(cases), num_channels, *self.box), dtype=np.float32)
        label_maps = np.empty((1 if cases[0].previous is None else 2, len(cases), *self.box), dtype=np.int16)
        for sample, (case, corner, generator) in enumerate(zip(cases, corners, generators, strict=True)):
            matrix = None if self.rules is None else draw_affine(self.patch_size, self.rules, generator)
            with self._naming(f"Reading a patch of case {case.case_id}"):
                read_patch(case.array, corner, matrix, image=image[sample], labels=label_maps[0, sample])
                if case.previous is not None:
                    label_maps[1, sample] = read_label_patch(case.previous, corner, matrix, self.box)
        target, *previous = label_maps.reshape(-1, len(cases), *self.patch_size)
        names = [case.case_id for case in cases]
        image = image.reshape(len(cases), num_channels, *self.patch_size)
        drawn = DrawnBatch(image=image, target=target, cases=names, generators=generators)
        if previous:
            drawn["previous"] = previous[0]
        with self._naming(f"Augmenting patches of the cases {', '.join(names)}"):
            made = self.transform(**drawn)
        batch = Batch(image=made["image"], target=made["target"], cases=names)
        if "seeds" in made:
            batch["seeds"] = made["seeds"]
        return batch

    @contextmanager
    def _naming(self, task: str) -> Iterator[None]:
        """Give an error the name of what was being done, and carry it across the process border."""
        try:
            yield
        except Exception as error:
            message = f"{task} failed: {type(error).__name__}: {error}"
            self.failures.put(message)
            raise TrainingError(message) from error


def deliver(loader: PatchLoader, workers: int) -> Generator[Batch, None, None]:
    """Pass batches of worker processes on; end the workers when closed.

    When a worker is killed, all of them are started again, once for a batch: batches depend on their numbers alone, so
    the training does not notice.

    Raises:
        TrainingError: If a worker failed, or was killed twice before the next batch came.
    """
    number, killed_before = loader.next_batch, None
    while True:
        loader.next_batch = number
        augmenter = MultiThreadedAugmenter(loader, None, workers, BATCHES_AHEAD_PER_WORKER)
        augmenter.restart()
        processes = list(augmenter._processes)
        try:
            while True:
                batch: Batch = next(augmenter)
                number += 1
                yield batch
        except RuntimeError as error:
            _raise_failure(loader.failures, error)
        finally:
            augmenter._finish()  # batchgenerators has no public way to end its workers
            cause = _cause_of_death(processes)
            for process in processes:
                process.kill()  # one that did not end in time ignores the signal that batchgenerators then sends
        if killed_before == number:
            raise TrainingError(
                f"A worker that prepares batches was killed ({cause}), and a second time for the same batch, most "
                "often because memory ran out. Use fewer --workers, or give the machine more memory; training resumes "
                "from the last checkpoint."
            )
        killed_before = number
        free = measure_available_memory()
        room = "" if free is None else f"; {format_memory(free)} of memory are free"
        logger.warning("a worker that prepares batches was killed (%s)%s; all of them are started again", cause, room)


def _raise_failure(failures: SimpleQueue[str], error: RuntimeError) -> None:
    """Raise what a worker reported before it ended; one that was killed reported nothing."""
    if not failures.empty():
        raise TrainingError(failures.get()) from error


def _cause_of_death(processes: Sequence[BaseProcess]) -> str:
    """Signal or exit code of the first worker that did not end in peace."""
    codes = [process.exitcode for process in processes if process.exitcode]
    if not codes:
        return "exit code unknown"
    return signal.Signals(-codes[0]).name if codes[0] < 0 else f"exit code {codes[0]}"
