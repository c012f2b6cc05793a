"""The channels of clicks where there are none.

Tested in tests/stages/test_correct.py.
"""

from collections.abc import Sequence

import numpy as np

from autoseg.imaging.formats.volume import AnyArray
from autoseg.records.plan import Configuration, count_presence_planes


def no_clicks(configuration: Configuration, num_channels: int, shape: Sequence[int]) -> list[AnyArray]:
    """Zeros for the clicks on each label, background first; none where a configuration has no such channels.

    Args:
        configuration: Its input is the image, the clicks on each label, and the foreground labels of its previous step.
        num_channels: Channels of the image, neighbouring slices included.
        shape: (Z, Y, X).

    Returns:
        Arrays (Z, Y, X) that take no memory.
    """
    if configuration.clicks is None:
        return []
    appended = configuration.network.input_channels - num_channels - count_presence_planes(configuration)
    num_labels = (appended + 1) // 2  # background is one of them, and has no channel of the previous step
    return [np.broadcast_to(np.float32(0), tuple(shape))] * num_labels
