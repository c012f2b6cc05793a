"""Paths of a workspace; all are derived from the root, so a workspace can be moved.

Tested in tests/records/test_files.py.
"""

from dataclasses import dataclass
from pathlib import Path

from autoseg.records.files import real_path

EVALUATION_NAME = "evaluation.json"
"""Name of every file with an Evaluation."""

CALIBRATION_NAME = "calibration.json"
"""Name of the file with the CalibrationCounts of a fold."""


@dataclass(frozen=True)
class Workspace:
    """The folder of one run."""

    root: Path

    @property
    def dataset(self) -> Path:
        """File of the DatasetDescription."""
        return self.root / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """File of the Fingerprint."""
        return self.root / "fingerprint.json"

    @property
    def plan(self) -> Path:
        """File of the Plan."""
        return self.root / "plan.json"

    @property
    def splits(self) -> Path:
        """File of the Splits."""
        return self.root / "splits.json"

    @property
    def selection(self) -> Path:
        """File of the Selection."""
        return self.root / "selection.json"

    @property
    def evaluation(self) -> Path:
        """File of the Evaluation of the selected model by cross-validation."""
        return self.root / EVALUATION_NAME

    @property
    def confidence(self) -> Path:
        """File of the ConfidenceReport of the selected model."""
        return self.root / "confidence.json"

    @property
    def suspects(self) -> Path:
        """File of the Suspects among the validation cases of the selected model."""
        return self.root / "suspects.json"

    @property
    def suspects_table(self) -> Path:
        """The same as a table, CSV."""
        return self.root / "suspects.csv"

    @property
    def report(self) -> Path:
        """File of the HTML report."""
        return self.root / "report.html"

    def dataset_folder(self, recorded: str) -> Path:
        """Folder of the dataset, from DatasetDescription.folder; links in the workspace's path are resolved first."""
        return real_path(real_path(self.root) / recorded)

    def preprocessed(self, configuration: str) -> Path:
        """Folder of one configuration's preprocessed cases."""
        return self.root / "preprocessed" / configuration

    @property
    def planning_lock(self) -> Path:
        """Lock of the process that plans."""
        return self.root / "planning.lock"

    @property
    def trials(self) -> "Workspace":
        """Workspace of the trials that decide about a plan: their plan, and while they run their arrays and models."""
        return Workspace(self.root / "trials")

    @property
    def trials_record(self) -> Path:
        """File of the Trials."""
        return self.trials.root / "trials.json"

    @property
    def selection_lock(self) -> Path:
        """Lock of the process that selects."""
        return self.root / "selection.lock"

    def training_lock(self, configuration: str, fold: str) -> Path:
        """Lock of the process that trains a fold."""
        return self.fold(configuration, fold) / "training.lock"

    def provenance(self, command: str) -> Path:
        """File of the Provenance of what a command wrote at the top of the workspace: `plan` or `select`."""
        return self.root / "provenance" / f"{command}.json"

    def fold(self, configuration: str, fold: str) -> Path:
        """Folder of one trained fold; `fold` is an index as text, or `all`."""
        return self.root / "models" / configuration / f"fold_{fold}"

    def validation(self, configurations: tuple[str, ...], fold: str) -> Path:
        """Folder of a fold's validation label maps and their evaluation.json, of one configuration or an ensemble."""
        if len(configurations) == 1:
            return self.fold(configurations[0], fold) / "validation"
        return self.root / "models" / "ensembles" / "+".join(configurations) / f"fold_{fold}"

    def validation_evaluation(self, configurations: tuple[str, ...], fold: str) -> Path:
        """File of the Evaluation of a fold's validation cases."""
        return self.validation(configurations, fold) / EVALUATION_NAME

    def thresholds(self, configurations: tuple[str, ...], fold: str) -> Path:
        """Folder of a fold's validation label maps with thresholds of regions other than one half."""
        folder = self.validation(configurations, fold)
        return (folder.parent if len(configurations) == 1 else folder) / "thresholds"

    def confidence_cases(self, configurations: tuple[str, ...], fold: str) -> Path:
        """Folder of what confidence is learnt from, a file per held-out case of a fold."""
        return self.thresholds(configurations, fold).with_name("confidence")

    def expected_dice(self, configurations: tuple[str, ...], fold: str) -> Path:
        """Folder of a fold's validation label maps that are decided by their expected Dice."""
        return self.thresholds(configurations, fold).with_name("expected_dice")

    @property
    def refinement(self) -> Path:
        """Folder of the boundary refiners, `refiner_<index>.safetensors` and `.json`."""
        return self.root / "models" / "refinement"

    def next_stage(self, configuration: str, fold: str, next_configuration: str) -> Path:
        """Folder of a fold's label maps for its validation cases, on the grid of the next cascade step."""
        return self.fold(configuration, fold) / "next_stage" / next_configuration

    @property
    def unlabelled(self) -> Path:
        """File of the UnlabelledImages that students learn from."""
        return self.root / "unlabelled" / "images.json"

    def unlabelled_arrays(self, configuration: str) -> Path:
        """Folder of the unlabelled images, preprocessed for a configuration."""
        return self.root / "unlabelled" / "images" / configuration

    def soft_labels(self, student: str, fold: str) -> Path:
        """Folder of the labels that the teacher of a fold gives the unlabelled images."""
        return self.root / "unlabelled" / "labels" / student / f"fold_{fold}"

    def student_record(self, student: str) -> Path:
        """File of the StudentRecord: a student and its teacher in cross-validation."""
        return self.root / "unlabelled" / f"{student}.json"

    @property
    def has_training(self) -> bool:
        """Whether any fold is trained, or has begun to be."""
        return any((self.root / "models").glob("*/fold_*/checkpoint_*.json"))

    def trained_folds(self, configuration: str, checkpoint: str = "final") -> tuple[str, ...]:
        """Folds with these weights, `final` or `best`, in order of name."""
        found = (self.root / "models" / configuration).glob(f"fold_*/checkpoint_{checkpoint}.safetensors")
        return tuple(sorted(path.parent.name.removeprefix("fold_") for path in found))
