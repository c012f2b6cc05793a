"""What clients send, as files of the server: names are its own, endings are known ones, contents are looked at.

Only the ending is taken from a client's file name. A file that names other files (`.nhdr`, `.mhd`, `.hdr`) is refused.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from autoseg.server.messages import IMAGE_NAME

IMAGE_STARTS: dict[str, tuple[bytes, ...]] = {
    ".nii.gz": (b"\x1f\x8b",),
    ".nii": (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"),
    ".nrrd": (b"NRRD",),
    ".mha": (b"ObjectType", b"NDims", b"Comment"),
    ".png": (b"\x89PNG",),
    ".jpg": (b"\xff\xd8",),
    ".jpeg": (b"\xff\xd8",),
    ".bmp": (b"BM",),
    ".tif": (b"II", b"MM"),
    ".tiff": (b"II", b"MM"),
    ".zip": (b"PK",),
    ".dcm": (b"",),
}
"""First bytes of the formats that the server takes, by ending: length of the header 348 or 540 in NIfTI; a DICOM file
may begin with anything. A zip archive holds a DICOM series."""

MAX_CHANNELS = 64
"""Files in one request."""

COPY_BYTES = 2**20

BAD_REQUEST, WRONG_TYPE, FULL = 400, 415, 503


class RefusedUploadError(Exception):
    """Something that the server does not take.

    Attributes:
        status: HTTP status.
        sentence: What is wrong and what to send instead.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Upload:
    """One file as it arrives."""

    name: str
    """What the client calls it; only its ending counts."""
    content: BinaryIO


def store_images(uploads: Sequence[Upload], folder: Path) -> tuple[Path, ...]:
    """Write the files of one case into a folder.

    Args:
        uploads: One file, or one for each channel, in order.
        folder: Folder that they are written to, as `image_0000.nii.gz` and so on.

    Returns:
        The files.

    Raises:
        RefusedUploadError: If a file is empty, has an unknown ending or another content, or the disk is full.
    """
    if not uploads:
        raise RefusedUploadError(
            BAD_REQUEST, "the request has no file; send the image as the form field `image`, one for each channel"
        )
    if len(uploads) > MAX_CHANNELS:
        raise RefusedUploadError(BAD_REQUEST, f"the request has {len(uploads)} files, expected up to {MAX_CHANNELS}")
    return tuple(_store(upload, number, folder) for number, upload in enumerate(uploads))


def known_ending(name: str) -> str:
    """The ending of a client's file name, from the table above.

    Raises:
        RefusedUploadError: If it has none of these.
    """
    for ending in IMAGE_STARTS:
        if name.lower().endswith(ending):
            return ending
    raise RefusedUploadError(
        WRONG_TYPE, f"the name of the file must end in one of {' '.join(IMAGE_STARTS)}; convert the image, or rename it"
    )


def _store(upload: Upload, number: int, folder: Path) -> Path:
    ending = known_ending(upload.name)
    path = folder / f"{IMAGE_NAME}_{number:04d}{ending}"
    start = upload.content.read(16)
    if not start:
        raise RefusedUploadError(BAD_REQUEST, "the file is empty; send the image again")
    if not start.startswith(IMAGE_STARTS[ending]):
        raise RefusedUploadError(
            WRONG_TYPE, f"the file is not what its ending {ending} says; give it the ending of its format"
        )
    try:
        with path.open("xb") as file:
            file.write(start)
            shutil.copyfileobj(upload.content, file, COPY_BYTES)
    except OSError as error:
        raise RefusedUploadError(FULL, "the server's disk is full, or cannot be written; try again later") from error
    return path
