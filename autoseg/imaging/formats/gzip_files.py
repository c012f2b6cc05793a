"""Gzip files, read and written.

By ISA-L where it is installed (extra `fast`): it is several times faster than the standard library.

Tested in tests/imaging/formats/test_gzip.py.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    from isal import igzip
except ImportError:
    igzip = None

GZIP_LEVEL = 3
"""Level of the standard library for label maps: a sixth smaller than level 1 for a sixth more time; level 6 takes three
times as long for files smaller by another quarter."""

ISAL_LEVEL = 2
"""Level of ISA-L: a fifth of the time of `GZIP_LEVEL`, files larger by an eighth."""

GZIP_DAMAGES: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
"""Errors of a truncated or damaged stream, and of a file that is not gzip."""

if igzip is not None:
    GZIP_DAMAGES = (*GZIP_DAMAGES, igzip.isal_zlib.error)


def read_gzip(path: Path, *, by_isal: bool = True) -> BinaryIO:
    """Open a gzip file for reading; its checksum is verified at the end of the stream.

    Args:
        path: The file.
        by_isal: Whether ISA-L decompresses, where it is installed; else the standard library.

    Raises:
        OSError: If it cannot be opened. Reading raises OSError and GZIP_DAMAGES.
    """
    opened: BinaryIO = (igzip if by_isal and igzip is not None else gzip).open(path)  # the caller closes it
    return opened


@contextmanager
def open_gzip(path: Path) -> Iterator[gzip.GzipFile]:
    """Open a new gzip file for writing; equal content gives equal bytes, because neither time nor name is stored.

    Raises:
        OSError: If it cannot be written.
    """
    with path.open("wb") as file:
        if igzip is not None:
            stream: gzip.GzipFile = igzip.IGzipFile(
                filename="", mode="wb", compresslevel=ISAL_LEVEL, fileobj=file, mtime=0
            )
        else:
            stream = gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0)
        with stream:
            yield stream
