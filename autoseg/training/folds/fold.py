"""One fold: what is trained and validated, on which cases, with what and where; and its two streams of batches.

Also tested in tests/stages/test_train.py.
"""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from autoseg.errors import TrainingError
from autoseg.imaging.arrays.storage import StoredCase, open_case
from autoseg.imaging.arrays.stored_arrays import Opener, keep_open, open_array
from autoseg.networks.device_types import device_type
from autoseg.networks.threads import ThreadChoice, choose_threads, own_threads
from autoseg.records.checkpoint import hash_of_cases
from autoseg.records.dataset import DatasetDescription, LabelEncoding
from autoseg.records.mirrored_sides import find_training_swap
from autoseg.records.partial_labels import find_never_sought, with_annotated_sets
from autoseg.records.plan import Configuration, Plan, Split, model_hash
from autoseg.records.training import GrowingPatch, TrainingSpec
from autoseg.records.workspace import Workspace
from autoseg.system import ThreadOption, measure_total_memory
from autoseg.text import format_sizes
from autoseg.training.data.augmentation.parameters import choose_rules
from autoseg.training.data.batch import TRAINING_STREAM, VALIDATION_STREAM, Batch, BatchStream, Share
from autoseg.training.data.growth import join_batches
from autoseg.training.data.loading import TrainingCase, build_loader, default_workers, training_cases
from autoseg.training.data.sampling import SliceableLabels
from autoseg.training.distributed import Ranks
from autoseg.training.folds.soft_cases import SoftLabelledCases, load_soft_cases, with_ignored
from autoseg.training.losses.maps import map_shapes
from autoseg.training.options import TrainingOptions

logger = logging.getLogger("autoseg.train")

RAM_FRACTION_FOR_CASES = 0.25
"""Fraction of the memory up to which cases stay in it: then no patch waits for the disk."""

LOADERS = 2
"""Loaders for which each process keeps cases: training and validation."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One configuration on one split of the cases, and what trains and validates it."""

    workspace: Workspace
    dataset: DatasetDescription
    plan: Plan
    configuration_name: str
    configuration: Configuration
    """The plan's configuration, with the user's overrides in its schedule."""
    fold_name: str
    """Index in splits.json as text, or `all`."""
    split: Split
    device: torch.device
    training_precision: torch.dtype
    """Type of autocast in training, float32 for none; validation decides as prediction does, from the options."""
    data_hash: str = ""
    """Hash of the cases' files as they were planned; empty: not known."""
    planned_arrays: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Content hashes that a preprocessed case may have, by case id; a case that is not listed is not checked."""
    options: TrainingOptions = field(default_factory=TrainingOptions)
    ranks: Ranks = field(default_factory=Ranks)
    previous: Mapping[str, SliceableLabels] | None = None
    """Cascade: the previous configuration's label maps by case id, on the preprocessed grids."""
    soft: SoftLabelledCases | None = None
    """Unlabelled images that it is trained on too; None: there are none."""
    previous_origins: tuple[str, ...] = ()
    """Cascade: which weights made those maps; other maps make another training."""
    pretrained: Path | None = None
    """Folder with the weights of another model to start from; None: fresh weights."""
    pretrained_encoder: Mapping[str, torch.Tensor] | None = None
    """Weights of another project's encoder to start from, by the network's names; None: there are none."""

    @property
    def title(self) -> str:
        """Name for logs and plots."""
        return f"{self.configuration_name}, fold {self.fold_name}"

    @property
    def folder(self) -> Path:
        """models/<configuration>/fold_<k>."""
        return self.workspace.fold(self.configuration_name, self.fold_name)

    @property
    def preprocessed(self) -> Path:
        """Folder of the cases' arrays."""
        return self.workspace.preprocessed(self.configuration.preprocessed_as)

    @property
    def validation_folder(self) -> Path:
        """Folder of the validation cases' label maps and scores."""
        return self.workspace.validation((self.configuration_name,), self.fold_name)

    @property
    def last_checkpoint(self) -> Path:
        """Files from which training resumes, without their ending."""
        return self.folder / "checkpoint_last"

    @property
    def starts_afresh(self) -> bool:
        """Whether training begins with the first step: nothing to resume, or nothing that is to be resumed."""
        return self.options.restart or not self.last_checkpoint.with_suffix(".safetensors").exists()

    @property
    def spec(self) -> TrainingSpec:
        """The schedule."""
        return self.configuration.training

    @property
    def never_sought(self) -> tuple[str, ...]:
        """Labels that were looked for in no training case."""
        training = set(self.split.training)
        sets = (files.annotated for files in self.dataset.cases if files.case in training)
        return find_never_sought(self.plan.encoding, sets, find_training_swap(self.spec, self.plan.encoding))

    @property
    def annotated(self) -> dict[str, tuple[str, ...]]:
        """Labels that were looked for, by case; all were in cases that are not listed.

        Labels that no training case looked for count as absent everywhere: left open, they would be found at random.
        """
        partial = {files.case: files.annotated for files in self.dataset.cases if files.annotated is not None}
        unsought = self.never_sought if partial else ()
        return {case: (*names, *unsought) for case, names in partial.items()}

    @property
    def model_hash(self) -> str:
        """Hash of all that the plan says about the model."""
        return model_hash(self.plan, self.configuration_name)

    @property
    def cases_hash(self) -> str:
        """Hash of the training cases' ids, and of the origins of a cascade's label maps and of a teacher's labels."""
        soft_origins = () if self.soft is None else self.soft.origins
        return hash_of_cases(self.split.training, (*self.previous_origins, *soft_origins))

    @property
    def encoding(self) -> LabelEncoding:
        """The plan's labels, with the sets of labels that were looked for in the cases of the dataset.

        Where a teacher labels images, there is an index of voxels that do not count.
        """
        encoding = self.plan.encoding if self.soft is None else with_ignored(self.plan.encoding)
        swap = find_training_swap(self.spec, encoding)
        annotated = self.annotated
        return with_annotated_sets(encoding, (annotated.get(files.case) for files in self.dataset.cases), swap)

    @property
    def workers(self) -> int:
        """Processes that prepare batches for this one."""
        if self.options.workers is not None:
            return self.options.workers
        return default_workers(self.device, ranks_here=self.ranks.count_here)

    def open_case(self, case_id: str, opener: Opener = open_array) -> StoredCase:
        """Open a preprocessed case; its array stays on disk. Arguments as for `storage.open_case`.

        Raises:
            TrainingError: If it was preprocessed again, for another plan or from other files, since training began.
        """
        stored = open_case(self.preprocessed, case_id, opener)
        planned = self.planned_arrays.get(case_id)
        if planned is not None and stored.record.content_hash not in planned:
            raise TrainingError(
                f"{self.preprocessed}: case {case_id} was preprocessed again, for another plan or from other files, "
                f"since the training of {self.title} began. Plan as before and train again with the same command, or "
                "train with --restart."
            )
        return stored


def open_training_batches(
    fold: Fold, first_batch: int, choose: Callable[[int], GrowingPatch | None] = lambda _number: None
) -> Generator[Batch, None, None]:
    """Augmented batches, this process's share of each, from the batch where an earlier run stopped.

    Args:
        fold: The fold.
        first_batch: Number of the first batch.
        choose: Smaller patch of a batch by its number, where patches grow; None: the configuration's own.
    """
    cases = _load_cases(fold, fold.split.training)
    if fold.soft is not None:
        cases += load_soft_cases(fold.soft, fold.plan.encoding, ram_bytes=_bytes_for_cases(fold))

    def open_batches(growing: GrowingPatch | None, first: int) -> Generator[Batch, None, None]:
        if fold.spec.growing_patches:
            trained = growing or fold.configuration
            logger.info(
                "patches of %s voxels, %d per step, from step %d on",
                format_sizes(trained.patch_size), trained.batch_size, first,
            )  # fmt: skip
        stream = _training_stream(fold, growing, first)
        return build_loader(cases, fold.configuration, fold.encoding, stream, workers=fold.workers)

    if not fold.spec.growing_patches:
        return open_batches(None, first_batch)
    return join_batches(choose, open_batches, first_batch)


def _training_stream(fold: Fold, growing: GrowingPatch | None, first_batch: int) -> BatchStream:
    trained = fold.configuration
    if growing is not None:
        trained = trained.model_copy(update={"patch_size": growing.patch_size})
    return BatchStream(
        seed=(fold.options.seed, TRAINING_STREAM),
        rules=choose_rules(fold.configuration.training.contrasts),
        first_batch=first_batch,
        share=Share(fold.ranks.rank, fold.ranks.count),
        intensity_on_device=device_type(fold.device).is_gpu,
        growing=growing,
        map_shapes=map_shapes(trained),
    )


def open_validation_batches(fold: Fold, first_batch: int, *, for_loss: bool = True) -> Generator[Batch, None, None]:
    """Patches of the validation cases, not augmented; of the training cases where no case validates.

    Args:
        fold: The fold.
        first_batch: Number of the first batch.
        for_loss: Whether the loss at full resolution will be computed, for which some losses need maps.
    """
    stream = BatchStream(
        seed=(fold.options.seed, VALIDATION_STREAM),
        rules=None,
        first_batch=first_batch,
        share=Share(fold.ranks.rank, fold.ranks.count),
        map_shapes=map_shapes(fold.configuration)[:1] if for_loss else (),
    )
    cases = _load_cases(fold, fold.split.validation or fold.split.training)
    return build_loader(cases, fold.configuration, fold.encoding, stream, workers=0)


def _load_cases(fold: Fold, cases: Sequence[str]) -> tuple[TrainingCase, ...]:
    """Open cases, and read them into memory where it has room."""
    if fold.configuration.network.detection is not None and fold.encoding.annotated_sets:
        raise TrainingError(
            f"{fold.workspace.dataset}: in some cases only some labels were looked for (`annotated`), and a network "
            "that finds objects one by one needs all of them. Plan with --target labels or border-core."
        )
    opener = keep_open()
    opened = {case: fold.open_case(case, opener) for case in cases}
    planned = fold.configuration.spacing
    stale = [case for case, stored in opened.items() if stored.record.spacing[-len(planned) :] != planned]
    if stale:
        raise TrainingError(
            f"{fold.preprocessed}: {len(stale)} cases, {stale[0]} first, were preprocessed for another spacing than "
            "the plan's. Run autoseg-plan again with the same workspace."
        )
    return training_cases(
        opened,
        fold.encoding,
        ram_bytes=_bytes_for_cases(fold),
        previous=fold.previous,
        annotated=fold.annotated,
    )


def _bytes_for_cases(fold: Fold) -> int:
    """This machine's share, divided among the loaders of all processes here, and between labelled cases and others."""
    parts = LOADERS if fold.soft is None else LOADERS + 1
    return int(RAM_FRACTION_FOR_CASES * measure_total_memory() / (parts * fold.ranks.count_here))


def choose_step_threads(fold: Fold, limit_seconds: float | None) -> ThreadChoice:
    """Threads of training steps, as the user wants; else the fastest number where time ends the training, else all.

    The weights that a seed gives depend on the number of threads. Processes that train together share the cores.

    Args:
        fold: Fold that is trained.
        limit_seconds: Training time; None: the planned steps.
    """
    if fold.ranks.count > 1:
        return own_threads()
    default: ThreadOption = "all" if limit_seconds is None else "auto"
    return choose_threads(fold.options.threads or default, fold.device)
