"""A fold's two streams of batches: which cases, how many processes, what is left to the device."""

from collections.abc import Generator, Sequence

import torch

from autoseg.errors import TrainingError
from autoseg.records.plan import Configuration
from autoseg.system import measure_total_memory
from autoseg.training.data.augmentation.on_device import DeviceAugmentation, build_device_augmentation
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import TRAINING_STREAM, VALIDATION_STREAM, Batch, BatchStream, Share
from autoseg.training.data.loading import TrainingCase, build_loader, training_cases
from autoseg.training.folds.fold import Fold

RAM_FRACTION_FOR_CASES = 0.25
"""Fraction of the memory up to which cases stay in it: then no patch waits for the disk."""

LOADERS = 2
"""That each process keeps cases for: training and validation."""


def augmentation_on_device(configuration: Configuration, device: torch.device) -> DeviceAugmentation | None:
    """What the training loader leaves to the device: nothing to a CPU, which the loader uses as well."""
    return build_device_augmentation(configuration) if device.type == "cuda" else None


def open_training_batches(fold: Fold, first_batch: int) -> Generator[Batch, None, None]:
    """Augmented batches, this process's share of each, from the batch where an earlier run stopped."""
    stream = BatchStream(
        seed=(fold.options.seed, TRAINING_STREAM),
        rules=AugmentationRules(),
        first_batch=first_batch,
        share=Share(fold.ranks.rank, fold.ranks.count),
        intensity_on_device=fold.device.type == "cuda",
    )
    cases = _load_cases(fold, fold.split.training)
    return build_loader(cases, fold.configuration, fold.plan.encoding, stream, workers=fold.workers)


def open_validation_batches(fold: Fold, first_batch: int) -> Generator[Batch, None, None]:
    """Patches of the validation cases as they lie; without such cases the training cases stand in."""
    stream = BatchStream(
        seed=(fold.options.seed, VALIDATION_STREAM),
        rules=None,
        first_batch=first_batch,
        share=Share(fold.ranks.rank, fold.ranks.count),
    )
    cases = _load_cases(fold, fold.split.validation or fold.split.training)
    return build_loader(cases, fold.configuration, fold.plan.encoding, stream, workers=0)


def _load_cases(fold: Fold, cases: Sequence[str]) -> tuple[TrainingCase, ...]:
    """Open cases, and read them into memory where it has room."""
    opened = {case: fold.open_case(case) for case in cases}
    planned = fold.configuration.spacing
    stale = [case for case, stored in opened.items() if stored.record.spacing[-len(planned) :] != planned]
    if stale:
        raise TrainingError(
            f"{fold.preprocessed}: {len(stale)} cases, {stale[0]} first, were preprocessed for another spacing than "
            "the plan's. Run autoseg-plan again with the same workspace."
        )
    return training_cases(opened, fold.plan.encoding, ram_bytes=_bytes_for_cases(fold), previous=fold.previous)


def _bytes_for_cases(fold: Fold) -> int:
    """This machine's share, divided among the loaders of all processes here."""
    return int(RAM_FRACTION_FOR_CASES * measure_total_memory() / (LOADERS * fold.ranks.count_here))
