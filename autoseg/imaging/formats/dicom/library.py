"""The packages of the extra `dicom`, imported on first use.

Tested in tests/imaging/formats/dicom/test_reading.py.
"""

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from autoseg.errors import UsageError

_LOGGERS = ("pydicom", "highdicom", "openjpeg", "pylibjpeg")
"""Loggers of the packages; what they say of a damaged file may quote the patient."""


def import_dicom(name: str) -> ModuleType:
    """A module of pydicom or highdicom.

    Raises:
        UsageError: If the extra is not installed.
    """
    for logger in map(logging.getLogger, _LOGGERS):
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"DICOM files need the extra dicom: {error.name} is not installed. Run pip install pydicom highdicom "
            "python-gdcm"
        ) from error


def dicom_errors() -> tuple[type[Exception], ...]:
    """Errors that pydicom and its decoders raise for damaged or unusual files."""
    errors = import_dicom("pydicom.errors")
    return (
        ValueError, AttributeError, TypeError, LookupError, RuntimeError, EOFError, OSError, OverflowError,
        struct.error, errors.BytesLengthException, errors.InvalidDicomError,
    )  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings about values that break the standard, which many files have; they may quote the patient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
