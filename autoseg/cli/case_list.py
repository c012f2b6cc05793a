"""`--write-list` of `autoseg plan` and `run`: the recognised cases as a list that can be edited."""

import argparse


def write_list(arguments: argparse.Namespace) -> int:
    """Write the list that --write-list names, say what was recognised and what is wrong with it; plans nothing.

    Raises:
        DatasetError: If the dataset has no known layout.
        UsageError: If the list cannot be written.
    """
    from autoseg.cli.main import DONE
    from autoseg.cli.planning_request import read_patterns
    from autoseg.imaging.datasets.layouts import find_dataset, order_images
    from autoseg.imaging.datasets.list_writing import image_columns, write_case_list
    from autoseg.text import format_command

    found = find_dataset(arguments.dataset, read_patterns(arguments))
    names = arguments.channels or found.channel_names
    found = order_images(found, names) if names else found
    write_case_list(found, arguments.write_list)
    for note in found.notes:
        print(f"note: {note}")
    for fault in found.faults:
        print(f"{fault.severity}: {fault.case or '-'}: {fault.file or '-'}: {fault.what}")
    options = ["--channels", ",".join(names)] if names and image_columns(found) != list(names) else []
    labels = (arguments.label_names.labels if arguments.label_names else found.labels) or {}
    if labels and all(isinstance(value, int) for value in labels.values()):
        options += ["--label-names", ",".join(f"{name}={value}" for name, value in labels.items())]
    print(f"List: {arguments.write_list} ({len(found.cases)} cases)")
    print(f"Next: {format_command('autoseg-plan', arguments.write_list, *options)}")
    return DONE
