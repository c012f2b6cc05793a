"""Other ways in which a folder can be read, each with the command that chooses it.

Layouts are tried in an order. Where the files fit another one too, with other label maps or other images, both are
shown instead of a guess. No image is opened here.

Tested in tests/imaging/datasets/layouts/test_readings.py.
"""

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.folders import FolderCases, describe_several_folders, find_other_places, is_usual
from autoseg.imaging.datasets.layouts.names import split_label_word
from autoseg.imaging.datasets.layouts.pairing import image_files
from autoseg.imaging.datasets.layouts.pattern_cases import find_pattern_cases
from autoseg.imaging.datasets.layouts.patterns import FilePatterns
from autoseg.imaging.formats.volume import split_ending
from autoseg.records.dataset import CaseFiles, label_files

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d{1,4})")


def find_other_readings(folder: Path, found: FolderCases) -> tuple[str, ...]:
    """Other readings of a folder whose cases lie in two folders of the usual names, as notes.

    Args:
        folder: Dataset folder.
        found: The reading of the first layout that fits.

    Raises:
        DatasetError: If the folder can be read in other ways, and its folders do not have the usual names; shows all of
            them. Or if numbers at the end of names may be those of channels or of cases.
    """
    as_channels = _read_as_channels(folder, found)
    if as_channels is not None:
        raise DatasetError(_show_all(folder, [found, as_channels]))
    others = list(_others(folder, found))
    if others and not is_usual(found):
        raise DatasetError(_show_all(folder, [found, *others]))
    return tuple(f"not used, but possible too: {_show(folder, other)}" for other in others)


def _others(folder: Path, found: FolderCases) -> Iterator[FolderCases]:
    """Readings with complete cases whose label maps or whose images are others than those of all readings before."""
    seen = [(_images(found.cases), _labels(found.cases))]
    for other in find_other_places(folder):
        images, labels = _images(_complete(other.cases)), _labels(_complete(other.cases))
        if labels and all(images.isdisjoint(known[0]) or labels.isdisjoint(known[1]) for known in seen):
            seen.append((images, labels))
            yield other


def _read_as_channels(folder: Path, found: FolderCases) -> FolderCases | None:
    """The cases of numbered images some of which have no label map, if the numbers may be those of channels.

    p1_0, p1_1, p2_0, p2_1 with label maps p1_0 and p2_0: two channels of p1 and p2, or four cases without two label
    maps.
    """
    complete = _complete(found.cases)
    folders = {PurePosixPath(image).parent for files in complete for image in files.images}
    if len(folders) != 1 or any(len(files.images) != 1 for files in complete):
        return None
    (place,) = folders
    labels = {files.images[0]: files.label for files in complete}
    groups: dict[str, dict[int, str]] = {}
    for name in image_files(folder / place):
        file, stem = (place / name).as_posix(), split_ending(name)[0]
        if file in _labels(found.cases) or (file not in labels and split_label_word(stem) is not None):
            continue
        match = _NUMBERED.fullmatch(stem)
        if match is None:
            return None
        groups.setdefault(match["case"], {})[int(match["number"])] = file
    with_label = {case: [n for n, file in files.items() if file in labels] for case, files in groups.items()}
    numbers = {tuple(sorted(files)) for files in groups.values()}
    first = {tuple(found) for found in with_label.values()}
    if len(numbers) != 1 or len(first) != 1 or len(next(iter(first))) != 1 or len(next(iter(numbers))) < 2:
        return None
    cases = [
        CaseFiles(case=case, images=tuple(files[n] for n in sorted(files)), label=labels[files[with_label[case][0]]])
        for case, files in sorted(groups.items())
    ]
    return FolderCases(tuple(cases))


def _show_all(folder: Path, readings: Sequence[FolderCases]) -> str:
    several = describe_several_folders(folder)
    what = f"{several}. Rename those that are not to be used. " if several else ""
    shown = "\n".join(f"  {_show(folder, reading)}" for reading in readings)
    return (
        f"{folder}: {what}The files can be read in {len(readings)} ways; give the command of the one that is meant:\n"
        f"{shown}"
    )


def _show(folder: Path, reading: FolderCases) -> str:
    """Number of cases, an example and the command of a reading."""
    complete = _complete(reading.cases)
    patterns = infer_patterns(folder, complete)
    cases = reading.cases if patterns is None else find_pattern_cases(folder, patterns).cases
    without = len(cases) - len(complete)
    channels = f" with {len(complete[0].images)} channels" if len(complete[0].images) > 1 else ""
    lacking = f", {without} of them without label map" if without else ""
    return (
        f"{len(cases)} cases{channels}{lacking}, such as {complete[0].case} with {', '.join(complete[0].images)} and "
        f"the label map {complete[0].label}: {_command(folder, patterns, skips_faulty=bool(without))}"
    )


def _command(folder: Path, patterns: FilePatterns | None, *, skips_faulty: bool) -> str:
    if patterns is None:
        return "list its files in a CSV file with the columns case, image, label"
    options = ["--image-pattern", patterns.image, "--label-pattern", patterns.label]
    return shlex.join(["autoseg-plan", str(folder), *options, *["--skip-faulty"] * skips_faulty])


def infer_patterns(folder: Path, cases: Sequence[CaseFiles]) -> FilePatterns | None:
    """Patterns that give exactly these cases; None where the names have no common form.

    Args:
        folder: Dataset folder.
        cases: Complete cases, paths relative to the folder.
    """
    label = _common_form([(files.case, files.label) for files in cases])
    if label is None or len({len(files.images) for files in cases}) != 1:
        return None
    forms = [
        _common_form([(files.case, files.images[index]) for files in cases]) for index in range(len(cases[0].images))
    ]
    known = [form for form in forms if form is not None]
    if len(known) < len(forms):
        return None
    for image in _with_channel(known):
        patterns = FilePatterns(image=image, label=label)
        found = _complete(find_pattern_cases(folder, patterns).cases)
        if _by_label(found) == _by_label(cases):
            return patterns
    return None


def _common_form(files: Sequence[tuple[str, str]]) -> str | None:
    """The one path that all files have with {case} for their case, without ending if these differ."""
    forms = {re.sub(rf"(?<![A-Za-z0-9]){re.escape(case)}(?![A-Za-z0-9])", "{case}", file) for case, file in files}
    if len(forms) > 1:
        forms = {split_ending(form)[0] for form in forms}
    form = forms.pop()
    return form if not forms and "{case}" in form else None


def _with_channel(forms: Sequence[str]) -> list[str]:
    """Patterns for the images of all channels: any word for the channel, else those that there are."""
    if len(forms) == 1:
        return [forms[0]]
    stems = [split_ending(form)[0] for form in forms]
    endings = {split_ending(form)[1] for form in forms}
    start = _common_start(stems)
    end = _common_start([stem[start:][::-1] for stem in stems])
    words = [stem[start : len(stem) - end] for stem in stems]
    before, after = stems[0][:start], stems[0][len(stems[0]) - end :] if end else ""
    ending = endings.pop() if len(endings) == 1 else ""
    return [f"{before}{channel}{after}{ending}" for channel in ("{channel}", f"{{channel:{'|'.join(words)}}}")]


def _common_start(texts: Sequence[str]) -> int:
    """Number of characters that all texts begin with, up to a mark or to the end of {case}."""
    length = 0
    for index, characters in enumerate(zip(*texts, strict=False), start=1):
        if len(set(characters)) > 1:
            break
        if characters[0] in "_-. /{}":
            length = index
    return length


def _complete(cases: Collection[CaseFiles]) -> list[CaseFiles]:
    return [files for files in cases if files.images and files.label]


def _images(cases: Collection[CaseFiles]) -> set[str]:
    return {image for files in cases for image in files.images}


def _labels(cases: Collection[CaseFiles]) -> set[str]:
    return {label for files in cases for label in label_files(files)}


def _by_label(cases: Collection[CaseFiles]) -> dict[str, tuple[str, ...]]:
    return {files.label: files.images for files in cases}
