import sys

import pytest

from autoseg.errors import UsageError
from autoseg.imaging.formats.reading import read_image


def test_missing_extra_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as if it were not installed
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(UsageError, match=r"the extra dicom: .* Run pip install pydicom highdicom"):
        read_image([tmp_path / "a.dcm"])
