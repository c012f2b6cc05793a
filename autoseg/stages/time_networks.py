"""Time networks: a training step and a prediction of every listed network, on this device, within a limit of time.

Tested in tests/stages/test_time_networks.py.
"""

import time
from collections.abc import Sequence

from autoseg.progress import Progress, no_progress
from autoseg.records.network_table import NetworkRow
from autoseg.stages.list_networks import ListedNetwork
from autoseg.training.probe import time_configuration


def time_networks(
    listed: Sequence[ListedNetwork], device: str, max_seconds: float, progress: Progress = no_progress
) -> tuple[NetworkRow, ...]:
    """Measure networks in their order, until the time is over.

    Args:
        listed: Networks.
        device: A name of `choose_device`.
        max_seconds: No network is begun after so many seconds.
        progress: Called after each network.

    Returns:
        Their rows; those that were not reached, and those that the device's memory is too small for, without times.

    Raises:
        UsageError: If the device does not exist, or the package of a network does not build it.
    """
    end, rows = time.monotonic() + max_seconds, []
    for done, network in enumerate(listed, start=1):
        row = network.row
        if time.monotonic() < end and (seconds := time_configuration(network.configuration, device)) is not None:
            row = row.model_copy(update={"step_seconds": seconds[0], "prediction_seconds": seconds[1]})
        rows.append(row)
        progress(done, len(listed))
    return tuple(rows)
