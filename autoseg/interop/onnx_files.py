"""Export of a network to an ONNX file, which ONNX Runtime compares with the original.

References:
    Open Neural Network Exchange, https://onnx.ai; written by torch's own exporter.
"""

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.errors import InteropError, UsageError
from autoseg.records.files import replacing
from autoseg.records.onnx_network import ParityCheck

INPUT: Final = "image"
OUTPUT: Final = "logits"
BATCH: Final = "batch"

PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")

PARITY_BATCHES: Final = (1, 2)
"""Patches per pass of the comparison: two show that samples do not mix, one that the batch size is free."""

PARITY_TOLERANCE: Final = 1e-4
"""Tolerance relative to the largest logit, or absolute where all are below 1: two orders of magnitude above the effect
of another order of float32 sums (4e-6 measured), and far below what could change a decision that is not a tie."""

PARITY_SEED: Final = 0

NO_METADATA: Final[Mapping[str, str]] = {}


def check_packages() -> None:
    """Check early that the packages are installed.

    Raises:
        UsageError: If a package of the extra `onnx` is not installed.
    """
    for name in PACKAGES:
        _import(name)


def write_onnx(
    network: nn.Module, input_shape: Sequence[int], path: Path, metadata: Mapping[str, str] = NO_METADATA
) -> tuple[int, ParityCheck]:
    """Write a network for patches of one size and batches of any size, and compare it with the original.

    Args:
        network: Network in evaluation mode, on the CPU, with one input and one output tensor.
        input_shape: Shape of the patches, (C, *S).
        path: Output file, written atomically. It contains no stack traces, in which torch names its source files.
        metadata: Entries of the file's `metadata_props`, which ONNX Runtime shows.

    Returns:
        Opset of the file, and the comparison.

    Raises:
        UsageError: If a package of the extra `onnx` is not installed.
        InteropError: If the network cannot be expressed, or its logits differ by more than the tolerance; no file
            remains.
    """
    check_packages()
    plain = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # see model_loading
    with replacing(path) as temporary:
        opset = _export(plain, input_shape, temporary, path.name, metadata)
        parity = _compare(plain, input_shape, temporary, path.name)
        if not parity.largest_difference <= parity.tolerance:  # also for NaN
            raise InteropError(
                f"{path.name}: logits of ONNX Runtime differ by up to {parity.largest_difference:.3g} from the "
                f"network's own (tolerance {parity.tolerance:.3g}), so the file is not kept. Try another version of "
                f"onnxruntime ({parity.onnxruntime_version} is installed), and report this error."
            )
    return opset, parity


def _export(network: nn.Module, input_shape: Sequence[int], path: Path, name: str, metadata: Mapping[str, str]) -> int:
    """Write the file and return its opset. `name` is for messages, the path is temporary."""
    example = torch.zeros(2, *input_shape)  # a batch of one would be taken for a constant
    try:
        with _quiet():
            program = torch.onnx.export(
                network, (example,), input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False,
                dynamic_shapes=({0: torch.export.Dim(BATCH)},), external_data=False,
            )  # fmt: skip
            if program is None:
                raise InteropError(f"{name}: torch returned no program")
            _import("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(program.model)
            program.model.metadata_props.update(metadata)
            program.save(path, external_data=False)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        raise InteropError(f"{name}: torch cannot express this network in ONNX: {error}") from error
    return int(program.model.opset_imports[""])


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings about its own internals and about packages that autoseg does not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.inference_mode()
def _compare(network: nn.Module, input_shape: Sequence[int], path: Path, name: str) -> ParityCheck:
    runtime = _import("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (described,) = session.get_inputs()
    if list(described.shape) != [BATCH, *input_shape]:
        raise InteropError(
            f"{name}: the input has the shape {described.shape}, expected {[BATCH, *input_shape]}: the network depends "
            "on the number of patches. Report this error."
        )
    generator = torch.Generator().manual_seed(PARITY_SEED)
    difference, largest = 0.0, 0.0
    for batch in PARITY_BATCHES:
        patches = torch.randn(batch, *input_shape, generator=generator)
        expected: Tensor = network(patches)
        (found,) = session.run([OUTPUT], {INPUT: patches.numpy()})
        # numpy's maximum keeps NaN, Python's does not
        difference = float(np.maximum(difference, np.abs(found - expected.numpy()).max()))
        largest = max(largest, float(expected.abs().max()))
    return ParityCheck(
        onnxruntime_version=runtime.__version__,
        batch_sizes=PARITY_BATCHES,
        seed=PARITY_SEED,
        largest_difference=difference,
        largest_logit=largest,
        tolerance=PARITY_TOLERANCE * max(1.0, largest),
    )


def _import(module: str) -> Any:  # noqa: ANN401 (the packages need not be installed)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--format onnx needs a package that is not installed ({error}); pip install onnx onnxruntime onnxscript"
        ) from error
