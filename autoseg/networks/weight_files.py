"""Weights in safetensors files, which cannot hold code; the record of their training travels in the same file.

Tested in tests/training/folds/test_checkpointing.py.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import replacing

RECORD_KEY = "checkpoint"
"""Key of the record in the metadata of a weights file."""

IDENTITY = ("configuration", "fold", "model_hash", "cases_hash", "data_hash")
"""Fields that tell which training weights belong to."""


def write_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, atomically, with the access rights of any new file; safetensors alone gives them to the owner.

    Args:
        weights: Tensors by name, on any device.
        path: Output file; its folder is created when missing.
        metadata: Texts stored in the header of the file.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, metadata=None if metadata is None else dict(metadata))
        temporary.chmod(mode)


def read_inner_record(path: Path) -> Checkpoint | None:
    """Read the record inside a weights file, which also checks that the file is complete; None: it has no record.

    Raises:
        SafetensorError: If the file is damaged or empty.
        OSError: If it cannot be read.
        ValueError: If the record is damaged.
    """
    with safe_open(path, framework="pt") as opened:
        text = (opened.metadata() or {}).get(RECORD_KEY)
    return None if text is None else Checkpoint.model_validate_json(text)


def is_same_training(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two records are of one fold, one model and the same cases."""
    return all(getattr(first, name) == getattr(second, name) for name in IDENTITY)
