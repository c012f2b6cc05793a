"""Files of a run: where the label map of each case goes, which maps come beside it, and how all are written.

Tested in tests/stages/test_predict_files.py and tests/cli/test_predict.py.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.imaging.formats.dicom.reading import SERIES_ENDING
from autoseg.imaging.formats.reading import IMAGE_ENDINGS, Template, is_series, split_ending, stored_ending
from autoseg.imaging.formats.volume import PICTURE_ENDINGS
from autoseg.imaging.formats.writing import label_map_ending, write_label_map, write_share_map
from autoseg.inference.files.input_cases import InputCase
from autoseg.inference.files.tables import LabelStatistics
from autoseg.inference.models.label_colors import name_label_values, with_label_table
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import real_path
from autoseg.records.prediction import INSTANCES, OVERLAY, RTSTRUCT, Instance, OutputChoices, Prediction
from autoseg.records.provenance import InputFile
from autoseg.records.temporaries import sweep_temporaries

SIDE_MAPS: tuple[str, ...] = tuple(kind for choice in fields(OutputChoices) for kind in choice.metadata["maps"])
"""Kinds of maps beside a label map, `CASE_kind.ext`."""

_NAMED_BY_CASE = ("probabilities", "statistics", "instances", "overlay", "meshes", "provenance")
"""Choices whose files or rows have the name of the case alone, whatever the ending of its label map."""


@dataclass(frozen=True)
class OutputFile:
    """One case and the file of its label map."""

    item: InputCase
    target: Path
    fault: str = ""
    """Reason why nothing may be written there; empty if there is none."""

    @property
    def probabilities(self) -> Path:
        """Path of the case's probabilities, beside the label map."""
        return self.target.with_name(f"{self.item.case}_probabilities.b2nd")

    @property
    def meshes(self) -> Path:
        """Folder of the case's meshes, beside the label map."""
        return self.target.with_name(f"{self.item.case}_meshes")

    def side_map(self, kind: str) -> Path:
        """Path of a map `CASE_kind`, beside the label map and in its format; the overlay is a PNG.

        Beside a segmentation of a DICOM series maps are NIfTI.
        """
        own = split_ending(self.target.name)[1]
        usual = ".nii.gz" if own == SERIES_ENDING else own
        ending = {OVERLAY: ".png", RTSTRUCT: SERIES_ENDING}.get(kind, usual)
        return self.target.with_name(f"{self.item.case}_{kind}{ending}")

    def is_done(self, choices: OutputChoices) -> bool:
        """Whether an earlier run wrote the label map, and what else is asked for of instances, overlay and meshes."""
        if choices.meshes and not self._has_meshes(choices.mesh_format):
            return False
        asked = [INSTANCES] * choices.instances + [OVERLAY] * choices.overlay + [RTSTRUCT] * choices.structures
        return self.target.is_file() and all(self.side_map(kind).is_file() for kind in asked)

    def _has_meshes(self, mesh_format: str) -> bool:
        """Whether there are meshes of this format, or none at all because every label is empty."""
        if not self.meshes.is_dir():
            return False
        endings = {path.suffix for path in self.meshes.iterdir()}
        return not endings or f".{mesh_format}" in endings


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
    inputs: tuple[InputFile, ...] = ()
    """Images with their hashes, only if asked for."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by step."""


def assign_outputs(cases: Sequence[InputCase], output: Path) -> tuple[OutputFile, ...]:
    """Give every case the file of its label map; make the folder and check that files can be written there.

    A case gets a fault if its own files are faulty, if its label map would replace an image of any case, or if an
    earlier case has the same file.

    Args:
        cases: All cases of the run.
        output: Folder for `CASE.ext`, in the image's format (2D images: PNG); for a single case also a file name.

    Raises:
        UsageError: If `output` names a file for several cases, is a file but not a label map, or its folder cannot
            be written to.
    """
    names_file = split_ending(output.name)[1] in (*IMAGE_ENDINGS, SERIES_ENDING) and not output.is_dir()
    if names_file and len(cases) > 1:
        raise UsageError(f"{output}: names one file for {len(cases)} cases; give a folder for several images")
    if output.is_file() and not names_file:
        raise UsageError(
            f"{output}: is a file, but not one for a label map; give a folder, or a file that ends in one of "
            f"{' '.join(IMAGE_ENDINGS)} (DICOM series: also {SERIES_ENDING})"
        )
    _prepare_folder(output.parent if names_file else output)
    targets = [_written_path(output) if names_file else output / _label_map_name(item) for item in cases]
    faults = _find_faults(cases, targets)
    return tuple(OutputFile(*parts) for parts in zip(cases, targets, faults, strict=True))


def refuse_clashes(outputs: Sequence[OutputFile], choices: OutputChoices) -> tuple[OutputFile, ...]:
    """Give a fault to each case with a map that would replace an image or a label map of the run.

    So does a case with the name of an earlier one, and another ending, where more than label maps is asked for.
    """
    kinds = [kind for choice in fields(choices) if getattr(choices, choice.name) for kind in choice.metadata["maps"]]
    taken = {real_path(image) for file in outputs for image in file.item.images}
    taken |= {real_path(file.target) for file in outputs}
    refused = [_refuse_clash(file, kinds, taken) for file in outputs]
    shared = [name for name in _NAMED_BY_CASE if getattr(choices, name)]
    return tuple(_refuse_equal_names(refused, shared[0]) if shared else refused)


def write_side_maps(prediction: Prediction, template: Template, file: OutputFile) -> None:
    """Write the maps that come beside a case's label map, as far as the prediction has them.

    Args:
        prediction: Prediction of the image.
        template: Header of the image.
        file: The case and the file of its label map.

    Raises:
        ImageFileError: If a map cannot be written.
    """
    for kind, values in prediction.side_maps().items():
        write = write_share_map if values.dtype.kind == "f" else write_label_map
        write(values, template, file.side_map(kind))


def write_labels(
    prediction: Prediction, template: Template, file: OutputFile, encoding: LabelEncoding, *, colors: bool
) -> None:
    """Write a case's label map, last of its maps, because its presence says that the case is done.

    Args:
        prediction: Prediction of the image.
        template: Header of the image.
        file: The case and the file of its label map.
        encoding: Label encoding of the model.
        colors: Whether NIfTI label maps carry names and colours.

    Raises:
        ImageFileError: If it cannot be written.
    """
    if colors:
        template = with_label_table(template, name_label_values(encoding), encoding.values[0])
    write_label_map(prediction.labels, template, file.target)


def _label_map_name(item: InputCase) -> str:
    """File name of a case's label map: the image's format, PNG for 2D images."""
    return item.case + label_map_ending(stored_ending(item.images[0]))


def _written_path(path: Path) -> Path:
    """The path that `write_label_map` writes to: 2D images become PNG."""
    stem, ending = split_ending(path.name)
    return path.with_name(stem + label_map_ending(ending)) if ending in PICTURE_ENDINGS else path


def _prepare_folder(folder: Path) -> None:
    """Make the folder and try to write in it: better to fail now than after the first case."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        sweep_temporaries(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to ({error}); choose another output folder") from error


def _find_faults(cases: Sequence[InputCase], targets: Sequence[Path]) -> Iterator[str]:
    images = {real_path(image) for item in cases for image in item.images}
    taken: set[Path] = set()
    for item, target in zip(cases, targets, strict=True):
        real = real_path(target)
        if item.fault:
            yield f"case {item.case}: {item.fault}"
        elif split_ending(target.name)[1] == SERIES_ENDING and not is_series(item.images[0]):
            yield f"{target}: {SERIES_ENDING} is for DICOM series, and {item.images[0]} is none; use .nii.gz"
        elif any(real.is_relative_to(folder) for folder in _series_folders(item)):
            yield f"{target}: lies in the folder of the DICOM series itself; choose another output folder"
        elif real in images:
            yield f"{target}: the label map would overwrite an image; choose another output folder"
        elif real in taken:
            yield f"{target}: another case of this run has the same name; rename one of them"
        else:
            yield ""
        taken.add(real)


def _series_folders(item: InputCase) -> Iterator[Path]:
    paths = (read_address(image).path for image in item.images)
    return (real_path(path) for path in paths if path.is_dir())


def _refuse_clash(file: OutputFile, kinds: Sequence[str], taken: set[Path]) -> OutputFile:
    clashes = [kind for kind in kinds if real_path(file.side_map(kind)) in taken]
    if file.fault:
        return file
    if RTSTRUCT in kinds and not is_series(file.item.images[0]):
        return replace(file, fault=f"{file.item.images[0]}: is no DICOM series, which --rtstruct needs; leave it out")
    if not clashes:
        return file
    fault = (
        f"{file.side_map(clashes[0])}: the {clashes[0]} would overwrite an image or a label map of this run; rename "
        "one of them"
    )
    return replace(file, fault=fault)


def _refuse_equal_names(outputs: Sequence[OutputFile], shared: str) -> Iterator[OutputFile]:
    """Give a fault to each case whose name an earlier case has: both would write the same file or row."""
    first: dict[str, OutputFile] = {}
    for file in outputs:
        earlier = first.setdefault(file.item.case, file)
        if earlier is file or file.fault:
            yield file
            continue
        fault = (
            f"{file.item.images[0]}: has the same case name as {earlier.item.images[0]}, and the {shared} of both "
            "would be mixed up; rename one of them, or predict them into two folders"
        )
        yield replace(file, fault=fault)
