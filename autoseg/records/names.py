"""Names from files that become parts of paths: of configurations, folds and cases, and endings of files.

A workspace or model may come from somebody else. No name in it may lead out of the folder that it is meant for.

Tested in tests/records/test_names.py.
"""

from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def is_file_name(name: str) -> bool:
    """Whether a name is that of one file or folder on this system, so that `folder / name` lies in the folder.

    Examples:
        >>> is_file_name("3d_fullres"), is_file_name("../other"), is_file_name("/tmp/x"), is_file_name("..")
        (True, False, False, False)
    """
    return PurePath(name).parts == (name,) and name != ".." and "\0" not in name


def _check_name(name: str) -> str:
    if not is_file_name(name):
        raise PydanticCustomError("file_name", "leads out of its folder, expected the name of one file or folder")
    return name


def _check_ending(ending: str) -> str:
    if not is_file_name(f"name{ending}"):
        raise PydanticCustomError("file_ending", "leads out of its folder, expected an ending such as .nii.gz")
    return ending


FileName = Annotated[str, AfterValidator(_check_name)]
"""Name of a configuration, fold or case, which is part of paths."""

FileEnding = Annotated[str, AfterValidator(_check_ending)]
"""Ending of file names, with dot."""
