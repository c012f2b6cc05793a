"""NIfTI files: .nii, .nii.gz and .hdr/.img pairs, NIfTI-1 and NIfTI-2.

Voxels are decompressed in parts, directly into the array that is returned, so that neither the file's bytes nor its own
number type need memory beside it. A gzip stream is read to its end, where its checksum is; readers that stop after the
last voxel do not detect damage. Bytes behind the stream are ignored with a note, as the program gzip does: the checksum
proves that the voxels are whole.
"""

import gzip
import logging
import math
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.gzip_files import GZIP_DAMAGES, read_gzip
from autoseg.imaging.formats.nifti_geometry import make_volume
from autoseg.imaging.formats.volume import AnyArray, Volume, split_ending

_CIFTI_INTENTS = range(3000, 3100)
"""CIFTI-2 stores matrices over brain surfaces in NIfTI-2 files and marks them with these intent codes."""

_PART_BYTES = 2**22
"""Bytes decompressed at once."""

_GZIP_MAGIC = b"\x1f\x8b"
"""First bytes of every gzip stream (RFC 1952)."""

_MAX_GZIP_RATIO = 1032
"""Largest number of bytes that one byte of a deflate stream can encode (RFC 1951: 258 bytes in 2 bits)."""


def read_nifti(path: Path, *, as_float32: bool = False) -> Volume:
    """Read a NIfTI file; 4D files become channels, scl_slope and scl_inter are applied.

    Args:
        path: The file; for a pair the .hdr file.
        as_float32: Whether voxels are converted while reading; colours keep their type.

    Returns:
        Volume in stored order with the file's own values (float64 when they are scaled).

    Raises:
        ImageFileError: If the file is missing, truncated, damaged, or does not hold voxels in space.
    """
    try:
        try:
            return _read_file(path, by_isal=True, as_float32=as_float32)
        except EOFError:  # ISA-L says so of a whole stream with text behind it too; the standard library tells
            return _read_file(path, by_isal=False, as_float32=as_float32)
    except GZIP_DAMAGES as error:
        raise ImageFileError(
            f"{path}: the file is truncated or damaged: {_describe_damage(error)}. Copy or download it again."
        ) from error
    except (OSError, ValueError, struct.error, HeaderDataError, WrapStructError) as error:
        raise ImageFileError(f"{path}: cannot be read as NIfTI: {error}") from error


def volume_from_nibabel(image: nibabel.Nifti1Image) -> Volume:
    """A volume from a NIfTI image in memory.

    Args:
        image: NIfTI-1 or NIfTI-2 image, 2D to 4D (the fourth axis becomes channels).

    Raises:
        ImageFileError: If the image is not a NIfTI image, or its voxels cannot be used.
    """
    if not isinstance(image.header, Nifti1Header):
        raise ImageFileError(f"{image.get_filename()}: expected a NIfTI image, found {type(image).__name__}")
    header = image.header.copy()
    if image.affine is not None and not np.allclose(image.affine, header.get_best_affine()):
        header.set_sform(image.affine, code=2)
        header.set_qform(image.affine, code=0)
    try:
        return make_volume(np.asanyarray(image.dataobj), header, ending=".nii.gz", notes=[], path=None)
    except ValueError as error:
        raise ImageFileError(f"{image.get_filename()}: cannot be used as an image: {error}") from error


def image_data_file(path: Path) -> Path:
    """The .img or .img.gz file of a .hdr file, whether it exists or not."""
    plain = path.with_suffix(".IMG" if path.suffix.isupper() else ".img")
    packed = plain.with_name(plain.name + ".gz")
    return packed if packed.exists() and not plain.exists() else plain


def _read_file(path: Path, *, by_isal: bool, as_float32: bool) -> Volume:
    """Header and voxels of a file, or of a pair."""
    notes: list[str] = []
    is_pair = path.suffix.lower() == ".hdr"
    with np.errstate(all="ignore"):  # damaged numbers in the header are found by the checks of `make_volume`
        with _open(path, by_isal=by_isal) as stream:
            header = _read_header(stream, is_pair=is_pair, notes=notes)
            array = None if is_pair else _read_voxels(stream, path, header, notes, as_float32=as_float32)
        if array is None:
            data = image_data_file(path)
            if not data.exists():
                raise ValueError(f"the file with its voxels, {data.name}, does not exist")
            with _open(data, by_isal=by_isal) as stream:
                array = _read_voxels(stream, data, header, notes, as_float32=as_float32)
        return make_volume(array, header, ending=split_ending(path.name)[1], notes=notes, path=path)


def _open(path: Path, *, by_isal: bool) -> BinaryIO:
    """The decompressed bytes of a file."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes)")
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    with path.open("rb") as file:
        if file.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC:
            raise ValueError(
                f"{path.name} is not packed with gzip, although its name ends in .gz. If it is not packed at all, "
                f"rename it to {path.name[:-3]}; else copy or download it again"
            )
    return read_gzip(path, by_isal=by_isal)


def _read_header(stream: BinaryIO, *, is_pair: bool, notes: list[str]) -> Nifti1Header:
    """The checked header; corrections are added to the notes."""
    start = stream.read(4)
    stream.seek(0)
    with warnings.catch_warnings():  # other programs write such extensions; voxels and geometry do not depend on them
        warnings.filterwarnings("ignore", "Extension size is not a multiple of 16", UserWarning)
        header = _header_class(start, is_pair=is_pair).from_fileobj(stream, check=False)
    header.check_fix(logger=_recording_logger(notes), error_level=logging.ERROR)
    if int(header["intent_code"]) in _CIFTI_INTENTS:
        raise ValueError("this is a CIFTI matrix over brain surfaces, not an image; export it as a volume first")
    return header


def _read_voxels(stream: BinaryIO, path: Path, header: Nifti1Header, notes: list[str], *, as_float32: bool) -> AnyArray:
    """All scaled voxels, (X, Y[, Z[, further axes]]); reads the stream to its end."""
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    _refuse_truncated(stream, path, header)
    slope, inter = header.get_slope_inter()
    converts = as_float32 and dtype.names is None and dtype.kind != "c"
    array = np.empty(math.prod(shape), dtype=np.float32 if converts else dtype)
    step = max(1, _PART_BYTES // dtype.itemsize)
    stream.seek(int(header.get_data_offset()))
    for first in range(0, len(array), step):
        part = np.empty(min(step, len(array) - first), dtype=dtype)
        found = _fill(stream, part)
        if found < part.nbytes:
            raise EOFError(
                f"{first * dtype.itemsize + found} bytes of voxels found, {len(array) * dtype.itemsize} expected"
            )
        array[first : first + len(part)] = apply_read_scaling(part, slope, inter) if converts else part
    _read_to_end(stream, notes)
    if not converts and dtype.names is None:
        array = apply_read_scaling(array, slope, inter)
    return array.reshape(shape, order="F")


def _read_to_end(stream: BinaryIO, notes: list[str]) -> None:
    """Read on to the checksum of a gzip stream, which may lie behind the last voxel; what follows it is ignored."""
    try:
        while stream.read(_PART_BYTES):
            pass
    except gzip.BadGzipFile as error:
        if not _is_other_content(error):
            raise
        notes.append(
            "the file goes on behind its compressed stream, which was ignored; the voxels are complete and their "
            "checksum is right"
        )


def _is_other_content(error: Exception) -> bool:
    """Whether a gzip stream is followed by something else: a wrong checksum has the same type of error."""
    return isinstance(error, gzip.BadGzipFile) and str(error).startswith("Not a gzipped file")


def _describe_damage(error: Exception) -> str:
    return "something else follows before the last voxel was read" if _is_other_content(error) else str(error)


def _fill(stream: BinaryIO, array: AnyArray) -> int:
    """Fill the array with bytes of the stream; returns their number, which is smaller when the stream ends early."""
    content = array.view(np.uint8).data
    found = 0
    while found < len(content):
        count = stream.readinto(content[found:])  # type: ignore[attr-defined]
        if not count:
            break
        found += count
    return found


def _refuse_truncated(stream: BinaryIO, path: Path, header: Nifti1Header) -> None:
    """Compare sizes before memory is allocated for voxels: a damaged header may announce terabytes."""
    shape = header.get_data_shape()
    if any(size < 1 for size in shape):
        raise ValueError(f"the header gives the shape {shape}, which has no voxels")
    expected = int(header.get_data_offset()) + math.prod(shape) * header.get_data_dtype().itemsize
    packed = path.stat().st_size
    is_packed = path.suffix.lower() == ".gz"
    if expected <= packed * (_MAX_GZIP_RATIO if is_packed else 1):
        return
    while is_packed and stream.read(_PART_BYTES):
        pass
    raise EOFError(f"{stream.tell() if is_packed else packed} bytes found, {expected} expected")


def _recording_logger(notes: list[str]) -> logging.Logger:
    """A logger outside the logging tree that collects nibabel's warnings about a header instead of printing them."""

    def record_only(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            notes.append(f"the NIfTI header is not valid and was read as follows: {record.getMessage()}")
        return False

    logger = logging.Logger("NIfTI header")
    logger.addFilter(record_only)
    return logger


def _header_class(start: bytes, *, is_pair: bool) -> type[Nifti1Header]:
    """The class for the header size, which is the first number in the file: 348 for NIfTI-1, 540 for NIfTI-2."""
    sizes = {int.from_bytes(start, "little"), int.from_bytes(start, "big")}
    classes: dict[int, type[Nifti1Header]] = {
        348: Nifti1PairHeader if is_pair else Nifti1Header,
        540: Nifti2PairHeader if is_pair else Nifti2Header,
    }
    for size, header_class in classes.items():
        if size in sizes:
            return header_class
    raise ValueError("it does not begin with a NIfTI header; is it really this format?")
