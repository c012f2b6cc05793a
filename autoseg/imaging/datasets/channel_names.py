"""Names of a dataset's channels: given, declared, told by the names of files, or guessed from the intensities.

Tested in tests/stages/test_describe.py.
"""

from collections.abc import Sequence

from autoseg.imaging.datasets.checks import CaseFacts
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.records.dataset import Fault


def choose_channel_names(
    found: FoundDataset, facts: Sequence[CaseFacts], given: Sequence[str] | None, num_channels: int
) -> tuple[tuple[str, ...], list[str]]:
    """Given names, else declared ones, else a guess from the intensities; and a note about the guess."""
    names = tuple(given) if given is not None else found.channel_names or found.channel_words
    if names is not None:
        return names, []
    usual = [case for case in facts if case.image_hash and len(case.hounsfield_channels) == num_channels]
    if usual and all(case.is_colour_picture for case in usual):
        return ("R", "G", "B"), ["no channel names are declared; colour images have the channels R, G, B"]
    guessed = tuple(_guessed_name(index, usual) for index in range(num_channels))
    reason = "whole numbers from about -1000 on are Hounsfield units, CT" if "CT" in guessed else "not Hounsfield units"
    return guessed, [f"no channel names are declared; guessed from the intensities ({reason}): {', '.join(guessed)}"]


def check_channel_names(names: Sequence[str], num_channels: int, *, is_given: bool) -> list[Fault]:
    """Errors about names of channels that are more or fewer than the images' channels.

    Args:
        names: Names of the channels.
        num_channels: Channels of the images.
        is_given: Whether the user gave the names.
    """
    if len(names) == num_channels:
        return []
    source = "were given" if is_given else "are declared"
    what = f"{len(names)} channel names {source} ({', '.join(names)}), but the images have {num_channels} channels"
    return [Fault(severity="error", case="", file="" if is_given else "dataset.json", what=what)]


def _guessed_name(index: int, cases: Sequence[CaseFacts]) -> str:
    with_channel = [case for case in cases if index not in case.files.absent_channels]
    num_hounsfield = sum(case.hounsfield_channels[index] for case in with_channel)
    return "CT" if 2 * num_hounsfield > len(with_channel) else f"channel_{index}"
