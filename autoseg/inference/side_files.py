"""What a run over files writes beside each label map, and what it reports of each case."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.imaging.reading import Template, read_image, read_label_map, split_ending
from autoseg.imaging.writing import write_label_map, write_share_map
from autoseg.inference.label_colors import name_label_values, with_label_table
from autoseg.inference.label_statistics import LabelStatistics, measure_labels
from autoseg.inference.outputs import OutputFile
from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import Plan
from autoseg.records.prediction import Prediction

UNCERTAINTY = "uncertainty"
DISAGREEMENT = "disagreement"


@dataclass(frozen=True, kw_only=True)
class OutputChoices:
    """What is wanted beside label maps."""

    probabilities: bool = False
    """`CASE_probabilities.b2nd`."""
    statistics: bool = False
    """`statistics.csv`."""
    colors: bool = False
    """Colour tables, and names inside NIfTI label maps."""
    uncertainty: bool = False
    """`CASE_uncertainty.ext` and, of several folds, `CASE_disagreement.ext`."""


@dataclass(frozen=True)
class CaseOutcome:
    """What came of one case."""

    error: str = ""
    """Why there is no label map; empty when there is one."""
    notes: tuple[str, ...] = ()
    """What the reader assumed, and how the image departs from the training images; one sentence each."""
    statistics: tuple[LabelStatistics, ...] = ()
    """Only when asked for."""


def write_maps(
    prediction: Prediction, template: Template, file: OutputFile, encoding: LabelEncoding, *, colors: bool
) -> None:
    """Write a case's maps; the label map comes last, for its presence says that the case is done.

    Args:
        prediction: Of the image; its uncertainty and disagreement are written if it has them.
        template: Of the image.
        file: Where the label map goes.
        encoding: Of the model's labels.
        colors: Whether NIfTI label maps carry names and colours.

    Raises:
        ImageFileError: If a map cannot be written.
    """
    for kind, shares in ((UNCERTAINTY, prediction.uncertainty), (DISAGREEMENT, prediction.disagreement)):
        if shares is not None:
            write_share_map(shares, template, share_map_path(file, kind))
    if colors:
        template = with_label_table(template, name_label_values(encoding), encoding.values[0])
    write_label_map(prediction.labels, template, file.target)


def share_map_path(file: OutputFile, kind: str) -> Path:
    """`CASE_kind`, beside the label map and in its format."""
    return file.target.with_name(f"{file.item.case}_{kind}{split_ending(file.target.name)[1]}")


def measure_written(file: OutputFile, plan: Plan) -> tuple[LabelStatistics, ...]:
    """Statistics of a label map that an earlier run wrote.

    Raises:
        ImageFileError: If image or label map cannot be read.
        ValueError: If they differ in shape, or the label map has values that are no whole numbers.
    """
    volume, labels = read_image(file.item.images), read_label_map(file.target).array[0]
    if labels.shape != volume.grid.shape or labels.dtype.kind not in "ui":
        raise ValueError(f"{file.target}: is no label map of {file.item.images[0]}; predict this case again")
    return measure_labels(file.item.case, labels, volume, plan.labels)


def refuse_clashes(outputs: Sequence[OutputFile], choices: OutputChoices) -> tuple[OutputFile, ...]:
    """Give a fault to each case whose uncertainty would replace an image or a label map of the run."""
    if not choices.uncertainty:
        return tuple(outputs)
    taken = {image.resolve() for file in outputs for image in file.item.images}
    taken |= {file.target.resolve() for file in outputs}
    return tuple(_refuse_clash(file, taken) for file in outputs)


def _refuse_clash(file: OutputFile, taken: set[Path]) -> OutputFile:
    clashes = [path for path in _share_maps(file) if path.resolve() in taken]
    if file.fault or not clashes:
        return file
    fault = f"{clashes[0]}: the uncertainty would overwrite an image or a label map of this run; rename one of them"
    return replace(file, fault=fault)


def _share_maps(file: OutputFile) -> Iterator[Path]:
    return (share_map_path(file, kind) for kind in (UNCERTAINTY, DISAGREEMENT))
