"""The cases to predict that a list names.

Tested in tests/inference/files/test_inputs.py.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.errors import DatasetError, UsageError
from autoseg.imaging.datasets.lists.case_lists import find_absent, row_images
from autoseg.imaging.datasets.lists.case_names import name_cases
from autoseg.imaging.datasets.lists.datalists import entries_to_predict, find_datalist
from autoseg.imaging.datasets.lists.list_columns import ListColumns, cell_parts, find_columns
from autoseg.imaging.datasets.lists.list_files import ListTable, read_list_table
from autoseg.inference.files.input_cases import InputCase, ModelChannels
from autoseg.records.names import is_file_name

logger = logging.getLogger("autoseg.predict")


def listed_cases(path: Path, channels: ModelChannels) -> Iterator[InputCase]:
    """Cases of a list, in its order.

    Args:
        path: The list.
        channels: Channels of the model.

    Raises:
        UsageError: If the list cannot be understood, or an entry names no image or a case that cannot name a file.
    """
    table, columns = _read_list(path)
    ordered = _ordered_columns(columns, channels, path)
    columns = replace(columns, images=tuple(name for name in ordered if name))
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
        fault = f"no image is listed in the column {', '.join(empty)}" if empty and not channels.may_lack else ""
        absent = find_absent(row, ordered) if channels.may_lack else ()
        yield InputCase(case, tuple(path.parent / file for file in files), fault, absent)


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


def _ordered_columns(columns: ListColumns, channels: ModelChannels, path: Path) -> tuple[str, ...]:
    """The columns of images in the order of the model's channels, if they are called like channels.

    Empty for a channel without a column, where cases may lack it.
    """
    channel_names = channels.names
    if columns.channels is None:
        return columns.images
    by_name = {name.casefold(): name for name in columns.channels}
    if all(name.casefold() in by_name for name in channel_names):
        return tuple(by_name[name.casefold()] for name in channel_names)
    if channels.may_lack and by_name.keys() <= {name.casefold() for name in channel_names}:
        return tuple(by_name.get(name.casefold(), "") for name in channel_names)
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
