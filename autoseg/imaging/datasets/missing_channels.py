"""Cases that lack some of the channels: which ones a dataset keeps, and what is said of them.

Layouts and lists say which channels a case lacks (`CaseFiles.absent_channels`), and call it a fault. Where the user
allows it, it is none.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.checks import CaseFacts
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.records.dataset import Fault

OPTION = "--allow-missing-channels"


def settle_missing_channels(found: FoundDataset, *, allowed: bool) -> FoundDataset:
    """The dataset with its incomplete cases kept, where they are allowed; else with faults that name the option.

    Args:
        found: Dataset as its layout or list tells it.
        allowed: Whether cases may lack channels.
    """
    if allowed:
        return replace(found, faults=tuple(fault for fault in found.faults if not fault.is_missing_channel))
    faults = tuple(_with_option(fault) if fault.is_missing_channel else fault for fault in found.faults)
    return replace(found, faults=faults)


def _with_option(fault: Fault) -> Fault:
    what = f"{fault.what}; add it, or let cases lack channels with {OPTION}"
    return fault.model_copy(update={"what": what})


def describe_channels(found: FoundDataset, facts: Sequence[CaseFacts], names: Sequence[str]) -> list[str]:
    """Describe how many cases have each channel, where cases may lack some.

    Args:
        found: Dataset whose cases may lack channels.
        facts: What its files hold.
        names: Names of all channels.

    Returns:
        One note.

    Raises:
        DatasetError: If there is one channel only, or a channel is in no case.
    """
    if len(names) < 2:
        raise DatasetError(
            f"{found.folder}: {OPTION}: the images have one channel, {', '.join(names)}, which no case can do without. "
            "Leave the option out."
        )
    absent = Counter(channel for case in facts for channel in case.files.absent_channels)
    nowhere = [name for channel, name in enumerate(names) if absent[channel] == len(facts)]
    if nowhere:
        raise DatasetError(
            f"{found.folder}: no case has an image of the channel {', '.join(nowhere)}. Add some, or take the channel "
            "out of the names of channels."
        )
    counts = ", ".join(f"{name} in {len(facts) - absent[channel]}" for channel, name in enumerate(names))
    complete = sum(not case.files.absent_channels for case in facts)
    return [f"cases may lack channels: {complete} of {len(facts)} cases have all of them; {counts}"]
