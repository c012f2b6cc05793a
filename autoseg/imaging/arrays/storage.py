"""Preprocessed cases on disk: one chunked, compressed array per case, read patch by patch, and its record.

A case is `<case>.b2nd` (blosc2: float32 image channels, the label indices as last channel, and the class locations
as metadata) and `<case>.json` (PreprocessedCase). The record is written last: a case is complete when it has one.
Example: a patch of 64^3 out of a volume of 300^3 decompresses the few blocks that it touches, not the volume.

The label maps that one cascade step passes to the next are stored alike, one `<case>.b2nd` each.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.labels import ClassLocations, Locations
from autoseg.imaging.arrays.stored_arrays import (
    Opener,
    StoredArray,
    chunk_layout,
    describe_array,
    open_array,
    write_array,
)
from autoseg.records.case import PreprocessedCase
from autoseg.records.files import hash_file, read_record, replacing, write_record
from autoseg.records.plan import Plan, hash_of, used_normalization
from autoseg.records.temporaries import is_temporary

if TYPE_CHECKING:
    import blosc2

STORAGE_VERSION = 1
"""Version in the content hash; raise it when the same settings give other arrays."""
ARRAY_ENDING = ".b2nd"
RECORD_ENDING = ".json"
LOCATIONS = "locations"
LOCATION_COUNTS = "location_counts"
ANNOTATED = "annotated"
ORIGIN = "origin"
CHECKSUM = "checksum"


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case, opened for reading patches."""

    record: PreprocessedCase
    array: "StoredArray | blosc2.NDArray"
    """Image channels and label indices, (C + 1, Z, Y, X) float32, on disk: index it with slices. The last channel holds
    the label indices, -1 outside the nonzero mask."""
    locations: dict[int, Locations]
    """Voxels (N, 3) by index in `LabelEncoding.heads`, foreground heads only."""
    annotated: Locations | None
    """Voxels (N, 3) with a label other than `ignore`; None when the dataset has no ignore label."""

    def read_image(self) -> NDArray[np.float32]:
        """Image channels, (C, Z, Y, X), in memory."""
        image: NDArray[np.float32] = self.array[: self.array.shape[0] - 1]
        return image


def save_case(
    folder: Path,
    record: PreprocessedCase,
    image: NDArray[np.float32],
    labels: NDArray[np.int16],
    locations: ClassLocations,
    patch_size: tuple[int, ...],
) -> None:
    """Write a case, array first and record last.

    Args:
        folder: Folder of the configuration; created when missing.
        record: What preprocessing did; its case id is the file name. It is written with its checksum.
        image: Image, (C, Z, Y, X).
        labels: Label indices, (Z, Y, X).
        locations: Result of `draw_class_locations`.
        patch_size: Patch size of the configuration, (z, y, x) or (y, x), voxels; only the reading speed depends on it.
    """
    record_path = folder / (record.case + RECORD_ENDING)
    # A case is complete when it has a record, so an old record must not remain beside a new array.
    record_path.unlink(missing_ok=True)
    chunks, blocks = chunk_layout(labels.shape, patch_size)
    path = folder / (record.case + ARRAY_ENDING)
    with replacing(path) as temporary:
        array = write_array(
            np.concatenate([image, labels[None]], axis=0, dtype=np.float32), (1, *chunks), (1, *blocks), temporary
        )
        _write_locations(array, *locations)
    write_record(record.model_copy(update={"checksum": hash_file(path)}), record_path)


def open_case(folder: Path, case_id: str, opener: Opener = open_array) -> StoredCase:
    """Open a case; reads its record and locations, no voxels.

    Args:
        folder: Folder of the configuration.
        case_id: The case.
        opener: Function that opens the array whenever it is read: `open_array`, or what `keep_open` gives.

    Raises:
        RecordError: If the case has no record, or a damaged one.
        DatasetError: If the array is missing or damaged, or does not belong to the record.
    """
    record = read_record(PreprocessedCase, folder / (case_id + RECORD_ENDING))
    path = folder / (case_id + ARRAY_ENDING)
    try:
        array = opener(path)
        locations, annotated = _read_locations(array)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: case {case_id}: missing or damaged ({error}). {_ADVICE}") from error
    if array.shape[1:] != record.shape:
        raise DatasetError(
            f"{path}: case {case_id}: the array has the shape {array.shape[1:]}, its record {record.shape}. {_ADVICE}"
        )
    return StoredCase(record, describe_array(path, array, opener), locations, annotated)


def stored_cases(folder: Path) -> tuple[str, ...]:
    """Ids of all complete cases in a folder, sorted; empty when the folder is missing."""
    return tuple(
        sorted(
            path.name.removesuffix(RECORD_ENDING)
            for path in folder.glob(f"*{RECORD_ENDING}")
            if not path.name.startswith(".") and path.with_name(_array_name(path)).is_file()
        )
    )


def save_label_map(path: Path, labels: NDArray[np.int16], patch_size: tuple[int, ...], origin: str) -> None:
    """Write a label map on a preprocessed grid, atomically.

    Args:
        path: File that ends in ARRAY_ENDING; its folder is created when missing.
        labels: Label indices, (Z, Y, X).
        patch_size: Patch size of the configuration that reads it, (z, y, x) or (y, x), voxels.
        origin: Text about the source of the label map; returned by `open_label_map`.
    """
    with replacing(path) as temporary:
        array = write_array(np.ascontiguousarray(labels), *chunk_layout(labels.shape, patch_size), temporary)
        array.schunk.vlmeta[ORIGIN] = origin
        array.schunk.vlmeta[CHECKSUM] = _hash_chunks(array)


def open_label_map(path: Path, opener: Opener = open_array) -> tuple[StoredArray, str]:
    """Open what `save_label_map` wrote; reads no voxels.

    Args:
        path: The file.
        opener: Function that opens the file whenever it is read, as in `open_case`.

    Returns:
        Label indices (Z, Y, X), int16, on disk: index them with slices; and their origin.

    Raises:
        DatasetError: If the file is missing or damaged.
    """
    try:
        array = opener(path)
        return describe_array(path, array, opener), str(array.schunk.vlmeta[ORIGIN])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: this label map is missing or damaged ({error})") from error


def label_map_origin(labels: StoredArray) -> str:
    """Origin that `save_label_map` stored with a label map."""
    array = labels.opener(labels.path)  # its metadata lives as long as the array
    return str(array.schunk.vlmeta[ORIGIN])


def is_label_map_damaged(path: Path) -> bool:
    """Whether a label map on disk differs from what `save_label_map` wrote; those of earlier versions have no checksum.

    Raises:
        DatasetError: If the file is missing, or no label map.
    """
    try:
        array = open_array(path)
        return CHECKSUM in array.schunk.vlmeta and array.schunk.vlmeta[CHECKSUM] != _hash_chunks(array)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: this label map is missing or damaged ({error})") from error


def _hash_chunks(array: "blosc2.NDArray") -> str:
    """SHA-256 of the compressed chunks, hexadecimal: nothing is decompressed."""
    digest = hashlib.sha256()
    for number in range(array.schunk.nchunks):
        digest.update(array.schunk.get_chunk(number))
    return digest.hexdigest()


def remove_other_cases(folder: Path, cases: frozenset[str]) -> None:
    """Remove all files of other cases from a configuration's folder; another command may be writing temporary ones."""
    kept = {case + ending for case in cases for ending in (ARRAY_ENDING, RECORD_ENDING)}
    for path in folder.glob("*"):
        if path.name not in kept and path.name.endswith((ARRAY_ENDING, RECORD_ENDING)) and not is_temporary(path.name):
            path.unlink()


def _write_locations(array: "blosc2.NDArray", locations: dict[int, Locations], annotated: Locations | None) -> None:
    """Blosc2 holds 16 metadata entries at most, so the voxels of all heads are concatenated in one entry."""
    voxels = np.concatenate([np.zeros((0, 3), dtype=np.int32), *locations.values()])
    array.schunk.vlmeta[LOCATIONS] = np.ascontiguousarray(voxels, dtype="<i4").tobytes()
    array.schunk.vlmeta[LOCATION_COUNTS] = {str(head): len(voxels) for head, voxels in locations.items()}
    if annotated is not None:
        array.schunk.vlmeta[ANNOTATED] = np.ascontiguousarray(annotated, dtype="<i4").tobytes()


def _read_locations(array: "blosc2.NDArray") -> ClassLocations:
    metadata = array.schunk.vlmeta
    counts = {int(head): count for head, count in metadata[LOCATION_COUNTS].items()}
    voxels = _voxels(metadata[LOCATIONS])
    parts = np.split(voxels, np.cumsum(list(counts.values()))[:-1]) if counts else []
    annotated = _voxels(metadata[ANNOTATED]) if ANNOTATED in metadata else None
    return dict(zip(counts, parts, strict=True)), annotated


def _voxels(content: bytes) -> Locations:
    return np.frombuffer(content, dtype="<i4").astype(np.int32, copy=False).reshape(-1, 3)


def _array_name(record_path: Path) -> str:
    return record_path.name.removesuffix(RECORD_ENDING) + ARRAY_ENDING


_ADVICE = "To preprocess it again, run autoseg-plan again with the same workspace."


def array_hashes(source: str, plan: Plan, configuration_name: str) -> tuple[str, str]:
    """Hashes of everything that the voxels of a stored case depend on: as they are written, and as up to 0.2.0.

    Args:
        source: Hash of the case's files, `CaseFingerprint.content_hash`.
        plan: Plan with the configuration.
        configuration_name: Configuration whose arrays they are.

    Returns:
        Values of `PreprocessedCase.content_hash` that an array of these files for this plan may have, today's first.
        Up to 0.2.0 they also depended on statistics that the normalisation does not use.
    """
    settings = plan.configurations[configuration_name]
    deciding = {
        "source": source,
        "version": STORAGE_VERSION,
        "orientation": plan.orientation,
        "transpose": plan.transpose,
        "encoding": plan.encoding.model_dump(mode="json"),
        "spacing": settings.spacing,
        "resampling": settings.resampling.model_dump(mode="json"),
    }
    if plan.border_width_mm is not None:
        deciding["border_width_mm"] = plan.border_width_mm
    if plan.target == "mask_rcnn":
        deciding["target"] = plan.target
    if settings.channel_presence:
        deciding["channel_presence"] = True
    used = [used_normalization(spec) for spec in settings.normalization]
    everything = [spec.model_dump(mode="json") for spec in settings.normalization]
    return hash_of({**deciding, "normalization": used}), hash_of({**deciding, "normalization": everything})
