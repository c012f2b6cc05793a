"""Batches for training and validation, read, augmented and delivered by batchgenerators' workers.

Batch n is drawn from a generator seeded with (seed, stream, n) alone, so it is the same in a resumed run and for any
number of workers. Called by the training loop, once for each of its two streams.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue

import numpy as np
import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.transforms.abstract_transforms import Compose

from autoseg.errors import TrainingError
from autoseg.imaging.class_locations import Locations
from autoseg.imaging.storage import StoredCase
from autoseg.records.case import Triple
from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import Configuration
from autoseg.training.augmentation.compose import compose_training_transforms, compose_validation_transforms
from autoseg.training.augmentation.parameters import AugmentationRules
from autoseg.training.augmentation.spatial import draw_affine, read_patch
from autoseg.training.batch import Batch, DrawnBatch
from autoseg.training.sampling import (
    SliceableArray,
    draw_centre_voxel,
    draw_patch_corner,
    is_forced_foreground,
)

TRAINING_STREAM, VALIDATION_STREAM = 0, 1
"""Part of a batch's seed, so that the two loaders of a fold draw different batches."""

BATCHES_AHEAD_PER_WORKER = 2
"""How many finished batches a worker keeps ready: hides one slow batch, bounds memory."""

MOST_WORKERS = 12
"""Processes that prepare batches, unless a user asks for more."""


@dataclass(frozen=True)
class TrainingCase:
    """What the loader needs of a preprocessed case."""

    case: str
    array: SliceableArray
    """(C + 1, Z, Y, X) float32, in memory or on disk; label indices last, -1 outside the nonzero mask."""
    locations: Mapping[int, Locations]
    """Foreground voxels by head."""
    annotated: Locations | None
    """Locations without the ignore label; None for a dataset without one."""


def default_workers(device: torch.device) -> int:
    """Processes that prepare batches: a GPU must not wait; on a CPU they would take cores from the network."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0))) if device.type == "cuda" else 0


def build_loader(
    cases: Mapping[str, StoredCase],
    configuration: Configuration,
    encoding: LabelEncoding,
    *,
    training: bool,
    seed: int,
    workers: int,
    ram_bytes: int,
    start_batch: int = 0,
    rules: AugmentationRules | None = None,
) -> Generator[Batch, None, None]:
    """Batches without end, in an order that depends on the seed alone.

    Args:
        cases: By case id.
        configuration: Patch, batch size, foreground share, mirror axes, channels with a mask.
        encoding: Tells foreground heads from the background.
        training: Augment, and draw from the training stream; else patches as they lie, from the validation stream.
        seed: Of the fold, not negative.
        workers: Processes that prepare batches; 0: this process does, when a batch is asked for.
        ram_bytes: Cases are kept in memory when all of them fit into this, else patches are read from disk.
        start_batch: Number of the first batch, for a resumed run.
        rules: Strength of the augmentation; None: nnU-Net's.

    Returns:
        A generator; close it (`.close()`) to end the workers.

    Raises:
        TrainingError: If there are no cases; while iterating, if a batch cannot be made. The message names the case
            that was being read, also when that happened in a worker.
    """
    if not cases:
        raise TrainingError(
            f"The {'training' if training else 'validation'} part of this fold has no cases. "
            "Preprocess the dataset, or mend splits.json."
        )
    chosen_rules = (rules or AugmentationRules()) if training else None
    failures: SimpleQueue[str] = multiprocessing.SimpleQueue()
    loader = PatchLoader(
        training_cases(cases, encoding, ram_bytes=ram_bytes),
        configuration,
        rules=chosen_rules,
        seed=(seed, TRAINING_STREAM if training else VALIDATION_STREAM),
        first_batch=start_batch,
        stride=max(workers, 1),
        failures=failures,
    )
    if workers == 0:
        return (batch for batch in SingleThreadedAugmenter(loader, None))
    return _deliver(MultiThreadedAugmenter(loader, None, workers, BATCHES_AHEAD_PER_WORKER), failures)


def training_cases(
    stored: Mapping[str, StoredCase], encoding: LabelEncoding, *, ram_bytes: int
) -> tuple[TrainingCase, ...]:
    """Cases in order of their id; their arrays are read into memory if all of them fit.

    Args:
        stored: By case id.
        encoding: Tells foreground heads from the background.
        ram_bytes: Largest size of all arrays together.
    """
    total_bytes = sum(math.prod(case.array.shape) * case.array.dtype.itemsize for case in stored.values())
    foreground = {head for head, spec in enumerate(encoding.heads) if set(spec.indices) != {0}}
    return tuple(
        TrainingCase(
            case=case,
            array=stored[case].array[:] if total_bytes <= ram_bytes else stored[case].array,
            locations={head: voxels for head, voxels in stored[case].locations.items() if head in foreground},
            annotated=stored[case].annotated,
        )
        for case in sorted(stored)
    )


class PatchLoader(SlimDataLoaderBase):  # type: ignore[misc]  # batchgenerators has no type hints
    """Draws, reads and transforms batches; one copy of it lives in every worker."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        configuration: Configuration,
        *,
        rules: AugmentationRules | None,
        seed: tuple[int, ...],
        first_batch: int,
        stride: int,
        failures: SimpleQueue[str],
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            cases: At least one; all with the same channels.
            configuration: See `build_loader`.
            rules: Of the augmentation; None: no augmentation.
            seed: A batch's generator is seeded with these numbers and the batch's.
            first_batch: Number of the first batch.
            stride: Number of loaders that take turns.
            failures: Gets the message of an error, because batchgenerators only prints it.
        """
        super().__init__(cases, configuration.batch_size, stride)
        self.patch_size = configuration.patch_size
        self.foreground_fraction = configuration.training.foreground_fraction
        self.rules = rules
        self.transform = _compose_transforms(configuration, rules)
        self.seed = seed
        self.next_batch = first_batch
        self.stride = stride
        self.failures = failures

    def set_thread_id(self, thread_id: int) -> None:
        """Take this worker's turn in the order of batches; batchgenerators calls it inside the worker."""
        super().set_thread_id(thread_id)
        self.next_batch += thread_id
        # the workers share the cores; without this each of them would use all
        torch.set_num_threads(1)
        _follow_parent()

    def generate_train_batch(self) -> Batch:
        """Make this loader's next batch.

        Raises:
            TrainingError: If a case cannot be read or a transform fails; the cause is chained.
        """
        number = self.next_batch
        self.next_batch += self.stride
        generator = np.random.default_rng([*self.seed, number])
        drawn = self._draw_batch(generator)
        with self._naming(f"Augmenting batch {number} (cases {', '.join(drawn['cases'])})"):
            augmented = self.transform(**drawn)
        return Batch(image=augmented["image"], target=augmented["target"], cases=augmented["cases"])

    def _draw_batch(self, generator: np.random.Generator) -> DrawnBatch:
        num_channels = self._data[0].array.shape[0] - 1
        patch = self._patch_triple()
        image = np.empty((self.batch_size, num_channels, *patch), dtype=np.float32)
        target = np.empty((self.batch_size, *patch), dtype=np.int16)
        chosen = [self._data[index] for index in generator.integers(len(self._data), size=(self.batch_size,))]
        for sample, case in enumerate(chosen):
            voxel = draw_centre_voxel(
                case.locations,
                case.annotated,
                forced=is_forced_foreground(sample, self.batch_size, self.foreground_fraction),
                generator=generator,
            )
            corner = draw_patch_corner(case.array.shape[1:], patch, voxel, generator)
            matrix = None if self.rules is None else draw_affine(self.patch_size, self.rules, generator)
            with self._naming(f"Reading a patch of case {case.case}"):
                read_patch(case.array, corner, matrix, image=image[sample], labels=target[sample])
        return DrawnBatch(
            image=image.reshape(self.batch_size, num_channels, *self.patch_size),
            target=target.reshape(self.batch_size, *self.patch_size),
            cases=[case.case for case in chosen],
            generator=generator,
        )

    def _patch_triple(self) -> Triple:
        """Locations, (z, y, x); a 2D patch is one slice."""
        depth, height, width = (1, *self.patch_size)[-3:]
        return depth, height, width

    @contextmanager
    def _naming(self, task: str) -> Iterator[None]:
        """Give an error the name of what was being done, and carry it across the process border."""
        try:
            yield
        except Exception as error:
            message = f"{task} failed: {type(error).__name__}: {error}"
            self.failures.put(message)
            raise TrainingError(message) from error


def _compose_transforms(configuration: Configuration, rules: AugmentationRules | None) -> Compose:
    if rules is None:
        return compose_validation_transforms()
    return compose_training_transforms(
        configuration.patch_size,
        masked_channels=[channel for channel, spec in enumerate(configuration.normalization) if spec.use_mask],
        mirror_axes=configuration.training.mirror_axes,
        rules=rules,
    )


def _follow_parent() -> None:
    """Let a worker end when it is told to or when its parent is gone, not by the handlers that it inherited."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # a killed parent cannot say more


def _deliver(augmenter: MultiThreadedAugmenter, failures: SimpleQueue[str]) -> Generator[Batch, None, None]:
    """Pass batches on; turn a worker's death into an error that says why; end the workers when closed.

    Raises:
        TrainingError: If a worker failed or was killed.
    """
    try:
        while True:
            try:
                batch: Batch = next(augmenter)
            except RuntimeError as error:
                raise TrainingError(_failure_message(failures)) from error
            yield batch
    finally:
        # batchgenerators has no public way to end its workers
        augmenter._finish()


def _failure_message(failures: SimpleQueue[str]) -> str:
    if failures.empty():
        return (
            "A worker that prepares batches was killed, most often because memory ran out. Use fewer --workers, "
            "or give the machine more memory; training resumes from the last checkpoint."
        )
    return failures.get()
