"""Weights in safetensors files, which cannot hold code; the record of their training travels in the same file.

The header has one text, in JSON: the fields of the record, a checksum of the tensors, and one of these texts. They are
compared whenever tensors are read: 100 MB take 0.05 s. It is one text, because the library writes several in any order,
and equal weights have to be equal files.

Tested in tests/training/folds/test_checkpointing.py.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import describe_special, replacing

RECORD_KEY = "checkpoint"
"""Key of the text in the header of a weights file."""

TENSORS_KEY = "tensors_sha256"
"""Field of the checksum of the tensors; equal trainings have equal ones, while their records differ in times."""

CHECKSUM_KEY = "sha256"
"""Field of the checksum of all other fields."""

IDENTITY = ("configuration", "fold", "model_hash", "cases_hash", "data_hash")
"""Fields that tell which training weights belong to."""


def write_weights(weights: Mapping[str, Tensor], path: Path, record: Checkpoint | None = None) -> None:
    """Write tensors, atomically, with the access rights of any new file; safetensors alone gives them to the owner.

    Args:
        weights: Tensors by name, on any device.
        path: Output file; its folder is created when missing.
        record: Record of their training, which is stored in the header with the checksums; None: checksums alone.
    """
    contiguous = _untie({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    fields: dict[str, object] = {} if record is None else record.model_dump(mode="json")
    fields[TENSORS_KEY] = _hash_tensors(contiguous)
    text = json.dumps({**fields, CHECKSUM_KEY: _hash_fields(fields)})
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, metadata={RECORD_KEY: text})
        temporary.chmod(mode)


def _untie(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, of which those that share memory with an earlier one are copied: the format refuses them.

    Networks of other packages may have one tensor under several names.
    """
    untied: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        untied[name] = tensor.clone() if storage in storages else tensor
        storages |= {storage} if tensor.numel() else set()
    return untied


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a weights file, and compare it with the checksums in it; older files have none.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        SafetensorError: If the file is damaged.
        OSError: If it cannot be read.
    """
    fields = _read_fields(path)
    with safe_open(path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    if CHECKSUM_KEY in fields or TENSORS_KEY in fields:
        is_whole = fields.get(CHECKSUM_KEY) == _hash_fields(fields)
        if not is_whole or fields.get(TENSORS_KEY) != _hash_tensors(tensors):
            raise SafetensorError("its content does not have the checksum that was written with it")
    return tensors


def read_weights_hash(path: Path) -> str:
    """SHA-256 of the tensors of a weights file, as its header says; empty for files of earlier versions.

    Raises:
        SafetensorError: If the file is damaged.
        OSError: If it cannot be read.
    """
    return str(_read_fields(path).get(TENSORS_KEY, ""))


def read_inner_record(path: Path) -> Checkpoint | None:
    """Read the record inside a weights file, which also checks the size of the file; None: it has no record.

    Raises:
        SafetensorError: If the file is damaged or empty.
        OSError: If it cannot be read.
        ValueError: If the record is damaged.
    """
    fields = {key: value for key, value in _read_fields(path).items() if key not in (TENSORS_KEY, CHECKSUM_KEY)}
    return Checkpoint.model_validate_json(json.dumps(fields)) if fields else None


def _refuse_special(path: Path) -> None:
    """Refuse a FIFO, which would be waited for; raises OSError."""
    if kind := describe_special(path):
        raise OSError(f"it is {kind}, expected a regular file")


def is_same_training(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two records are of one fold, one model and the same cases."""
    return all(getattr(first, name) == getattr(second, name) for name in IDENTITY)


def _read_fields(path: Path) -> dict[str, object]:
    """Fields of the text in the header; empty where there is no text."""
    _refuse_special(path)
    with safe_open(path, framework="pt") as opened:
        text = (opened.metadata() or {}).get(RECORD_KEY, "{}")
    try:
        fields = from_json(text)
    except ValueError as error:
        raise SafetensorError(f"the record in its header is damaged: {error}") from error
    if not isinstance(fields, dict):
        raise SafetensorError("the record in its header is damaged: it is not an object of JSON")
    return fields


def _hash_fields(fields: Mapping[str, object]) -> str:
    """SHA-256 of all fields but the checksum itself."""
    hashed = {key: value for key, value in fields.items() if key != CHECKSUM_KEY}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values of contiguous tensors on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
