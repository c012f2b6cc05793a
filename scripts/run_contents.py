"""What the files of a run say, for `campaign_kill.py`: compared with those of another run, and which are half."""

import gzip
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autoseg.records.temporaries import is_temporary

HALF_FILE_ERRORS = (ValueError, OSError, EOFError, zlib.error, struct.error, zipfile.BadZipFile)

VARYING_FIELDS = frozenset({
    "seconds", "elapsed_seconds", "data_wait_fraction", "peak_memory_bytes", "created", "finished_at", "started_at",
    "command", "command_line", "host", "process", "sha256", "weights", "origin",
})  # fmt: skip
"""Fields of JSON files that tell of a run, not of its result; sha256, weights and origin: hashes over such fields."""

FREE_FILES = ("log.txt", "curves.png", "progress.png", "report.html")
"""Files that show times; they must exist and be complete, but need not be equal."""

FINISHED_ENDINGS = (".b2nd", ".nii.gz", "checkpoint_final.safetensors")
"""Files that take long to make: one that is complete after a kill is not written again."""

RELATIVE_ROUNDING, ABSOLUTE_ROUNDING = 1e-3, 1e-5
"""How far weights and scores may differ: the same training has other last digits now and then, also undisturbed."""

FOREIGN_TEMPORARIES = ("torchinductor_", "pymp-")
"""Beginnings of temporary names: a cache of torch, and a socket that Python's forkserver leaves when it is killed."""


def _files(run: Path) -> Iterator[Path]:
    return (path for path in sorted(run.rglob("*")) if path.is_file() and "tmp" not in path.relative_to(run).parts)


def contents(run: Path) -> dict[str, object]:
    """What every file says, by its path, without times and memory; None for half files and temporary ones."""
    return {str(path.relative_to(run)): _whole_content(path) for path in _files(run)}


def _whole_content(path: Path) -> object:
    """Content of a file, or None if it is not complete or has a temporary name."""
    if is_temporary(path.name):
        return None
    try:
        return _content(path.name, path.read_bytes())
    except HALF_FILE_ERRORS:
        return None


def compare(run: Path, expected: dict[str, object]) -> Iterator[str]:
    """Faults of a folder after the second run."""
    found = contents(run)
    yield from (f"{name} is missing" for name in expected.keys() - found.keys())
    for name in sorted(found.keys() - expected.keys()):
        yield f"{name} is a temporary file" if is_temporary(Path(name).name) else f"{name} is too many"
    for name in sorted(expected.keys() & found.keys()):
        if Path(name).name not in FREE_FILES and not _is_equal(found[name], expected[name]):
            yield f"{name} differs"
    left = (path.name for path in (run / "tmp").iterdir() if not path.name.startswith(FOREIGN_TEMPORARIES))
    yield from (f"tmp/{name} is left in the folder of temporary files" for name in left)


def finished_files(run: Path, expected: dict[str, object]) -> dict[str, tuple[int, int]]:
    """Files that take long to make and are complete, with their state; validated cases once their scores are kept."""
    return {
        name: written_state(run / name)
        for name, content in expected.items()
        if name.endswith(FINISHED_ENDINGS)
        and (run / name).exists()
        and _has_scores(run / name)
        and _is_equal(_whole_content(run / name), content)
    }


def _has_scores(path: Path) -> bool:
    """Whether the label map of a validation case was scored, in a record of its own or in that of the fold."""
    records = (f".{path.name.removesuffix('.nii.gz')}.json", "evaluation.json")
    return path.parent.name != "validation" or any((path.parent / name).exists() for name in records)


def _is_equal(first: object, second: object) -> bool:
    """Whether contents agree; weights, and what follows from them, up to the rounding of float32."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_is_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_is_equal, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=RELATIVE_ROUNDING, abs_tol=ABSOLUTE_ROUNDING)
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.shape == second.shape and np.allclose(first, second, RELATIVE_ROUNDING, ABSOLUTE_ROUNDING)
    return first == second


def written_state(path: Path) -> tuple[int, int]:
    """Changes when a file is written again, even with the same content."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def find_half_files(run: Path) -> Iterator[str]:
    """Files under a final name that are not complete."""
    for path in _files(run):
        if is_temporary(path.name) or any(is_temporary(parent.name) for parent in path.parents):
            continue
        is_empty = path.stat().st_size == 0 and path.name != "log.txt"
        if is_empty or _whole_content(path) is None:
            yield f"{path.relative_to(run)} is half a file"


def _content(name: str, data: bytes) -> object:
    """Content of a file in a form that can be compared; raises if it is not complete."""
    if name.endswith((".json", ".jsonl")):
        return [
            _without_varying(json.loads(line)) for line in ([data] if name.endswith(".json") else data.splitlines())
        ]
    if name.endswith(".safetensors"):
        return _weights(data)
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {member: _content(member, archive.read(member)) for member in archive.namelist()}
    if name.endswith(".npz"):
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {member: arrays[member] for member in arrays.files}
    if name.endswith(".gz"):
        return gzip.decompress(data)
    if name.endswith(".png") and not data.endswith(b"IEND\xaeB`\x82"):
        raise ValueError("no end of a picture")
    if name.endswith(".html") and not data.rstrip().endswith(b"</html>"):
        raise ValueError("no end of a page")
    return data


def _weights(data: bytes) -> object:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = {key: _without_varying(_parsed(text)) for key, text in header.pop("__metadata__", {}).items()}
    tensors = np.frombuffer(data[8 + length :], dtype=np.float32)
    if tensors.nbytes != max((entry["data_offsets"][1] for entry in header.values()), default=0):
        raise ValueError("not as many bytes as the header says")
    return metadata, header, tensors


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _without_varying(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_varying(entry) for key, entry in value.items() if key not in VARYING_FIELDS}
    return [_without_varying(entry) for entry in value] if isinstance(value, list) else value
