"""Counts and times networks of other packages, apart from planning: `python -m autoseg.cli.measure_network FILE ...`.

Each file holds a `NetworkToMeasure`; one beside it with `.measured` in its name gets a `MeasuredNetwork`.
`autoseg.stages.measure` starts it.

Tested in tests/stages/test_measure.py.
"""

import sys
from pathlib import Path

from autoseg.errors import AutosegError
from autoseg.networks.counting import count_costs
from autoseg.networks.devices import keep_freed_memory
from autoseg.records.budget import MeasuredNetwork, NetworkToMeasure
from autoseg.records.files import read_record, write_record
from autoseg.training.probe import time_network


def measure(request: NetworkToMeasure) -> MeasuredNetwork:
    """Count a network on every patch, and time it on one.

    Raises:
        UsageError: If it cannot be built or fails on a patch.
    """
    costs = count_costs(request.network, request.patch_sizes)
    if request.device is None:
        return MeasuredNetwork(costs=costs)
    keep_freed_memory()  # as training does
    network = request.network.model_copy(update={"costs": costs})
    return MeasuredNetwork(costs=costs, throughput=time_network(network, request.timed_patch_size, request.device))


if __name__ == "__main__":
    try:
        for path in map(Path, sys.argv[1:]):
            write_record(measure(read_record(NetworkToMeasure, path)), path.with_suffix(".measured.json"))
    except AutosegError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
