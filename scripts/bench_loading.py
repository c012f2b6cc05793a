"""What it costs the training process to receive batches from its workers: CPU time and wall time for each batch.

The workers only cut patches out of noise, so that nothing but the delivery is measured.

    python scripts/bench_loading.py
    python scripts/bench_loading.py --workers 4 --batches 50 --start-method spawn
"""

import argparse
import itertools
import time
from contextlib import closing

import numpy as np
from rich.console import Console
from rich.table import Table

from autoseg.records.plan import Configuration
from autoseg.training.data.batch import Batch, BatchStream
from autoseg.training.data.loading import TrainingCase, build_loader
from autoseg.training.invented_data import NOISE_ENCODING, measured_configuration

PATCH = (128, 128, 128)
CHANNELS = (1, 4)
"""With a batch of 2: about 25 and 75 MB."""


def main() -> None:
    """Measure both sizes of batch, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--start-method", choices=("fork", "forkserver", "spawn"), help="of the workers")
    options = parser.parse_args()
    table = Table("batch", "CPU ms of the training process", "wall ms", "first batch after s")
    for channels in CHANNELS:
        table.add_row(*measure_delivery(channels, options.workers, options.batches, options.start_method))
    Console().print(table)


def measure_delivery(channels: int, workers: int, count: int, start_method: str | None) -> tuple[str, str, str, str]:
    """One row of the table."""
    shape = (channels + 1, *PATCH)
    array = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    array[-1] = array[-1] > 0
    case = TrainingCase(case_id="noise", array=array, locations={}, annotated=None)
    stream = BatchStream(seed=(0,), rules=None)
    configuration = _configuration(channels)
    began = time.perf_counter()
    with closing(
        build_loader([case], configuration, NOISE_ENCODING, stream, workers=workers, start_method=start_method)
    ) as batches:
        size = _bytes_of(next(batches))
        first = time.perf_counter() - began
        for batch in itertools.islice(batches, 3 * workers):  # what was ready
            del batch
        began, cpu = time.perf_counter(), time.process_time()
        for batch in itertools.islice(batches, count):
            del batch
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return f"{size / 1e6:.0f} MB", f"{1000 * cpu / count:.1f}", f"{1000 * wall / count:.1f}", f"{first:.1f}"


def _configuration(channels: int) -> Configuration:
    configuration = measured_configuration(3, 8)
    network = configuration.network.model_copy(update={"input_channels": channels})
    return configuration.model_copy(update={"patch_size": PATCH, "batch_size": 2, "network": network})


def _bytes_of(batch: Batch) -> int:
    return batch["image"].nbytes + batch["target"].nbytes


if __name__ == "__main__":
    main()
