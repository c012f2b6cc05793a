"""What an earlier training left in a fold's folder: whether it is still valid, and how stale results are removed.

Tested in tests/stages/test_train.py.
"""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from safetensors import SafetensorError

from autoseg.errors import TrainingError
from autoseg.networks.weight_files import is_same_training, read_inner_record, read_weights
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.records.mirrored_sides import mirrored_sides
from autoseg.records.plan import is_model_of
from autoseg.records.training import TrainingSpec
from autoseg.records.workspace import EVALUATION_NAME
from autoseg.training.folds.fold import Fold
from autoseg.training.options import TrainingOptions

logger = logging.getLogger("autoseg.train")

FIXED = ("loss", "optimizer", "mirror_axes", "sides", "weight_average_decay", "seed")
"""Settings that a training keeps from its first step to its last: values of the schedule, and the seed."""

RATES = ("learning_rate", "warmup_fraction")
"""Settings that may change when a training resumes."""


def finished_earlier(fold: Fold) -> Checkpoint | None:
    """The final checkpoint of a fold that is trained to its end: no more steps or time are requested.

    A fold whose final weights are damaged or of another training is not finished: they are made again from the last
    checkpoint.

    Raises:
        TrainingError: If there is a final checkpoint, but of another plan or other training cases, or options ask for
            another training than it had.
    """
    path = fold.folder / "checkpoint_final.json"
    if not path.exists():
        return None
    checkpoint = read_record(Checkpoint, path)
    if fault := find_weights_fault(checkpoint, path.with_suffix(".safetensors")):
        logger.warning("warning: %s; %s is not taken for finished", fault, fold.title)
        return None
    check_same_training(checkpoint, fold, path, names=_asked(fold, FIXED))
    return None if _asks_for_more(fold, checkpoint) else checkpoint


def find_weights_fault(checkpoint: Checkpoint, path: Path) -> str:
    """Why a weights file does not belong to the record beside it, or cannot be read; empty if all is well."""
    try:
        inner = read_inner_record(path)
        read_weights(path)
    except (SafetensorError, OSError, ValueError) as error:
        return f"{path}: the weights cannot be read ({error})"
    if inner is not None and not is_same_training(inner, checkpoint):
        return f"{path}: the weights are those of another training than {path.stem}.json beside them says"
    return ""


def check_same_training(checkpoint: Checkpoint, fold: Fold, path: Path, *, names: Collection[str] = FIXED) -> None:
    """Compare what was trained with what is to be trained.

    Args:
        checkpoint: What was trained.
        fold: What is to be trained.
        path: File of the checkpoint, for the message.
        names: Those of FIXED that have to be the same.

    Raises:
        TrainingError: If it was another plan, other training cases, other files of them, or one of `names` differs.
    """
    is_same_model = is_model_of(fold.plan, fold.configuration_name, checkpoint.model_hash)
    if not is_same_model or checkpoint.cases_hash != fold.cases_hash:
        raise TrainingError(
            f"{path}: belongs to another plan or other training cases (in a cascade: other label maps of its previous "
            "configuration); since this fold was trained, the workspace was planned again, or that configuration was "
            "trained again. "
            "Train with --restart to start over, or plan into another workspace (-w)."
        )
    if checkpoint.data_hash and fold.data_hash and checkpoint.data_hash != fold.data_hash:
        raise TrainingError(
            f"{path}: images or label maps of this fold were changed since it was trained. Train with --restart to "
            "start over."
        )
    differing = [
        f"with {name} {before}, and {now} is requested now" for name, before, now in _compare(checkpoint, fold, names)
    ]
    if differing:
        raise TrainingError(
            f"{path}: was trained {'; '.join(differing)}. Give the options that it was trained with, or --restart to "
            "start over."
        )


def list_ignored(checkpoint: Checkpoint, fold: Fold) -> Iterator[str]:
    """Options that change nothing any more, because the fold has its final weights; one sentence each."""
    for name, before, now in _compare(checkpoint, fold, _asked(fold, RATES)):
        yield f"{name} {now} is ignored: training of the fold is complete, with {before}; --restart trains it again"
    if fold.options.pretrained is not None:
        yield "--pretrained is ignored: training of the fold is complete; --restart trains it again"


def describe_changed_options(checkpoint: Checkpoint, fold: Fold) -> str:
    """Settings with which a fold was trained that differ from those planned and requested now; empty if none does."""
    differing = _compare(checkpoint, fold, (*FIXED, *RATES))
    return ", ".join(f"{name} {before} (now it would be {now})" for name, before, now in differing)


def forget_results(fold: Fold) -> None:
    """Remove what a new or longer training makes outdated: the scores; on a restart, checkpoints and history too."""
    outdated = [fold.validation_folder / EVALUATION_NAME]
    if fold.options.restart:
        outdated += [
            *fold.folder.glob("checkpoint_*"),
            *fold.validation_folder.glob("*"),
            fold.folder / "history.jsonl",
        ]
    for path in outdated:
        path.unlink(missing_ok=True)


def _asks_for_more(fold: Fold, checkpoint: Checkpoint) -> bool:
    asked, promised = fold.spec.time_per_fold_seconds, checkpoint.training.time_per_fold_seconds
    if asked is None:
        return checkpoint.step < fold.spec.epochs * fold.spec.steps_per_epoch
    return promised is None or promised < asked


def _asked(fold: Fold, names: Collection[str]) -> tuple[str, ...]:
    """Those that the user gave an option for; the others are the plan's, or the first seed."""
    nothing = TrainingOptions()
    asked = {name for name, value in vars(nothing).items() if getattr(fold.options, name) != value}
    return tuple(name for name in names if name in asked)


def _compare(checkpoint: Checkpoint, fold: Fold, names: Collection[str]) -> Iterator[tuple[str, object, object]]:
    """Name, value that was trained with and value now, where they differ."""
    for name in names:
        before = checkpoint.seed if name == "seed" else _setting(checkpoint.training, name)
        now = fold.options.seed if name == "seed" else _setting(fold.spec, name)
        if before != now:
            yield name, before, now


def _setting(spec: TrainingSpec, name: str) -> object:
    """A value of the schedule; the sides of an axis that is not mirrored do not matter."""
    return mirrored_sides(spec) if name == "sides" else getattr(spec, name)
