"""Label maps in a folder: which files they are, and how two of them are read on one grid.

Tested in tests/stages/test_evaluate.py.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from autoseg.errors import DatasetError, ImageFileError, UsageError
from autoseg.imaging.datasets.labels.label_parts import read_named_reference
from autoseg.imaging.datasets.labels.part_names import segment_parts, split_segmentations
from autoseg.imaging.datasets.layouts.grouping import readings
from autoseg.imaging.datasets.layouts.names import CHANNEL_WORDS, composed, split_label_word
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.imaging.datasets.lists.list_files import is_list_file
from autoseg.imaging.formats.dicom.reading import SERIES_ENDING
from autoseg.imaging.formats.label_values import check_whole_numbers
from autoseg.imaging.formats.reading import IMAGE_ENDINGS, Volume, read_label_map, split_ending
from autoseg.imaging.formats.segmentations import is_segmentation, read_layers
from autoseg.imaging.formats.volume import grid_difference
from autoseg.inference.files.outputs import SIDE_MAPS
from autoseg.records.dataset import CaseFiles, LabelReading, LabelValues

logger = logging.getLogger("autoseg.evaluate")


def find_label_maps(folder: Path) -> dict[str, Path]:
    """Image files of a folder by case name, sorted; other files, and maps of uncertainty or instances, are skipped.

    Raises:
        UsageError: If the folder does not exist, or two of its files have the same case name.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder; give the folder that holds the label maps")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith((*IMAGE_ENDINGS, SERIES_ENDING)):
            continue
        case = composed(split_ending(path.name)[0])
        if case in found:
            raise UsageError(f"{folder}: {found[case].name} and {path.name} are the same case; keep one of them")
        found[case] = path
    return {case: path for case, path in found.items() if not _is_side_map(case, found)}


def find_references(folder: Path, cases: Collection[str]) -> dict[str, Path]:
    """Reference label maps of a folder by case name, sorted.

    Where files are called `CASE_seg` for cases that were predicted, only such files are references: those beside them
    are images. A case may have been predicted under the name of its image, `CASE_ct`.

    Args:
        folder: Folder of label maps, or of images and label maps.
        cases: Names of the cases that were predicted.

    Raises:
        UsageError: If the folder does not exist, or two of its files have the same case name.
    """
    found = find_label_maps(folder)
    predicted = _names_by_case(cases)
    marked = {
        predicted.get(case, case): path
        for stem, path in found.items()
        if (case := _marked_case(stem)) and stem not in cases
    }
    if not marked.keys() & set(cases):
        return found
    logger.info("the %d files of %s that are marked as label maps are the references", len(marked), folder)
    return dict(sorted(marked.items()))


def find_reference_files(folder: Path, cases: Collection[str]) -> dict[str, CaseFiles]:
    """References of a folder by case name, with absolute paths: label maps, or the masks and segments of a dataset.

    Args:
        folder: Folder of label maps, or a dataset in any layout, or its list.
        cases: Names of the cases that were predicted.

    Raises:
        UsageError: If the folder does not exist, or two of its files have the same case name.
        DatasetError: If it is a list that cannot be read.
    """
    if is_list_file(folder):
        return _listed_references(folder, cases)
    paths = find_references(folder, cases)
    found = {case: CaseFiles(case=case, images=(), label=str(path.absolute())) for case, path in paths.items()}
    if not found.keys() & set(cases):
        try:
            return _listed_references(folder, cases)
        except DatasetError:
            return found
    return {case: _with_segments(files) for case, files in found.items()}


def _listed_references(path: Path, cases: Collection[str]) -> dict[str, CaseFiles]:
    """References of a dataset, under the names of the predictions."""
    dataset = split_segmentations(find_dataset(path))
    predicted = _names_by_case(cases)
    labelled = (_absolute(files, dataset.folder) for files in dataset.cases if files.label)
    return {predicted.get(files.case, files.case): files for files in labelled}


def find_pairs(predictions: Path, references: Path) -> tuple[dict[str, Path], dict[str, CaseFiles]]:
    """Label maps of predictions and files of references by case name, of which at least one case has both.

    Args:
        predictions: Folder of label maps.
        references: Folder of label maps, or a dataset in any layout.

    Raises:
        UsageError: If a folder does not exist, two of its files have the same case name, or no case is in both.
    """
    predicted = find_label_maps(predictions)
    expected = find_reference_files(references, predicted)
    if not predicted.keys() & expected.keys():
        raise UsageError(
            f"no case is in both folders: {predictions} has {_first_names(predicted)}, {references} has "
            f"{_first_names(expected)}. File names without their endings must be equal."
        )
    return predicted, expected


def _first_names(found: Mapping[str, object]) -> str:
    few = ", ".join(list(found)[:5]) or "no label maps"
    return few if len(found) <= 5 else f"{few}, ... ({len(found)})"


def _names_by_case(names: Collection[str]) -> dict[str, str]:
    """Names of predictions by the cases that they may mean: `p_ct` and `p_image` are p, unless p was predicted."""
    by_case = {
        case: name for name in names for case, rest in readings(name) if not rest or rest.casefold() in CHANNEL_WORDS
    }
    return by_case | {name: name for name in names}


def _absolute(files: CaseFiles, folder: Path) -> CaseFiles:
    parts = files.parts and tuple(part.model_copy(update={"file": str(folder / part.file)}) for part in files.parts)
    instances = str(folder / files.instances) if files.instances else ""
    changes = {"label": str(folder / files.label), "images": (), "parts": parts, "instances": instances}
    return files.model_copy(update=changes)


def _with_segments(files: CaseFiles) -> CaseFiles:
    """The files with the segments of 3D Slicer's segmentation as parts."""
    if not is_segmentation(files.label):
        return files
    parts = segment_parts(files.label, Path(files.label))
    return files.model_copy(update={"parts": parts}) if parts else files


def _marked_case(stem: str) -> str:
    """The case of a name that is marked as a label map's; empty for any other name."""
    marked = split_label_word(stem)
    return marked[0] if marked else ""


def _is_side_map(case: str, found: Mapping[str, Path]) -> bool:
    """Whether prediction wrote this file beside a case's label map."""
    stem, _, kind = case.rpartition("_")
    return kind in SIDE_MAPS and stem in found


def read_on_one_grid(
    case: str,
    prediction: Path,
    reference: Path,
    reading: LabelReading | None = None,
    labels: Mapping[str, LabelValues] | None = None,
) -> tuple[Volume, Volume]:
    """Read a prediction and its reference, in stored order with the files' values.

    Args:
        case: Case name, for messages.
        prediction: File of the prediction.
        reference: File of the reference.
        reading: How label files are read, the same for both; None: their pixels are label values.
        labels: Labels that are compared, which the segments of a segmentation are called like; None: not known.

    Raises:
        ImageFileError: If a file cannot be read, its values are not whole numbers, or the two do not lie on
            the same grid.
    """
    expected = read_label_map(reference, reading)
    check_whole_numbers(expected.array, expected.path)
    if not expected.has_voxel_size:
        expected = expected.with_size_of(read_label_map(prediction, reading).grid)
    return read_prediction(case, prediction, expected, reading, labels), expected


def read_named_prediction(prediction: Path, labels: Mapping[str, LabelValues], reading: LabelReading | None) -> Volume:
    """Read a prediction with the values of labels, also if it is a segmentation, whose segments have names alone.

    Args:
        prediction: File of the prediction.
        labels: Labels and regions that are compared, with their values.
        reading: How label files are read; None: their pixels are label values.

    Raises:
        ImageFileError: If the file cannot be read.
    """
    files = _with_segments(CaseFiles(case="", images=(), label=str(prediction)))
    if not {part.label for part in files.parts or ()} & labels.keys():
        return read_label_map(prediction, reading)
    return read_named_reference(files, labels, read_layers(prediction).grid)[0]


def read_prediction(
    case: str,
    prediction: Path,
    expected: Volume,
    reading: LabelReading | None = None,
    labels: Mapping[str, LabelValues] | None = None,
) -> Volume:
    """Read a prediction on the grid of its reference, in stored order with the file's values.

    Args:
        case: Name of the case.
        prediction: File of the prediction.
        expected: The reference label map.
        reading: How label files are read; None: their pixels are label values.
        labels: Labels that are compared, which the segments of a segmentation are called like; None: not known.

    Raises:
        ImageFileError: If the file cannot be read, its values are not whole numbers, or the grids differ.
    """
    predicted = read_named_prediction(prediction, labels or {}, reading).with_size_of(expected.grid)
    check_whole_numbers(predicted.array, predicted.path)
    difference = grid_difference(predicted.grid, expected.grid)
    if difference is not None:
        raise ImageFileError(
            f"{prediction}: case {case} does not lie on the grid of its reference {expected.path}: {difference}. "
            "Write predictions on the grid of the original image."
        )
    return predicted
