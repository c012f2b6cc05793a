"""Which image of a folder or zip archive is meant: `FOLDER#3` is the one with the series number 3.

The part behind `#` is the number or the UID of a series, where a series holds several images with the number of one
(`3-2`), and `resample-gaps`, separated by a comma. What exists under the whole name has no such part.

Tested in tests/imaging/formats/dicom/test_reading.py.
"""

from dataclasses import dataclass
from pathlib import Path

_MARK = "#"
_RESAMPLE_GAPS = "resample-gaps"


@dataclass(frozen=True)
class DicomAddress:
    """One image of a folder, zip archive or file."""

    path: Path
    series: str | None = None
    """Number or UID of the series, with `-N` behind it for its N-th image; None: the only or largest one."""
    resample_gaps: bool = False
    """Whether slices at irregular positions are resampled, rather than refused."""

    def written(self) -> Path:
        """The path that `read_address` reads as this address."""
        parts = [part for part in (self.series, _RESAMPLE_GAPS if self.resample_gaps else None) if part]
        return self.path.with_name(f"{self.path.name}{_MARK}{','.join(parts)}") if parts else self.path


def read_address(path: Path) -> DicomAddress:
    """Split a path into the file or folder and the image that is meant in it."""
    if _MARK not in path.name or path.exists():
        return DicomAddress(path)
    name, _, choice = path.name.rpartition(_MARK)
    words = choice.split(",")
    series = [word for word in words if word and word != _RESAMPLE_GAPS]
    return DicomAddress(
        path.with_name(name) if name else path.parent, next(iter(series), None), _RESAMPLE_GAPS in words
    )
