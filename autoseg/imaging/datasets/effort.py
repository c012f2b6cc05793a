"""How long the files of a dataset take to read, and how much memory; whether workers are worth their start.

Tested in tests/imaging/datasets/test_effort.py.
"""

from collections.abc import Iterable
from pathlib import Path

from autoseg.imaging.formats.channels import count_voxels
from autoseg.records.dataset import CaseFiles, label_files

SECONDS_PER_FILE = 0.002
"""Time for a small file: 200 cases of two files, checked and measured on one core."""

BYTES_PER_SECOND = 40e6
"""Compressed bytes of larger files that one core decompresses, checks and measures in a second."""

MIN_SECONDS = 3.0
"""Work that workers are started for; they import the libraries first, which takes a second or two on each core."""


PACKED_ENDINGS = (".gz", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Files that may be compressed."""

PACKED_BYTES = 12
"""Memory of measuring an image by bytes of its compressed file: 16 bits a voxel, compressed to a half, as float32 with
copies, label map and masks. Measured: 7 bytes by voxel and channel, label map included."""

LABEL_MAP_BYTES = 32
"""Memory by voxel of comparing a label map with a reference, or of post-processing it. Measured: 12 to 32, for whole
numbers and scaled ones, metrics, instances, and the search for post-processing steps."""

PLAIN_BYTES = 6
"""The same for files that are not compressed."""


def choose_workers(folder: Path, cases: Iterable[CaseFiles], cores: int) -> int:
    """Processes that read these cases soonest: one for each core, or 1 where workers take longer to start than to work.

    Args:
        folder: Dataset folder; only sizes of files are looked at, and files that are missing count as empty.
        cases: Cases whose files are read once.
        cores: Cores that may be used.
    """
    paths = [folder / name for files in cases for name in (*files.images, *label_files(files))]
    seconds = sum(SECONDS_PER_FILE + _size(path) / BYTES_PER_SECOND for path in paths)
    return cores if seconds > MIN_SECONDS else 1


def reading_memory_bytes(folder: Path, cases: Iterable[CaseFiles]) -> int:
    """Memory in bytes that a process takes to read and measure the largest case, an estimate by sizes of files."""
    return max((sum(_unpacked_bytes(folder / name) for name in files.images) for files in cases), default=0)


def label_map_memory_bytes(paths: Iterable[Path]) -> int:
    """Memory in bytes that work on the largest of these label maps takes, an estimate by their headers."""
    return max(map(count_voxels, paths), default=0) * LABEL_MAP_BYTES


def _unpacked_bytes(path: Path) -> int:
    factor = PACKED_BYTES if path.suffix.lower() in PACKED_ENDINGS else PLAIN_BYTES
    return _size(path) * factor


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the check of the case names it
        return 0
