"""DICOM in folders of datasets: what counts as one image, as a file of another format does.

    CASE/*.dcm       a folder with the slices of a series
    CASE.zip         an archive with a series
    CASE.dcm         a file that is an image or a label map alone: multi-frame images, segmentations

Slices themselves are no images of their own. Tested in tests/imaging/datasets/layouts/test_dicom_entries.py.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from autoseg.errors import ImageFileError
from autoseg.imaging.datasets.layouts.names import is_hidden
from autoseg.imaging.formats.dicom.frames import SEGMENTATION_CLASSES, Header, read_header
from autoseg.imaging.formats.dicom.sources import DICOM_ENDINGS, ZIP_ENDING, has_dicom_files, open_source
from autoseg.imaging.formats.volume import IMAGE_ENDINGS, split_ending


def split_entry(folder: Path, name: str) -> tuple[str, str]:
    """Name of a case and ending of an entry of a folder; a folder with a series has no ending, whatever its name."""
    return (name, "") if (folder / name).is_dir() else split_ending(name)


def is_series_folder(folder: Path) -> bool:
    """Whether a folder itself has slices of DICOM series, and no files of other formats that are images.

    A folder of segmentations or multi-frame files has none.
    """
    try:
        if not folder.is_dir() or any(_is_other_image(path) for path in folder.iterdir()):
            return False
    except PermissionError:  # a folder that cannot be read is reported by what reads the images in it
        return False
    return has_dicom_files(folder) and not _are_all_alone(folder)


def dicom_entries(folder: Path) -> list[str]:
    """Names of the entries of a folder that are DICOM images or segmentations, sorted."""
    found = []
    for path in folder.iterdir():
        if is_hidden(path.name):
            continue
        if path.is_dir():
            is_entry = is_series_folder(path)
        elif path.suffix.lower() == ZIP_ENDING:
            is_entry = has_dicom_files(path)
        else:
            is_entry = path.suffix.lower() in DICOM_ENDINGS and is_alone(path)
        if is_entry:
            found.append(path.name)
    return sorted(found)


def is_alone(path: Path) -> bool:
    """Whether a file is a segmentation, or an image of several frames, rather than a slice of a series.

    Without the extra `dicom` every file counts as a slice; reading the series asks for the extra.
    """
    if find_spec("pydicom") is None:
        return False
    header = _read_header(path)
    return header is not None and (_is_segmentation(path) or int(header.get("NumberOfFrames") or 1) > 1)


def find_label_beside_slices(folder: Path) -> str | None:
    """Name of the only label map among the slices of a series: a DICOM segmentation, or an image of another format.

    None where the folder has no slices of its own, or another number of such files.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not is_hidden(path.name)]
    others = [path for path in files if _is_other_image(path)]
    dicom = [path for path in files if path not in others and path.suffix.lower() != ZIP_ENDING]
    if not dicom or not has_dicom_files(dicom[0]):
        return None
    segmentations = [path for path in dicom if has_dicom_files(path) and _is_segmentation(path)]
    labels = [*others, *segmentations]
    return labels[0].name if len(labels) == 1 < len(dicom) else None


def share_a_study(paths: Sequence[Path]) -> bool:
    """Whether DICOM images belong to one study of one patient, by the first file of each."""
    studies = set()
    for path in paths:
        with open_source(path) as source:
            headers = (read_header(source, name) for name in source.names)
            first = next((header for header in headers if header is not None), None)
        studies.add(None if first is None else str(first.get("StudyInstanceUID", "")))
    return len(studies) == 1 and None not in studies


def _are_all_alone(folder: Path) -> bool:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not is_hidden(path.name)]
    return all(is_alone(path) for path in files if path.suffix.lower() != ZIP_ENDING and has_dicom_files(path))


def _is_segmentation(path: Path) -> bool:
    header = _read_header(path)
    return header is not None and str(header.SOPClassUID) in SEGMENTATION_CLASSES


def _is_other_image(path: Path) -> bool:
    return split_ending(path.name)[1] in IMAGE_ENDINGS and not is_hidden(path.name)


def _read_header(path: Path) -> Header | None:
    try:
        with open_source(path) as source:
            return read_header(source, "")
    except ImageFileError:
        return None
