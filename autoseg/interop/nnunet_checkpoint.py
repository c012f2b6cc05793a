"""nnU-Net's checkpoints, read without running code from them.

A `.pth` file is a pickle, and unpickling may call anything that the file names. Only names that nnU-Net's own trainers
write are accepted: tensors, numbers, strings, containers, torch devices, and numpy's scalars and arrays (logged Dice).
A file that names anything else is refused before any object is built from it.

A checkpoint names its trainer; `describe_trainer` tells whether that can change more than weights and mirroring.
"""

import math
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from autoseg.errors import InteropError

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that data-parallel and compiled networks add to the names of their parameters."""

MAX_EPOCHS = 10**9

DAMAGES = (
    RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError,
    OverflowError, AssertionError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""What torch and pickle raise for files that are damaged, or were made to look like checkpoints."""

_STOCK = re.compile(
    r"nnUNetTrainer(_?("
    r"\d+epochs?|\d+ep|NoMirroring|onlyMirror01|DA5|DA5ord0|DA5Segord0|DASegOrd0|NoDA|noDummy2DDA|warmup"
    r"|CELoss|DiceLoss|Topk10Loss|Topk10LossLS01|DiceCELoss_noSmooth|DiceTopK10Loss|CosAnneal"
    r"|(Vanilla)?Adam(1en3|3en4)?|Adan(1en1|1en3|3en4)?|BN|NoDeepSupervision|probabilisticOversampling(_\d+)?"
    r"|Benchmark|noDataLoading))*"
)
"""Names of the trainers of nnU-Net up to 2.8.1 that build its own networks: they change training alone, except BN,
which the weights show."""


@dataclass(frozen=True)
class NnunetCheckpoint:
    """Weights and the facts about prediction and training that autoseg keeps."""

    weights: dict[str, Tensor]
    """Weights with nnU-Net's names, without prefixes, on the CPU; they may share the file's memory."""
    configuration: str
    trainer: str
    fold: str
    mirror_axes: tuple[int, ...]
    """Spatial axes of the patch that are mirrored; empty when the checkpoint has no entry, as in nnU-Net."""
    epochs: int
    """Completed epochs."""
    seconds: float
    """Sum over the logged epochs; 0 without any."""
    best_dice: float | None
    """Largest moving average of the pseudo Dice; None when it was not recorded."""


def read_checkpoint(path: Path) -> NnunetCheckpoint:
    """Read a `checkpoint_*.pth`.

    Args:
        path: File written by an nnU-Net v2 trainer.

    Raises:
        InteropError: If the file is damaged, names a class or function that no nnU-Net checkpoint contains (the
            message names it, and it is not called), lacks an entry of nnU-Net's checkpoints, or has weights that are
            not plain tensors of finite floating-point numbers.
    """
    content = unpickle(path)
    try:
        arguments = content["init_args"]
        best = content.get("_best_ema")
        checkpoint = NnunetCheckpoint(
            weights={without_prefixes(name): tensor for name, tensor in content["network_weights"].items()},
            configuration=str(arguments["configuration"]),
            trainer=str(content["trainer_name"]),
            fold=str(arguments["fold"]),
            mirror_axes=tuple(sorted(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ())),
            epochs=_count_epochs(content["current_epoch"]),
            seconds=_training_seconds(content.get("logging") or {}),
            best_dice=float(best) if best is not None and math.isfinite(best) else None,
        )
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InteropError(
            f"{path}: not a checkpoint of nnU-Net v2: {type(error).__name__} {error}; it contains "
            f"{', '.join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__}"
        ) from error
    for name, tensor in checkpoint.weights.items():
        if fault := find_fault(tensor):
            raise InteropError(
                f"{path}: the weights {name} {fault}, expected a plain tensor of finite floating-point numbers. Copy "
                "or download the model again, or import it without this fold."
            )
    return checkpoint


def find_fault(tensor: object) -> str:
    """Why weights are refused; empty when they are accepted."""
    if not isinstance(tensor, Tensor):
        return f"are no tensor but {type(tensor).__name__}"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return f"are sparse, quantised or nested ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_meta:
        return "have a shape, but no values (a meta tensor)"
    if tensor.untyped_storage().nbytes() < tensor.nbytes:
        return f"have the shape {tuple(tensor.shape)}, but fewer values"
    if not tensor.is_floating_point():
        # the counter of batch normalisation, a single number, is whole
        return "" if tensor.dim() == 0 and not tensor.is_complex() else f"are of the type {_name_type(tensor)}"
    return "" if bool(torch.isfinite(tensor.float()).all()) else "have values that are not finite (NaN or infinite)"


def _name_type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def unpickle(path: Path) -> Any:  # noqa: ANN401 (what a pickle holds)
    """What a torch checkpoint holds, if it names nothing but what nnU-Net's checkpoints contain.

    Raises:
        InteropError: If the file is damaged, or names a class or function that no nnU-Net checkpoint contains.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise InteropError(f"{path}: not a torch checkpoint, or it is truncated. Copy or download it again.")
        _refuse_packed(path)
        with safe_globals([*_numpy_names()]):
            named = sorted(get_unsafe_globals_in_checkpoint(path))
            if named:
                raise InteropError(
                    f"{path}: refused, because it names {', '.join(named)}, which no nnU-Net checkpoint contains and "
                    "which could run arbitrary code when it is loaded. Only if you trust its author: load it with "
                    "torch yourself, keep network_weights, init_args, trainer_name, current_epoch and "
                    "inference_allowed_mirroring_axes, and save it again."
                )
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except DAMAGES as error:
        reason = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise InteropError(f"{path}: cannot be read as a checkpoint ({reason}). Copy or download it again.") from error


def _refuse_packed(path: Path) -> None:
    """Torch stores tensors as they are; what is packed may become gigabytes in memory before it is looked at."""
    with zipfile.ZipFile(path) as opened:
        unpacked = sum(member.file_size for member in opened.infolist())
    if unpacked > path.stat().st_size:
        raise InteropError(
            f"{path}: refused, because its {path.stat().st_size} bytes would become {unpacked} in memory, and torch "
            "does not pack checkpoints. Ask its author for the file that nnU-Net wrote."
        )


def _numpy_names() -> Iterator[Any]:
    """Names that numpy writes into pickles: scalars, arrays and their types; the module was `numpy.core` in numpy 1."""
    multiarray = np._core.multiarray  # type: ignore[attr-defined]  # numpy pickles by this private name
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):
        yield multiarray.scalar, f"{module}.scalar"
        yield multiarray._reconstruct, f"{module}._reconstruct"
    yield from (np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"))


def _count_epochs(value: float) -> int:
    epochs = int(value)
    if not 0 <= epochs <= MAX_EPOCHS:
        raise ValueError(f"current_epoch is {epochs}, expected 0 to {MAX_EPOCHS}")
    return epochs


def _training_seconds(logging: Mapping[str, Any]) -> float:
    starts, ends = logging.get("epoch_start_timestamps") or (), logging.get("epoch_end_timestamps") or ()
    return float(sum(end - start for start, end in zip(starts, ends, strict=False)))


def without_prefixes(name: str) -> str:
    """Name of a parameter without what data-parallel and compiled networks put before it."""
    while found := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(found)
    return name


@dataclass(frozen=True)
class TrainerNote:
    """Sentence and warning about a trainer."""

    sentence: str
    warning: str
    """Warning; empty when its predictions are known to be those of nnU-Net's default trainer with its weights."""


def describe_trainer(name: str) -> TrainerNote:
    """Describe whether a trainer is part of nnU-Net.

    Examples:
        >>> describe_trainer("nnUNetTrainer_250epochs_NoMirroring").warning
        ''
        >>> describe_trainer("MyTrainer").sentence
        'MyTrainer does not come with nnU-Net.'
    """
    if _STOCK.fullmatch(name):
        return TrainerNote(f"{name} comes with nnU-Net and predicts as its default trainer does.", "")
    return TrainerNote(
        f"{name} does not come with nnU-Net.",
        f"trained by {name}, which does not come with nnU-Net. Its weights fit the network in plans.json; if it "
        "changes the forward pass or the prediction in other ways, label maps will differ: compare a few with its own.",
    )
