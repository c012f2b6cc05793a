"""Weights in safetensors files, which cannot hold code; the record of their training travels in the same file.

A checksum in the header covers tensors and record. It is compared whenever tensors are read: 100 MB take 0.05 s.

Tested in tests/training/folds/test_checkpointing.py.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import describe_special, replacing

RECORD_KEY = "checkpoint"
"""Key of the record in the metadata of a weights file."""

CHECKSUM_KEY = "sha256"
"""Key of the checksum in the metadata of a weights file."""

IDENTITY = ("configuration", "fold", "model_hash", "cases_hash", "data_hash")
"""Fields that tell which training weights belong to."""


def write_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, atomically, with the access rights of any new file; safetensors alone gives them to the owner.

    Args:
        weights: Tensors by name, on any device.
        path: Output file; its folder is created when missing.
        metadata: Texts stored in the header of the file, beside the checksum.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    texts = dict(metadata or {})
    texts[CHECKSUM_KEY] = _compute_checksum(contiguous, texts)
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, metadata=texts)
        temporary.chmod(mode)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a weights file, and compare them with the checksum in it; older files have none.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        SafetensorError: If the file is damaged.
        OSError: If it cannot be read.
    """
    _refuse_special(path)
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    if CHECKSUM_KEY in metadata and _compute_checksum(tensors, metadata) != metadata[CHECKSUM_KEY]:
        raise SafetensorError("its content does not have the checksum that was written with it")
    return tensors


def read_inner_record(path: Path) -> Checkpoint | None:
    """Read the record inside a weights file, which also checks the size of the file; None: it has no record.

    Raises:
        SafetensorError: If the file is damaged or empty.
        OSError: If it cannot be read.
        ValueError: If the record is damaged.
    """
    _refuse_special(path)
    with safe_open(path, framework="pt") as opened:
        text = (opened.metadata() or {}).get(RECORD_KEY)
    return None if text is None else Checkpoint.model_validate_json(text)


def _refuse_special(path: Path) -> None:
    """Refuse a FIFO, which would be waited for; raises OSError."""
    if kind := describe_special(path):
        raise OSError(f"it is {kind}, expected a regular file")


def is_same_training(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two records are of one fold, one model and the same cases."""
    return all(getattr(first, name) == getattr(second, name) for name in IDENTITY)


def _compute_checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and values of tensors on the CPU, and of the texts beside them."""
    digest = hashlib.sha256()
    for key in sorted(texts.keys() - {CHECKSUM_KEY}):
        digest.update(f"{key}={texts[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
