"""What is known of a dataset from names of files and JSON, before any image is opened.

Tested in tests/imaging/datasets/layouts/test_recognition.py and tests/stages/test_describe.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.records.dataset import CaseFiles, Fault, LabelValues, LayoutName


@dataclass(frozen=True)
class FoundDataset:
    """Facts about a dataset from file names and JSON, before any image is opened."""

    name: str
    folder: Path
    layout: LayoutName
    cases: tuple[CaseFiles, ...]
    """Cases sorted by id; a case named in an error among `faults` is listed too."""
    faults: tuple[Fault, ...] = ()
    labels: dict[str, LabelValues] | None = None
    """Declared labels; None: not declared, to be found in the label maps."""
    regions_class_order: tuple[int, ...] | None = None
    value_names: Mapping[int, str] | None = None
    """Names of the values in the label maps, of which those that occur become labels; None: there is no table."""
    overlapping: bool = False
    """Whether labels in masks of their own overlap."""
    channel_names: tuple[str, ...] | None = None
    """Declared names; None: not declared."""
    channel_words: tuple[str, ...] | None = None
    """Channels that the names of the files tell, in the order of each case's images; None: they tell none."""
    notes: tuple[str, ...] = ()
    """What was recognised, one sentence each."""
    list_file: Path | None = None
    """The list that names the files; None: a folder."""

    @property
    def source(self) -> Path:
        """The list or folder, for messages."""
        return self.list_file or self.folder


def order_images(found: FoundDataset, names: Sequence[str]) -> FoundDataset:
    """The dataset with images in the order of channel names, where the names of the files tell their channels.

    Args:
        found: Dataset; a case with another number of channels, which is an error, stays as it is.
        names: Channel names that the user or dataset.json gives.

    Raises:
        DatasetError: If the files name several channels, and other ones.
    """
    words = found.channel_words
    if words is None or len(words) == 1:
        return found
    position = {word.casefold(): index for index, word in enumerate(words)}
    if {name.casefold() for name in names} != position.keys() or len(names) != len(words):
        raise DatasetError(
            f"{found.folder}: the channels are called {', '.join(names)}, but in the names of the files "
            f"{', '.join(words)}, and it is not known which is which. Call them as the files do, in any order."
        )
    order = [position[name.casefold()] for name in names]
    cases = tuple(
        _with_order(files, order) if len(files.images) + len(files.absent_channels) == len(words) else files
        for files in found.cases
    )
    return replace(found, cases=cases, channel_words=tuple(words[index] for index in order))


def _with_order(files: CaseFiles, order: Sequence[int]) -> CaseFiles:
    """The case with its channels in another order: `order` has the old number of each new channel."""
    present = [channel for channel in range(len(order)) if channel not in files.absent_channels]
    file_of = dict(zip(present, files.images, strict=True))
    images = tuple(file_of[channel] for channel in order if channel in file_of)
    absent = tuple(number for number, channel in enumerate(order) if channel not in file_of)
    return files.model_copy(update={"images": images, "absent_channels": absent})
