"""Layouts with a mask file for each label, several for each case; the name of a file names its label.

    s1/ct, s1/segmentations/liver, s1/segmentations/spleen  ->  case s1, image ct, labels liver and spleen

No image is opened here: that every mask has one value besides 0 is checked with the case.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.imaging.datasets.layouts.grouping import Group, group_by_label, one_case, readings
from autoseg.imaging.datasets.layouts.names import (
    CHANNEL_WORDS,
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    LABEL_WORDS,
    split_image_word,
)
from autoseg.imaging.datasets.layouts.pairing import files_by_stem, visible_folders
from autoseg.records.dataset import Fault, LabelPart

OBJECT = "object"
"""Name of the label where every mask shows one of many objects and its name says nothing."""

_ANY_WORD = "|".join(sorted(LABEL_WORDS, key=len, reverse=True))
_WORD = re.compile(rf"(?:^|(?<=[_\-. ]))(?:{_ANY_WORD})(?=[_\-. ]|$)", re.IGNORECASE)
_MARKS = "_-. "

Masks = dict[str, tuple[LabelPart, ...]]
"""Masks of each case."""


@dataclass(frozen=True)
class MaskCases:
    """Cases whose labels have files of their own."""

    groups: list[Group]
    masks: Masks
    left_over: list[str]
    """Images without masks."""
    faults: list[Fault]


def find_case_folders(folder: Path) -> MaskCases | None:
    """One subfolder for each case: CASE/ct and CASE/segmentations/liver, or CASE/mask_liver."""
    found = _cases_of_folders(folder, _masks_in_case_folder)
    # With one file in every case it is a label map, which may have several values.
    return found if found and any(len(parts) > 1 for parts in found.masks.values()) else None


def find_unmarked_case_folders(folder: Path) -> MaskCases | None:
    """One subfolder for each case, where no word marks the masks: CASE/ct and CASE/liver."""
    found = _cases_of_folders(folder, _unmarked_in_case_folder)
    named = {part.file: (case, part.label) for case, parts in found.masks.items() for part in parts} if found else {}
    return found if _are_labels(named) else None


def find_label_map_folders(folder: Path) -> MaskCases | None:
    """One subfolder for each case, with a folder of its own for the label map: CASE/image and CASE/seg/ANYTHING."""
    found = _cases_of_folders(folder, _label_map_in_case_folder)
    return None if found is None else replace(found, masks={})


def find_two_folders(folder: Path) -> MaskCases | None:
    """One folder of images and one of masks: masks/CASE/liver, masks/liver/CASE or masks/CASE_liver."""
    subfolders = visible_folders(folder)
    image_folders = [name for name in subfolders if name.lower() in IMAGE_FOLDERS]
    label_folders = [name for name in subfolders if name.lower() in LABEL_FOLDERS]
    if len(image_folders) != 1 or len(label_folders) != 1:
        return None
    images, faults = files_by_stem(folder, image_folders[0])
    if not images:
        return None
    cases = {key for stem in images for key, _ in readings(stem)}
    files, label_faults = files_by_stem(folder, label_folders[0])
    named = dict(_named_by_prefix(files, cases))
    for name in visible_folders(folder / label_folders[0]):
        inside, inside_faults = files_by_stem(folder, f"{label_folders[0]}/{name}")
        label_faults += inside_faults
        for stem, file in inside.items():
            # masks/CASE/liver, or masks/liver/CASE
            case_and_label = (name, _label_name(stem, (name,))) if name in cases else (_without_word(stem), name)
            named[file] = case_and_label
    if not named or len(named) < len(files) or any(not label for _, label in named.values()):
        return None
    return _grouped(images, named, [*faults, *label_faults])


def find_one_folder(folder: Path) -> MaskCases | None:
    """Images and masks side by side: CASE, CASE_mask_liver, CASE_mask_spleen."""
    files, faults = files_by_stem(folder, "")
    masks = {stem: file for stem, file in files.items() if has_label_word(stem)}
    images = {stem: file for stem, file in files.items() if stem not in masks}
    named = dict(_named_by_prefix(masks, {key for stem in images for key, _ in readings(stem)}))
    labels = {label for _, label in named.values()}
    if "" in labels and len(labels) > 1 and all(label.isdecimal() for label in labels - {""}):
        named = {file: (case, OBJECT) for file, (case, _) in named.items()}  # CASE_mask, CASE_mask_1, CASE_mask_2
    if not named or len(named) < len(masks) or any(not label for _, label in named.values()):
        return None
    return _grouped(images, named, faults)


def find_unmarked_one_folder(folder: Path) -> MaskCases | None:
    """Images and masks side by side, where no word marks the masks: CASE, CASE_liver, CASE_spleen."""
    files, faults = files_by_stem(folder, "")
    named = {
        file: (case, label)
        for stem, file in files.items()
        for case, label in list(readings(stem))[::-1]
        if label and case in files and not _is_image_word(label)
    }
    images = {stem: file for stem, file in files.items() if file not in named}
    if not _are_labels(named) or len(images) != len({case for case, _ in named.values()}):
        return None
    return _grouped(images, named, faults)


def _cases_of_folders(
    folder: Path, find_masks: Callable[[Path, str], tuple[dict[str, str], Masks]]
) -> MaskCases | None:
    """Cases of subfolders whose images and masks a function tells apart."""
    groups: list[Group] = []
    masks: Masks = {}
    faults: list[Fault] = []
    for name in visible_folders(folder):
        images, of_case = find_masks(folder, name)
        if not images and not of_case:
            continue
        masks |= of_case
        if not images or not of_case:
            file = next(iter(images.values())) if images else of_case[name][0].file
            what = "there is no mask in the folder of this image" if images else "there is no image beside these masks"
            faults.append(Fault(severity="error", case=name, file=file, what=what))
        if images:
            label = of_case[name][0].file if of_case else ""
            groups.append(one_case(name, images, label, (name,)))
    with_masks = [group for group in groups if group.label]
    if not with_masks or 2 * len(with_masks) < len(groups):
        return None
    return MaskCases(groups, _one_label_for_objects(masks), [], faults)


def _masks_in_case_folder(folder: Path, name: str) -> tuple[dict[str, str], Masks]:
    """Images by stem, and masks of the case; masks lie in a folder of their own, or a word marks them."""
    files, _ = files_by_stem(folder, name)
    images = {stem: file for stem, file in files.items() if not has_label_word(stem)}
    found = {stem: file for stem, file in files.items() if stem not in images}
    for subfolder in visible_folders(folder / name):
        inside, _ = files_by_stem(folder, f"{name}/{subfolder}")
        if subfolder.lower() in LABEL_FOLDERS:
            found |= inside
        elif subfolder.lower() in IMAGE_FOLDERS:
            images |= inside
    if len(group_by_label(images, {_without_word(stem): file for stem, file in found.items()})[0]) > 1:
        return images, {}  # several cases in one folder
    prefixes = (*images, name)
    parts = tuple(LabelPart(label=_label_name(stem, prefixes), file=file) for stem, file in found.items())
    return images, {name: parts} if parts and all(part.label for part in parts) else {}


def _label_map_in_case_folder(folder: Path, name: str) -> tuple[dict[str, str], Masks]:
    """Images by stem, and the only file of the case's folder of label maps."""
    images, masks = _masks_in_case_folder(folder, name)
    inside = [
        file
        for subfolder in visible_folders(folder / name)
        if subfolder.lower() in LABEL_FOLDERS
        for file in files_by_stem(folder, f"{name}/{subfolder}")[0].values()
    ]
    return images, {name: (LabelPart(label="", file=inside[0]),)} if len(inside) == 1 else masks


def _unmarked_in_case_folder(folder: Path, name: str) -> tuple[dict[str, str], Masks]:
    """Images by stem, and masks of the case; images are called like the case, or by a word for images or channels."""
    files, _ = files_by_stem(folder, name)
    images = {stem: file for stem, file in files.items() if _is_image_word(_label_name(stem, (name,)))}
    parts = tuple(
        LabelPart(label=_label_name(stem, (name,)), file=file) for stem, file in files.items() if stem not in images
    )
    return images, {name: parts} if parts and images else {}


def _named_by_prefix(files: Mapping[str, str], cases: set[str]) -> Iterable[tuple[str, tuple[str, str]]]:
    """File, with case and label, of every mask that begins with the name of a case; the longest case first."""
    for stem, file in files.items():
        for text in (stem, _without_word(stem)):
            case = next((key for key, _ in readings(text) if key in cases), None)
            if case is not None:
                yield file, (case, _without_word(text[len(case) :].lstrip(_MARKS)))
                break


def _grouped(images: Mapping[str, str], named: Mapping[str, tuple[str, str]], faults: list[Fault]) -> MaskCases:
    """Cases from the case and the label of every mask file."""
    masks: Masks = {}
    for file, (case, label) in named.items():
        masks[case] = (*masks.get(case, ()), LabelPart(label=label, file=file))
    groups, left_over = group_by_label(images, {case: parts[0].file for case, parts in masks.items()})
    found = {group.case for group in groups}
    faults += [
        Fault(severity="error", case=case, file=parts[0].file, what="there is no image for this mask")
        for case, parts in masks.items()
        if case not in found
    ]
    return MaskCases(groups, _one_label_for_objects(masks), left_over, faults)


def _one_label_for_objects(masks: Masks) -> Masks:
    """One label for all masks where no name occurs in two cases: they name objects, and not labels.

    Where every case has one file and all have one name, they are label maps that may have several values.
    """
    count = Counter(label for parts in masks.values() for label in {part.label for part in parts})
    if len(count) == 1 and all(len(parts) == 1 for parts in masks.values()):
        return {}
    if len(masks) < 2 or max(count.values()) > 1:
        return masks
    return {case: tuple(part.model_copy(update={"label": OBJECT}) for part in parts) for case, parts in masks.items()}


def _are_labels(named: Mapping[str, tuple[str, str]]) -> bool:
    """Whether names without a word for masks can be those of labels: words, most of which occur in several cases."""
    count = Counter(label for _, label in named.values())
    cases = {case for case, _ in named.values()}
    return (
        bool(named) and not any(label.isdecimal() for label in count) and (len(cases) == 1 or min(count.values()) > 1)
    )


def has_label_word(text: str) -> bool:
    """Whether one of the words in a name marks label maps: `X_mask_liver`."""
    return _WORD.search(text) is not None


def _label_name(stem: str, prefixes: Iterable[str]) -> str:
    """The name of a mask without the name of its case or image, and without the word that marks masks."""
    for prefix in sorted(prefixes, key=len, reverse=True):
        if prefix and stem.casefold().startswith(prefix.casefold()) and stem[len(prefix) : len(prefix) + 1] in _MARKS:
            return _without_word(stem[len(prefix) :].lstrip(_MARKS))
    return _without_word(stem)


def _without_word(text: str) -> str:
    """A name without the first word that marks label maps, and the mark beside it."""
    match = _WORD.search(text)
    if match is None:
        return text
    before, after = text[: match.start()].rstrip(_MARKS), text[match.end() :].lstrip(_MARKS)
    return f"{before}{text[match.end() : match.end() + 1]}{after}" if before and after else before or after


def _is_image_word(word: str) -> bool:
    """Whether what is left of a name says that the file is an image: nothing, `image`, or the name of a channel."""
    marked = split_image_word(word)
    return not word or word.casefold() in CHANNEL_WORDS or (marked is not None and not marked[0])
