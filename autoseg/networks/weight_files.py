"""Weights in safetensors files, which cannot hold code.

Tested in tests/training/folds/test_checkpointing.py.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from autoseg.records.files import replacing


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
