"""The files that a run writes for each case, and what it reports of each case.

Tested in tests/stages/test_predict.py and tests/cli/test_predict.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoseg.imaging.formats.reading import Template, read_image, read_label_map, split_ending
from autoseg.imaging.formats.writing import write_label_map, write_share_map
from autoseg.inference.files.label_statistics import LabelStatistics, measure_labels
from autoseg.inference.files.outputs import OutputFile
from autoseg.inference.models.label_colors import name_label_values, value_names, with_label_table
from autoseg.inference.predictor.instances import measure_instances
from autoseg.records.dataset import LabelEncoding
from autoseg.records.output_choices import OutputChoices
from autoseg.records.plan import Plan
from autoseg.records.prediction import Instance, Prediction

UNCERTAINTY = "uncertainty"
DISAGREEMENT = "disagreement"
INSTANCES = "instances"

SIDE_MAPS = (UNCERTAINTY, DISAGREEMENT, INSTANCES)
"""Kinds of maps beside a label map, `CASE_kind.ext`."""


@dataclass(frozen=True)
class CaseOutcome:
    """Result of one case of a run: an error, or notes and measurements."""

    error: str = ""
    """Reason why there is no label map; empty if there is one."""
    notes: tuple[str, ...] = ()
    """Assumptions of the reader, and deviations of the image from the training images; one sentence each."""
    statistics: tuple[LabelStatistics, ...] = ()
    """Statistics of the labels, only if asked for."""
    instances: tuple[Instance, ...] | None = None
    """Instances; None: not asked for, or not measured."""


def write_maps(
    prediction: Prediction, template: Template, file: OutputFile, encoding: LabelEncoding, *, colors: bool
) -> None:
    """Write a case's maps; the label map comes last, for its presence says that the case is done.

    Args:
        prediction: Prediction of the image; its uncertainty, disagreement and instances are written if it has them.
        template: Header of the image.
        file: The case and the file of its label map.
        encoding: Label encoding of the model.
        colors: Whether NIfTI label maps carry names and colours.

    Raises:
        ImageFileError: If a map cannot be written.
    """
    for kind, fractions in ((UNCERTAINTY, prediction.uncertainty), (DISAGREEMENT, prediction.disagreement)):
        if fractions is not None:
            write_share_map(fractions, template, side_map_path(file, kind))
    if prediction.instances is not None:
        write_label_map(prediction.instances.ids, template, side_map_path(file, INSTANCES))
    if colors:
        template = with_label_table(template, name_label_values(encoding), encoding.values[0])
    write_label_map(prediction.labels, template, file.target)


def side_map_path(file: OutputFile, kind: str) -> Path:
    """Path of a map `CASE_kind`, beside the label map and in its format."""
    return file.target.with_name(f"{file.item.case}_{kind}{split_ending(file.target.name)[1]}")


def measure_written(file: OutputFile, plan: Plan) -> tuple[LabelStatistics, ...]:
    """Statistics of a label map that an earlier run wrote.

    Raises:
        ImageFileError: If image or label map cannot be read.
        ValueError: If they differ in shape, or values of the label map are not whole numbers.
    """
    volume, labels = read_image(file.item.images), read_label_map(file.target).array[0]
    if labels.shape != volume.grid.shape or labels.dtype.kind not in "ui":
        raise ValueError(f"{file.target}: is not a label map of {file.item.images[0]}; predict this case again")
    return measure_labels(file.item.case, labels, volume, plan.labels)


def measure_written_instances(file: OutputFile, plan: Plan) -> tuple[Instance, ...]:
    """Instances of a map that an earlier run wrote; their mean probabilities are not known any more.

    Raises:
        ImageFileError: If the label map or the map of instances cannot be read.
        ValueError: If they do not belong together.
    """
    path = side_map_path(file, INSTANCES)
    volume, labels = read_label_map(path), read_label_map(file.target).array[0]
    ids = volume.array[0]
    if labels.shape != ids.shape or labels.dtype.kind not in "ui" or ids.dtype.kind not in "ui":
        raise ValueError(f"{path}: is not a map of instances of {file.target}; predict this case again")
    owners = np.zeros(int(ids.max(initial=0)) + 1, dtype=labels.dtype)
    for plane, values in zip(ids, labels, strict=True):
        owners[plane] = values
    names = value_names(plan.encoding)
    unknown = sorted(set(owners[1:].tolist()) - set(names))
    if unknown:
        raise ValueError(f"{path}: instances lie on the values {unknown} of {file.target}; predict this case again")
    is_flat = volume.template.file_dimensions == 2
    return measure_instances(ids, owners[1:].tolist(), names, volume.grid, None, is_flat=is_flat)


def is_done(file: OutputFile, choices: OutputChoices) -> bool:
    """Whether an earlier run wrote a case's label map, and its map of instances where that is asked for."""
    return file.target.is_file() and (not choices.instances or side_map_path(file, INSTANCES).is_file())


def refuse_clashes(outputs: Sequence[OutputFile], choices: OutputChoices) -> tuple[OutputFile, ...]:
    """Give a fault to each case with a map that would replace an image or a label map of the run."""
    if not _kinds(choices):
        return tuple(outputs)
    taken = {image.resolve() for file in outputs for image in file.item.images}
    taken |= {file.target.resolve() for file in outputs}
    return tuple(_refuse_clash(file, _kinds(choices), taken) for file in outputs)


def _kinds(choices: OutputChoices) -> tuple[str, ...]:
    """Kinds of maps that may come beside each label map."""
    return (UNCERTAINTY, DISAGREEMENT) * choices.uncertainty + (INSTANCES,) * choices.instances


def _refuse_clash(file: OutputFile, kinds: Sequence[str], taken: set[Path]) -> OutputFile:
    clashes = [kind for kind in kinds if side_map_path(file, kind).resolve() in taken]
    if file.fault or not clashes:
        return file
    what = INSTANCES if INSTANCES in clashes else UNCERTAINTY
    fault = (
        f"{side_map_path(file, clashes[0])}: the {what} would overwrite an image or a label map of this run; rename "
        "one of them"
    )
    return replace(file, fault=fault)
