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
from dataclasses import replace
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.imaging.datasets.layouts.bids import find_bids_images
from autoseg.imaging.datasets.layouts.dicom_entries import dicom_entries, is_series_folder, share_a_study
from autoseg.imaging.datasets.layouts.folders import folders_with_images
from autoseg.imaging.datasets.layouts.grouping import readings
from autoseg.imaging.datasets.layouts.mask_files import has_label_word
from autoseg.imaging.datasets.layouts.names import IMAGE_FOLDERS, composed, split_image_word, split_label_word
from autoseg.imaging.datasets.layouts.pairing import image_files, visible_folders
from autoseg.imaging.datasets.lists.list_files import is_list_file
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.imaging.formats.dicom.sources import DICOM_ENDINGS, ZIP_ENDING
from autoseg.imaging.formats.reading import IMAGE_ENDINGS, is_series, split_ending
from autoseg.imaging.formats.volume import split_channel
from autoseg.inference.files.channel_groups import group_by_number, holds_all_channels, refuse_unknown_words
from autoseg.inference.files.input_cases import InputCase, ModelChannels
from autoseg.inference.files.listed_inputs import listed_cases
from autoseg.inference.files.pattern_inputs import find_pattern_images

logger = logging.getLogger("autoseg.predict")


def find_inputs(
    inputs: Path,
    channel_names: Sequence[str],
    image_pattern: str | None = None,
    label_names: Collection[str] = (),
    *,
    may_lack_channels: bool = False,
) -> tuple[InputCase, ...]:
    """Cases in the order of their names, or of the list.

    Args:
        inputs: An image file, a folder of image files, or a .csv, .tsv or .json list.
        channel_names: The channels that the model expects.
        image_pattern: Names of the images in the folder; None: they are recognised.
        label_names: Labels of the model: in a folder, `X_liver` beside the image X is the mask of its liver.
        may_lack_channels: Whether a case may lack some of the channels; else it has a fault then.

    Raises:
        UsageError: If there is no such file or folder, it holds no image, or the list cannot be understood.
    """
    channels = ModelChannels(tuple(channel_names), may_lack_channels)
    if not read_address(inputs).path.exists():
        raise UsageError(f"{inputs}: no such file or folder")
    if image_pattern is not None:
        cases = tuple(
            InputCase(case, tuple(images), "" if may_lack_channels else fault, absent if may_lack_channels else ())
            for case, images, fault, absent in find_pattern_images(inputs, image_pattern, channels)
        )
    elif not inputs.exists() or is_series_folder(inputs):
        cases = (InputCase(_case_of_series(inputs), (inputs,)),)
    elif inputs.is_dir():
        cases = _cases_in_folder(inputs, channels, label_names)
    elif is_list_file(inputs):
        cases = tuple(listed_cases(inputs, channels))
    elif may_lack_channels:
        cases = _cases_of_files(inputs.parent, [inputs.name], channels)
    else:
        cases = (InputCase(_case_name(inputs), (inputs,)),)
    if not cases and is_list_file(inputs):
        raise UsageError(f"{inputs}: the list has no rows; expected an image in each")
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


def _cases_in_folder(folder: Path, channels: ModelChannels, label_names: Collection[str]) -> tuple[InputCase, ...]:
    names = image_files(folder)
    if not names:
        return _cases_in_subfolders(folder, channels, label_names)
    if _is_one_study(folder, names, channels.names):
        return (InputCase(_case_of_series(folder), (folder,)),)
    kept = _without_label_maps(names, channels.names, label_names)
    _log_left_out(folder, [name for name in names if name not in kept])
    return _cases_of_files(folder, kept, channels)


def _cases_in_subfolders(folder: Path, channels: ModelChannels, label_names: Collection[str]) -> tuple[InputCase, ...]:
    """Cases of a dataset's folder of images, or of a folder with one subfolder for each case, or of BIDS."""
    subfolders = visible_folders(folder)
    of_bids = find_bids_images(folder, channels.names)
    if of_bids:
        return tuple(_bids_case(folder, case, files, channels) for case, files in sorted(of_bids.items()))
    images = [name for name in subfolders if name.lower() in {*IMAGE_FOLDERS, "imagests"}]
    if images:
        if len(images) > 1:
            raise UsageError(
                f"{folder}: has the folders {' and '.join(images)}; give the one with the images to predict"
            )
        logger.info("the images in %s are predicted", folder / images[0])
        return _cases_in_folder(folder / images[0], channels, label_names)
    by_folder: list[tuple[str, tuple[InputCase, ...]]] = []
    left_out = []
    for name in folders_with_images(folder, subfolders):
        files = {_stem(file): file for file in image_files(folder / name)}
        unmarked = [file for stem, file in files.items() if split_label_word(stem) is None]
        left_out += [f"{name}/{file}" for file in files.values() if unmarked and file not in unmarked]
        case = composed("_".join(part for part in name.split("/") if part.lower() not in IMAGE_FOLDERS))
        if _is_one_study(folder / name, list(files.values()), channels.names):
            by_folder.append((case, (InputCase(case, (folder / name,)),)))
            continue
        by_folder.append((case, _cases_of_files(folder / name, unmarked or list(files.values()), channels)))
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


def _bids_case(folder: Path, case: str, files: Mapping[int, str], channels: ModelChannels) -> InputCase:
    images = tuple(folder / files[number] for number in sorted(files))
    absent = tuple(number for number in range(len(channels.names)) if number not in files)
    if channels.may_lack or not absent:
        return InputCase(case, images, absent_channels=absent)
    missing = ", ".join(channels.names[number] for number in absent)
    return InputCase(case, images, f"there is no image of the channels {missing}; add it")


def _cases_of_files(folder: Path, names: Sequence[str], channels: ModelChannels) -> tuple[InputCase, ...]:
    """Cases of files in one folder: channels are numbered, or called as the model calls them."""
    singles: list[tuple[str, Path]] = []
    numbered: dict[str, list[tuple[int, Path]]] = {}
    named: dict[str, list[tuple[int, Path]]] = {}
    for name in names:
        stem, path = _stem(name), folder / name
        if (channel := split_channel(stem)) is not None:
            numbered.setdefault(channel[0], []).append((channel[1], path))
        elif (word := _split_channel_name(stem, channels.names)) is not None:
            named.setdefault(word[0], []).append((word[1], path))
        else:
            singles.append((stem, path))
    cases = _cases_of_singles(folder, singles, channels.names)
    for case, found in numbered.items():
        found.sort()
        if _are_cases(found, len(channels.names)):
            cases += [InputCase(_stem(path.name), (path,)) for _, path in found]
        else:
            cases.append(_channel_case(case, found, channels))
    for case, found in named.items():
        if len(found) == 1 and not channels.find_absent((found[0][0],), (found[0][1],)):  # it may hold all channels
            cases.append(InputCase(_stem(found[0][1].name), (found[0][1],)))
        else:
            cases.append(_channel_case(case, sorted(found), channels))
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


def _channel_case(case: str, found: Sequence[tuple[int, Path]], channels: ModelChannels) -> InputCase:
    images = tuple(path for _, path in found)
    absent = channels.find_absent([number for number, _ in found], images)
    if absent is not None:
        return InputCase(case or _stem(images[0].name), images, absent_channels=absent)
    stem = f"{case}_" if case else ""
    expected = ", ".join(f"{stem}{index:04d} ({name})" for index, name in enumerate(channels.names))
    fault = (
        f"found {', '.join(path.name for path in images)}, the model expects {expected}. Add or remove files; images "
        "that are cases of their own must not end in four digits, or must be given as a CSV or JSON list."
    )
    return InputCase(case, images, fault)
