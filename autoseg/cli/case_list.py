"""`--write-list` of `autoseg plan` and `run`: the recognised cases as a list that can be edited."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoseg.imaging.datasets.labels.label_tables import LabelNames
    from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset


def write_list(arguments: argparse.Namespace) -> int:
    """Write the list that --write-list names, say what was recognised and what is wrong with it; plans nothing.

    Raises:
        DatasetError: If the dataset has no known layout.
        UsageError: If the list cannot be written.
    """
    from autoseg.cli.main import DONE
    from autoseg.cli.planning_request import read_patterns
    from autoseg.imaging.datasets.layouts.found_dataset import order_images
    from autoseg.imaging.datasets.layouts.recognition import find_dataset
    from autoseg.imaging.datasets.list_writing import image_columns, write_case_list
    from autoseg.imaging.datasets.missing_channels import OPTION, settle_missing_channels
    from autoseg.text import format_command

    allowed = arguments.allow_missing_channels
    found = find_dataset(arguments.dataset, read_patterns(arguments), missing_channels=allowed)
    if arguments.allow_missing_channels:
        found = settle_missing_channels(found, allowed=True)
    names = arguments.channels or found.channel_names
    found = order_images(found, names) if names else found
    write_case_list(found, arguments.write_list)
    for note in found.notes:
        print(f"note: {note}")
    for fault in found.faults:
        print(f"{fault.severity}: {fault.case or '-'}: {fault.file or '-'}: {fault.what}")
    options: list[str | Path] = ["--channels", ",".join(names)] if names and image_columns(found) != list(names) else []
    options += [OPTION] if arguments.allow_missing_channels else []
    options += _label_options(arguments.label_names, found)
    print(f"List: {arguments.write_list} ({len(found.cases)} cases)")
    print(f"Next: {format_command('autoseg-plan', arguments.write_list, *options)}")
    return DONE


def _label_options(given: "LabelNames | None", found: "FoundDataset") -> list[str | Path]:
    """--label-names for labels that a list does not hold: those that are given, else those that are declared."""
    from autoseg.imaging.arrays.labels import choose_region_order

    if given is not None and given.source is not None:
        return ["--label-names", given.source]
    labels = (found.labels if given is None else given.labels) or {}
    order = found.regions_class_order if given is None else given.regions_class_order
    if not labels or order != choose_region_order(labels):
        return []
    values = {name: (value,) if isinstance(value, int) else value for name, value in labels.items()}
    return ["--label-names", ",".join(f"{name}={'+'.join(map(str, value))}" for name, value in values.items())]
