"""The cases to predict, with their image files, from a file, a folder or a list.

In a folder, `CASE_0000.ext`, `CASE_0001.ext` are the channels of CASE, whatever their endings; any other image file is
a case of its own, and so is each numbered file whose number cannot be a channel of the model, or that has all channels
of the model itself. Label maps beside their images (`CASE_seg.ext`, `CASE_liver.ext` for a label of the model) are left
out. Channels may also be called by their names, `CASE_t1.ext`, and each case may have a subfolder of its own. A DICOM
series, in a folder or a zip archive, counts as one file; series of one study in several folders are one case. A list is
one as for training, whose label maps are not needed and not read; columns that are called like the channels of the
model may have any order.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import DatasetError, UsageError
from autoseg.imaging.datasets.layouts.bids import find_bids_images
from autoseg.imaging.datasets.layouts.dicom_entries import dicom_entries, is_series_folder, share_a_study
from autoseg.imaging.datasets.layouts.folders import folders_with_images
from autoseg.imaging.datasets.layouts.grouping import readings
from autoseg.imaging.datasets.layouts.mask_files import has_label_word
from autoseg.imaging.datasets.layouts.names import IMAGE_FOLDERS, composed, split_image_word, split_label_word
from autoseg.imaging.datasets.layouts.pairing import image_files, visible_folders
from autoseg.imaging.datasets.lists.case_lists import row_images
from autoseg.imaging.datasets.lists.case_names import name_cases
from autoseg.imaging.datasets.lists.datalists import entries_to_predict, find_datalist
from autoseg.imaging.datasets.lists.list_columns import ListColumns, cell_parts, find_columns
from autoseg.imaging.datasets.lists.list_files import ListTable, is_list_file, read_list_table
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.imaging.formats.dicom.sources import DICOM_ENDINGS, ZIP_ENDING
from autoseg.imaging.formats.reading import IMAGE_ENDINGS, is_series, split_ending
from autoseg.imaging.formats.volume import split_channel
from autoseg.inference.files.channel_groups import group_by_number, holds_all_channels, refuse_unknown_words
from autoseg.inference.files.pattern_inputs import find_pattern_images
from autoseg.records.names import is_file_name

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True)
class InputCase:
    """One case to predict."""

    case: str
    images: tuple[Path, ...]
    """One file, or one per channel in channel order."""
    fault: str = ""
    """Why the case cannot be predicted; empty when its files look complete."""


def find_inputs(
    inputs: Path, channel_names: Sequence[str], image_pattern: str | None = None, label_names: Collection[str] = ()
) -> tuple[InputCase, ...]:
    """Cases in the order of their names, or of the list.

    Args:
        inputs: An image file, a folder of image files, or a .csv, .tsv or .json list.
        channel_names: The channels that the model expects.
        image_pattern: Names of the images in the folder; None: they are recognised.
        label_names: Labels of the model: in a folder, `X_liver` beside the image X is the mask of its liver.

    Raises:
        UsageError: If there is no such file or folder, it holds no image, or the list cannot be understood.
    """
    if not read_address(inputs).path.exists():
        raise UsageError(f"{inputs}: no such file or folder")
    if image_pattern is not None:
        found = find_pattern_images(inputs, image_pattern, channel_names)
        cases = tuple(InputCase(case, tuple(images), fault) for case, images, fault in found)
    elif not inputs.exists() or is_series_folder(inputs):
        cases = (InputCase(_case_of_series(inputs), (inputs,)),)
    elif inputs.is_dir():
        cases = _cases_in_folder(inputs, channel_names, label_names)
    elif is_list_file(inputs):
        cases = tuple(_listed_cases(inputs, channel_names))
    else:
        cases = (InputCase(_case_name(inputs), (inputs,)),)
    if not cases:
        raise UsageError(f"{inputs}: no images here; readable endings are {', '.join(IMAGE_ENDINGS)}")
    return cases


def choose_series(cases: Sequence[InputCase], series: str | None, *, resample_gaps: bool) -> tuple[InputCase, ...]:
    """The cases with the series that is meant in each DICOM image, unless the image says so itself.

    Args:
        cases: Cases of a run.
        series: Number or UID of the series; None: the only one.
        resample_gaps: Whether slices at irregular positions are resampled, rather than refused.

    Raises:
        UsageError: If this was asked for, and no image is DICOM.
    """
    if series is None and not resample_gaps:
        return tuple(cases)
    if not any(is_series(path) for item in cases for path in item.images):
        raise UsageError("--series and --resample-gaps concern DICOM images, and there are none. Leave them out")
    return tuple(
        replace(item, images=tuple(_with_choice(path, series, resample_gaps) for path in item.images)) for item in cases
    )


def _with_choice(path: Path, series: str | None, resample_gaps: bool) -> Path:
    if not is_series(path):
        return path
    address = read_address(path)
    return replace(
        address, series=address.series or series, resample_gaps=address.resample_gaps or resample_gaps
    ).written()


def _case_name(path: Path) -> str:
    return _stem(path.name).removesuffix("_0000")


def _case_of_series(path: Path) -> str:
    """The name of the folder; of an archive or file the name without its ending."""
    target = read_address(path).path
    return composed(target.absolute().name) if target.is_dir() else _case_name(target)


def _stem(name: str) -> str:
    """The name of a file without its ending; folders with DICOM series have none."""
    stem, ending = split_ending(name)
    return composed(stem if ending in (*IMAGE_ENDINGS, *DICOM_ENDINGS, ZIP_ENDING) else name)


def _cases_in_folder(folder: Path, channel_names: Sequence[str], label_names: Collection[str]) -> tuple[InputCase, ...]:
    names = image_files(folder)
    if not names:
        return _cases_in_subfolders(folder, channel_names, label_names)
    if _is_one_study(folder, names, channel_names):
        return (InputCase(_case_of_series(folder), (folder,)),)
    kept = _without_label_maps(names, channel_names, label_names)
    _log_left_out(folder, [name for name in names if name not in kept])
    return _cases_of_files(folder, kept, channel_names)


def _cases_in_subfolders(
    folder: Path, channel_names: Sequence[str], label_names: Collection[str]
) -> tuple[InputCase, ...]:
    """Cases of a dataset's folder of images, or of a folder with one subfolder for each case, or of BIDS."""
    subfolders = visible_folders(folder)
    of_bids = find_bids_images(folder, channel_names)
    if of_bids:
        return tuple(_bids_case(folder, case, files, channel_names) for case, files in sorted(of_bids.items()))
    images = [name for name in subfolders if name.lower() in {*IMAGE_FOLDERS, "imagests"}]
    if images:
        if len(images) > 1:
            raise UsageError(
                f"{folder}: has the folders {' and '.join(images)}; give the one with the images to predict"
            )
        logger.info("the images in %s are predicted", folder / images[0])
        return _cases_in_folder(folder / images[0], channel_names, label_names)
    by_folder: list[tuple[str, tuple[InputCase, ...]]] = []
    left_out = []
    for name in folders_with_images(folder, subfolders):
        files = {_stem(file): file for file in image_files(folder / name)}
        unmarked = [file for stem, file in files.items() if split_label_word(stem) is None]
        left_out += [f"{name}/{file}" for file in files.values() if unmarked and file not in unmarked]
        case = composed("_".join(part for part in name.split("/") if part.lower() not in IMAGE_FOLDERS))
        if _is_one_study(folder / name, list(files.values()), channel_names):
            by_folder.append((case, (InputCase(case, (folder / name,)),)))
            continue
        by_folder.append((case, _cases_of_files(folder / name, unmarked or list(files.values()), channel_names)))
    _log_left_out(folder, left_out)
    cases = [item for _, found in by_folder for item in found]
    if len(cases) == len(by_folder) == len({case for case, _ in by_folder}):
        cases = [replace(item, case=case) for case, (item,) in by_folder]
    count = Counter(item.case for item in cases)
    unique = (
        item
        if count[item.case] == 1
        else replace(item, case="_".join((*item.images[0].parent.relative_to(folder).parts, item.case)))
        for item in cases
    )
    return tuple(sorted(unique, key=lambda item: item.case))


def _is_one_study(folder: Path, names: Sequence[str], channel_names: Sequence[str]) -> bool:
    """Whether images, all of them DICOM, are series of one study, of which a model with one channel takes one."""
    if len(channel_names) > 1 or len(names) < 2 or set(names) - set(dicom_entries(folder)):
        return False
    return share_a_study([folder / name for name in names])


def _bids_case(folder: Path, case: str, files: Mapping[int, str], channel_names: Sequence[str]) -> InputCase:
    missing = [name for number, name in enumerate(channel_names) if number not in files]
    fault = f"there is no image of the channels {', '.join(missing)}; add it" if missing else ""
    return InputCase(case, tuple(folder / files[number] for number in sorted(files)), fault)


def _cases_of_files(folder: Path, names: Sequence[str], channel_names: Sequence[str]) -> tuple[InputCase, ...]:
    """Cases of files in one folder: channels are numbered, or called as the model calls them."""
    singles: list[tuple[str, Path]] = []
    numbered: dict[str, list[tuple[int, Path]]] = {}
    named: dict[str, list[tuple[int, Path]]] = {}
    for name in names:
        stem, path = _stem(name), folder / name
        if (channel := split_channel(stem)) is not None:
            numbered.setdefault(channel[0], []).append((channel[1], path))
        elif (word := _split_channel_name(stem, channel_names)) is not None:
            named.setdefault(word[0], []).append((word[1], path))
        else:
            singles.append((stem, path))
    cases = _cases_of_singles(folder, singles, channel_names)
    for case, found in numbered.items():
        found.sort()
        if _are_cases(found, len(channel_names)):
            cases += [InputCase(_stem(path.name), (path,)) for _, path in found]
        else:
            cases.append(_channel_case(case, found, channel_names))
    for case, found in named.items():
        if len(found) == 1:  # one file may hold all channels
            cases.append(InputCase(_stem(found[0][1].name), (found[0][1],)))
        else:
            cases.append(_channel_case(case, sorted(found), channel_names))
    return tuple(sorted(cases, key=lambda item: item.case))


def _cases_of_singles(folder: Path, files: Sequence[tuple[str, Path]], channel_names: Sequence[str]) -> list[InputCase]:
    """Cases of files, with their stems, that end neither in four digits nor in a channel of the model.

    Raises:
        UsageError: If they look like channels, and it is not known which is which.
    """
    by_stem = dict(files)
    if len(by_stem) == len(files) > 1:
        groups = group_by_number(by_stem, len(channel_names))
        if groups is not None and not holds_all_channels(files[0][1], len(channel_names)):
            return [InputCase(case, tuple(images)) for case, images in groups.items()]
        refuse_unknown_words(folder, by_stem, channel_names)
    return [InputCase(stem, (path,)) for stem, path in files]


def _split_channel_name(stem: str, channel_names: Sequence[str]) -> tuple[str, int] | None:
    """`CASE_t1` -> (`CASE`, number of the channel t1); `t1` -> (``, number); None without the name of a channel."""
    if len(channel_names) == 1:
        return None
    for number, name in enumerate(channel_names):
        if stem.casefold() == name.casefold():
            return "", number
        if (case := _without_channel_name(stem, name)) is not None:
            return case, number
    return None


def _without_channel_name(stem: str, channel_name: str) -> str | None:
    """The stem without the channel's name at its end; None if it has another end."""
    match = re.fullmatch(rf"(.+)[_\-. ]{re.escape(channel_name)}", stem, re.IGNORECASE | re.DOTALL)
    return match[1] if match else None


def _without_label_maps(names: Sequence[str], channel_names: Sequence[str], label_names: Collection[str]) -> list[str]:
    """The names that are not label maps of others in the same folder."""
    marked = {name: found[0] for name in names if (found := split_label_word(_stem(name))) is not None}
    images = {key for name in names if name not in marked for key in _possible_ids(_stem(name), channel_names)}
    return [
        name
        for name in names
        if not _is_mask_of_a_label(_stem(name), images, label_names)
        and (name not in marked or marked[name].casefold() not in images)
    ]


def _is_mask_of_a_label(stem: str, images: Collection[str], label_names: Collection[str]) -> bool:
    """Whether a name is that of an image and of a label behind it: `X_mask_liver`, or `X_liver` for a known label."""
    known = {_without_marks(name) for name in label_names}
    return any(
        case.casefold() in images and (has_label_word(rest) or _without_marks(rest) in known)
        for case, rest in readings(stem)
        if rest
    )


def _without_marks(name: str) -> str:
    """A name in lower case, without what separates its words."""
    return re.sub(r"[_\-. ]", "", name).casefold()


def _log_left_out(folder: Path, names: Sequence[str]) -> None:
    if names:
        logger.warning(
            "%s: %d files are left out, because they look like label maps beside their images: %s; to predict them "
            "too, list them in a CSV file",
            folder, len(names), ", ".join(names[:3]) + (", ..." if len(names) > 3 else ""),
        )  # fmt: skip


def _possible_ids(stem: str, channel_names: Collection[str]) -> Iterator[str]:
    """Ids of the case that an image may belong to, in lower case: its name, without number or name of its channel."""
    yield stem.casefold()
    if (channel := split_channel(stem)) is not None:
        yield channel[0].casefold()
    if (marked := split_image_word(stem)) is not None:
        yield marked[0].casefold()
    for name in channel_names:
        if (case := _without_channel_name(stem, name)) is not None:
            yield case.casefold()


def _are_cases(found: Sequence[tuple[int, Path]], num_channels: int) -> bool:
    """Whether the numbers of files with one name cannot be channels, and so number cases."""
    numbers = {number for number, _ in found}
    if num_channels > 1:
        return max(numbers) >= num_channels or (len(found) > 1 and holds_all_channels(found[0][1], num_channels))
    if 0 in numbers and len(numbers) > 1:
        names = ", ".join(path.name for _, path in found)
        logger.warning("%s: taken as separate cases, because the model has one channel", names)
    return numbers != {0}


def _channel_case(case: str, found: Sequence[tuple[int, Path]], channel_names: Sequence[str]) -> InputCase:
    images = tuple(path for _, path in found)
    numbers = [number for number, _ in found]
    if numbers in ([0], list(range(len(channel_names)))):  # one file may hold all channels
        return InputCase(case, images)
    stem = f"{case}_" if case else ""
    expected = ", ".join(f"{stem}{index:04d} ({name})" for index, name in enumerate(channel_names))
    fault = (
        f"found {', '.join(path.name for path in images)}, the model expects {expected}. Add or remove files; images "
        "that are cases of their own must not end in four digits, or must be given as a CSV or JSON list."
    )
    return InputCase(case, images, fault)


def _listed_cases(path: Path, channel_names: Sequence[str]) -> Iterator[InputCase]:
    table, columns = _read_list(path)
    columns = replace(columns, images=_ordered_columns(columns, channel_names, path))
    images = [row_images(row, columns, path.parent) for row in table.rows]
    names = _listed_names(images, by_common_part=columns.channels is not None)
    for number, (row, files, name) in enumerate(zip(table.rows, images, names, strict=True), start=1):
        if not files:
            found = {key: value for key, value in row.items() if value}
            raise UsageError(
                f"{path}: entry {number} names no image: found {found}, expected `image` with a file name, or one "
                "per channel (CSV: columns image_0, image_1, ..., or called like the channels)"
            )
        case = (cell_parts(row[columns.case])[0] if columns.case and row[columns.case] else "") or name
        if not is_file_name(case):
            raise UsageError(
                f"{path}: entry {number} has the case name {case!r}; it must be a file name, without folders"
            )
        empty = [column for column in columns.images if columns.channels is not None and not row[column]]
        fault = f"no image is listed in the column {', '.join(empty)}" if empty else ""
        yield InputCase(case, tuple(path.parent / file for file in files), fault)


def _read_list(path: Path) -> tuple[ListTable, ListColumns]:
    try:
        content = find_datalist(path)
        if content is None:
            table = read_list_table(path)
        else:
            key, table = entries_to_predict(path, content)
            logger.info("%s: the %d cases under %s are predicted", path, len(table.rows), key)
        return table, find_columns(table, needs_label=False) if table.rows else ListColumns(images=(), channels=None)
    except DatasetError as error:
        raise UsageError(str(error)) from error


def _ordered_columns(columns: ListColumns, channel_names: Sequence[str], path: Path) -> tuple[str, ...]:
    """The columns of images in the order of the model's channels, if they are called like channels."""
    if columns.channels is None:
        return columns.images
    by_name = {name.casefold(): name for name in columns.channels}
    if all(name.casefold() in by_name for name in channel_names):
        return tuple(by_name[name.casefold()] for name in channel_names)
    raise UsageError(
        f"{path}: the channels of the model are {', '.join(channel_names)}, the columns of the list "
        f"{', '.join(columns.channels)}. Call the columns like the channels, or image_0, image_1, ... in the order of "
        "the channels."
    )


def _listed_names(images: Sequence[Sequence[str]], *, by_common_part: bool) -> list[str]:
    """Names of cases that the list does not name, without the number of the first channel."""
    names = name_cases(images, by_common_part=by_common_part)
    short = [name.removesuffix("_0000") for name in names]
    return short if len(set(short)) == len(short) else names
