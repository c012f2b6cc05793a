"""What the columns of a list hold: case, image or channels, label map, group, fold.

Names of columns may be written in capitals, with blanks or hyphens, and end in `path` or `file`. One rule for all
others: a column with image files is a channel that is called like the column; any other column is not used, and said.

Tested in tests/imaging/datasets/lists/test_case_lists.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.names import IMAGE_WORDS, LABEL_WORDS, split_label_word
from autoseg.imaging.datasets.lists.list_files import Cell, ListTable
from autoseg.imaging.formats.volume import IMAGE_ENDINGS, split_ending

CASE_COLUMNS = ("case", "case_id", "caseid", "case_name", "id", "name")
"""Names of the column with the case id; the first of them that a list has counts."""

GROUP_COLUMNS = (
    "group", "group_id", "patient", "patient_id", "patientid", "subject", "subject_id", "subjectid", "participant",
    "participant_id", "person",
)  # fmt: skip
"""Names of the column whose equal values stay in one fold."""

FOLD_COLUMNS = ("fold", "folds")
"""Names of the column with the fold whose validation set a case belongs to."""

SPLIT_COLUMNS = ("split", "subset", "partition", "set")
"""Names of the column that divides the cases into training, validation and test, if nothing else is in it."""

SPLIT_FOLDS = {
    "train": "", "training": "", "val": "0", "valid": "0", "validation": "0", "dev": "0",
    "test": "test", "testing": "test", "": "",
}  # fmt: skip
"""Folds by the words of such a column; `test` is no fold."""

ANNOTATED_COLUMNS = ("annotated", "annotated_labels", "labels_annotated")
"""Names of the column with the labels that were looked for in a case."""

INSTANCE_COLUMNS = ("instances", "instance_map", "instance_ids")
"""Names of the column with the map that has a number for each object."""

LABEL_COLUMNS = frozenset({*LABEL_WORDS, "reference", "target", "annotations"})
"""Names of the column with the label map, without `_`; a name with one of `LABEL_WORDS` at either end will do."""

_KNOWN_COLUMNS = (CASE_COLUMNS, GROUP_COLUMNS, FOLD_COLUMNS, SPLIT_COLUMNS, ANNOTATED_COLUMNS, INSTANCE_COLUMNS)

_IMAGE_COLUMNS = frozenset({*IMAGE_WORDS, "images", "input"})
_NUMBERED_IMAGE = re.compile(r"(?:image|img|channel|input|modality)_?([0-9]{1,9})")


@dataclass(frozen=True)
class ListColumns:
    """Names of the columns by what they hold; empty where there is no such column."""

    images: tuple[str, ...]
    """Columns with image files, in the order of the channels."""
    channels: tuple[str, ...] | None
    """Channels that the columns name; None: `image`, or `image_0`, `image_1`, ..."""
    label: str = ""
    masks: tuple[tuple[str, str], ...] = ()
    """Columns of masks, one for each label, with the labels; there is no column of label maps then."""
    case: str = ""
    group: str = ""
    fold: str = ""
    split: str = ""
    annotated: str = ""
    instances: str = ""
    unused: tuple[str, ...] = ()
    """Columns that are not used."""


def find_columns(table: ListTable, *, needs_label: bool = True) -> ListColumns:
    """Find out what each column of a list holds.

    Args:
        table: The list.
        needs_label: Whether the list must have label maps, as for training.

    Raises:
        DatasetError: If there is no column of images or, where it is needed, of label maps; or several columns hold
            the same.
    """
    words = {name: _normalize(name) for name in table.columns}
    case, group, fold, split, annotated, instances = (_first(words, known) for known in _KNOWN_COLUMNS)
    split = split if split and all(_is_split_word(row[split]) for row in table.rows) else ""
    left = {
        name: word
        for name, word in words.items()
        if not name or name not in (case, group, fold, split, annotated, instances)
    }
    marked = [name for name, word in left.items() if _is_exact(word) or split_label_word(word) is not None]
    masks = _mask_columns(table, marked)
    label = "" if masks else _label_column(table, marked)
    left = {name: word for name, word in left.items() if not name or (name != label and name not in dict(masks))}
    images, channels = _image_columns(table, left)
    if not images or (needs_label and not label and not masks):
        expected = "image (or image_0, image_1, ..., or a column for each channel, such as t1,flair)"
        raise DatasetError(
            f"{table.path}: expected the columns {expected}{' and label' if needs_label else ''}, found "
            f"{', '.join(table.columns) or 'none'}"
        )
    return ListColumns(
        images=images,
        channels=channels,
        label=label,
        masks=masks,
        case=case,
        group=group,
        fold=fold,
        split=split,
        annotated=annotated,
        instances=instances,
        unused=tuple(name for name in left if name not in images),
    )


def is_channel_column(name: str) -> bool:
    """Whether a column of this name with image files is read as the channel of this name."""
    word = _normalize(name)
    is_known = any(word in columns for columns in _KNOWN_COLUMNS) or _is_exact(word)
    is_plain = name == name.strip() != "" and not is_known and split_label_word(word) is None
    return is_plain and _channel_number(word) is None


def _normalize(name: str) -> str:
    """A column's name as it is compared: lower case, `_` for blanks and hyphens, without `_path` or `_file`."""
    word = re.sub(r"[\s\-]+", "_", name.casefold())
    return re.sub(r"_?(?:filename|filepath|path|file)$", "", word) or word


def _is_split_word(cell: Cell) -> bool:
    word = " ".join(cell_parts(cell)).casefold()
    return word in SPLIT_FOLDS or word.isdecimal()


def _first(words: dict[str, str], known: Sequence[str]) -> str:
    found = [(known.index(word), name) for name, word in words.items() if word in known]
    return min(found)[1] if found else ""


def _mask_columns(table: ListTable, marked: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Columns of masks with their labels, if several columns are called mask_LABEL or LABEL_mask."""
    named = tuple((name, mask_label(name)) for name in marked if _holds_files(table, name))
    return named if len(named) > 1 and all(label for _, label in named) else ()


def mask_label(column: str) -> str:
    """The label of a column of masks: `liver` for `mask_liver` or `liver_seg`; empty for a column of label maps."""
    found = split_label_word(column) or split_label_word(_normalize(column))
    return found[0] if found else ""


def _label_column(table: ListTable, marked: Sequence[str]) -> str:
    with_files = [name for name in marked if _holds_files(table, name)]
    if len(with_files) > 1:
        raise DatasetError(
            f"{table.path}: several columns hold label maps: {', '.join(with_files)}; expected one, or a column for "
            "each label, such as mask_liver,mask_spleen. Remove the others."
        )
    exact = [name for name in marked if _is_exact(_normalize(name))]
    return next(iter([*with_files, *exact]), "")


def _is_exact(word: str) -> bool:
    return word.replace("_", "") in LABEL_COLUMNS


def _image_columns(table: ListTable, words: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Columns of images in the order of channels, and the names of the channels if the columns tell them."""
    numbers = {name: number for name, word in words.items() if (number := _channel_number(word)) is not None}
    named = tuple(name for name in words if name and name not in numbers and _holds_files(table, name))
    numbered = sorted(numbers, key=numbers.__getitem__)
    if named and numbered:
        raise DatasetError(
            f"{table.path}: images are in the columns {', '.join(numbered)}, and image files in {', '.join(named)} "
            "too. Give each channel a column that is called like it, such as t1,flair, or remove the columns that are "
            "not to be used."
        )
    if len(set(numbers.values())) < len(numbers):
        raise DatasetError(f"{table.path}: several columns hold the same channel: {', '.join(numbered)}")
    return (named, named) if named else (tuple(numbered), None)


def _channel_number(word: str) -> int | None:
    """0 for `image`, 3 for `image_3`; None for a column that is called otherwise."""
    match = _NUMBERED_IMAGE.fullmatch(word)
    if match is not None:
        return int(match[1])
    return 0 if word in _IMAGE_COLUMNS else None


def _holds_files(table: ListTable, column: str) -> bool:
    """Whether any cell of a column is the name of a file that can be read."""
    return any(split_ending(path)[1] in IMAGE_ENDINGS for row in table.rows for path in cell_parts(row[column]))


def cell_parts(cell: Cell) -> tuple[str, ...]:
    """Paths in a cell; none in an empty one."""
    parts = (cell,) if isinstance(cell, str) else cell
    return tuple(part for part in parts if part)
