"""What an earlier training left in a fold's folder: whether it still holds, and how to be rid of it."""

from pathlib import Path

from autoseg.errors import TrainingError
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.training.fold_training import FoldTraining


def finished_earlier(fold: FoldTraining) -> Checkpoint | None:
    """The final checkpoint of a fold that has nothing left to do: validated, and no more steps or time are asked for.

    Raises:
        TrainingError: If there is a final checkpoint, but of another plan or other training cases.
    """
    path = fold.folder / "checkpoint_final.json"
    validated = (fold.folder / "validation" / "evaluation.json").exists() or not fold.split.validation
    if not path.exists() or not validated:
        return None
    checkpoint = read_record(Checkpoint, path)
    if (checkpoint.model_hash, checkpoint.cases_hash) != (fold.model_hash, fold.cases_hash):
        raise TrainingError(
            f"{path}: belongs to another plan or other training cases; the workspace was planned anew since this fold "
            "was trained. Train with --restart, or plan into another workspace (-w)."
        )
    asked, promised = fold.spec.time_per_fold_seconds, checkpoint.training.time_per_fold_seconds
    if asked is None:
        return checkpoint if checkpoint.step >= fold.spec.epochs * fold.spec.steps_per_epoch else None
    return checkpoint if promised is not None and promised >= asked else None


def forget_results(folder: Path, *, everything: bool) -> None:
    """Remove what a new or longer training makes untrue: the scores; on a restart, checkpoints and history too."""
    outdated = [folder / "validation" / "evaluation.json"]
    if everything:
        outdated += [*folder.glob("checkpoint_*"), *folder.glob("validation/*"), folder / "history.jsonl"]
    for path in outdated:
        path.unlink(missing_ok=True)
