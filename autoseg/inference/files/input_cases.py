"""A case to predict, and the channels of the model that its files are.

Tested in tests/inference/files/test_inputs.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.imaging.arrays.absent_channels import fill_absent_channels
from autoseg.imaging.formats.reading import Volume, read_image
from autoseg.inference.files.channel_groups import holds_all_channels


@dataclass(frozen=True)
class InputCase:
    """One case to predict."""

    case: str
    images: tuple[Path, ...]
    """One file, or one per channel in channel order."""
    fault: str = ""
    """Why the case cannot be predicted; empty when its files look complete."""
    absent_channels: tuple[int, ...] = ()
    """Numbers of the channels that the case lacks, ascending; `images` are the files of the others."""


@dataclass(frozen=True)
class ModelChannels:
    """Channels of a model."""

    names: tuple[str, ...]
    may_lack: bool = False
    """Whether a case may lack some of them."""

    def find_absent(self, numbers: Sequence[int], files: Sequence[Path]) -> tuple[int, ...] | None:
        """Numbers of the channels that a case lacks; None if its files are not those that the model expects.

        Args:
            numbers: Number of the channel of each file, ascending.
            files: Image files of the case. One alone may hold all channels.
        """
        everything = list(range(len(self.names)))
        if list(numbers) == everything:
            return ()
        if not self.may_lack:
            return () if list(numbers) == [0] else None
        if len(set(numbers)) < len(numbers) or not set(numbers) <= set(everything):
            return None
        if len(files) == 1 and holds_all_channels(files[0], len(self.names)):
            return ()
        return tuple(number for number in everything if number not in numbers)


def read_input(item: InputCase) -> Volume:
    """The image of a case, with zeros in place of the channels that it lacks.

    Raises:
        ImageFileError: If a file cannot be read, or the files' grids differ.
    """
    volume = read_image(item.images)
    return replace(volume, array=fill_absent_channels(volume.array, item.absent_channels))
