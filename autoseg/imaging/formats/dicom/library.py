"""The packages of the extra `dicom`, imported on first use.

Tested in tests/imaging/formats/dicom/test_reading.py.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from autoseg.errors import UsageError

DICOM_ERRORS = (
    ValueError, AttributeError, TypeError, KeyError, IndexError, RuntimeError, NotImplementedError, EOFError, OSError,
    OverflowError,
)  # fmt: skip
"""Errors that pydicom and its decoders raise for damaged or unusual files."""


def import_dicom(name: str) -> ModuleType:
    """A module of pydicom or highdicom.

    Raises:
        UsageError: If the extra is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"DICOM files need the extra dicom: {error.name} is not installed. Run pip install pydicom highdicom "
            "python-gdcm"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings about values that break the standard, which many files have; they may quote the patient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
