"""Reading and writing gzip files.

ISA-L, which the extra `fast` installs, is several times faster than the standard library and is used when available.
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

LEVEL = 3
"""Level of the standard library for label maps: a sixth smaller than level 1 for a sixth more time; level 6 takes three
times as long for files smaller by another quarter."""

ISAL_LEVEL = 2
"""Level of ISA-L: a fifth of the time of `LEVEL`, files larger by an eighth."""

GZIP_DAMAGES: tuple[type[Exception], ...] = (EOFError, zlib.error)
"""Errors of a truncated or damaged stream; a wrong checksum, or a file that is not gzip, raises OSError."""

if igzip is not None:
    GZIP_DAMAGES = (*GZIP_DAMAGES, igzip.isal_zlib.error)


def read_gzip(path: Path) -> BinaryIO:
    """Open a gzip file for reading; its checksum is verified at the end of the stream.

    Raises:
        OSError: If it cannot be opened. Reading raises OSError and GZIP_DAMAGES.
    """
    opened: BinaryIO = (gzip if igzip is None else igzip).open(path)  # the caller closes it
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
            stream = gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=file, mtime=0)
        with stream:
            yield stream
