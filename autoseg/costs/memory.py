"""What a planned network needs: nnU-Net's feature-map proxy, parameters, and bytes of a training step.

Called by the planners (patch and batch follow from the proxy) and shown to the user. Analytic: nothing is built.

Example: a plain U-Net of six levels (32 to 320 feature maps, stride 2, three label entries) on a patch of
128 x 128 x 128 has 452,796,416 feature-map elements, nnU-Net's published reference for 8 GB at batch 2.
"""

import math
from collections.abc import Sequence

from autoseg.costs.architectures import forward_macs, list_operations
from autoseg.costs.operations import WITH_WEIGHTS
from autoseg.records.network import NetworkSpec
from autoseg.records.plan import Estimates

FLOAT_BYTES = 4
HALF_BYTES = 2
DEVICES_OF_16_BITS = frozenset({"cuda", "xpu"})
"""Types of devices on which a training keeps activations in 16 bits unless the user says otherwise."""

LOGITS = frozenset({"head", "logits"})
"""Operations whose outputs the loss sees, or that are interpolated for it."""

POSITION_BYTES = 8
WITH_POSITIONS = frozenset({"max_pool", "sample"})
"""Max-pooling keeps where each maximum was, sampling where it looked."""

OPTIMIZER_STATES = {"sgd": 1, "adamw": 2}
"""Float32 values that the optimiser keeps per parameter: momentum; first and second moment."""

LOSS_BYTES = 13
"""Bytes per logit of any level until its backward pass: logit, log-probability, probability in 32 bits, target in 8."""

LOSS_GRADIENTS = 3
"""Float32 gradients of the finest logits' size alive at once: by probability, by log-probability, and their sum."""

BACKWARD_TENSORS = 2
"""Tensors of the largest output's size alive in the backward pass beside what is kept: gradients of one operation's
output and input, or one of them and a copy in the memory layout that the convolution wants."""


GPU_MARGIN_BYTES = 2_400_000_000
"""What a GPU needs beside the estimate of a training step: context and code of the device, workspace of the
convolution library, holes of the allocator. It is the difference between this estimate and the memory that nnU-Net
publishes for its presets (see `estimate_gpu_bytes`); not measured by this project."""


def estimate_costs(
    network: NetworkSpec,
    patch_size: Sequence[int],
    batch_size: int,
    *,
    num_labels: int,
    mixed_precision: bool,
    optimizer: str,
) -> Estimates:
    """All that a plan says about the cost of a network; arguments as in the functions below."""
    return Estimates(
        feature_map_elements=count_feature_map_elements(network, patch_size, output_channels=num_labels),
        parameters=count_parameters(network),
        macs=forward_macs(network, patch_size),
        training_memory_bytes=estimate_training_memory_bytes(
            network, patch_size, batch_size, mixed_precision=mixed_precision, optimizer=optimizer
        ),
    )


def count_feature_map_elements(network: NetworkSpec, patch_size: Sequence[int], *, output_channels: int) -> int:
    """nnU-Net's stand-in for training memory: elements of all convolution outputs, batch 1.

    Every convolution, transposed convolution and linear layer counts, each shortcut of a residual block that is more
    than the identity once, and the largest segmentation head; other heads, normalisation and activations do not. Of a
    network of another package everything counts that it keeps for the backward pass.

    Args:
        network: Any architecture.
        patch_size: (z, y, x) or (y, x), voxels, divisible by the total stride.
        output_channels: Channels of the head for this count; nnU-Net takes the number of entries in `labels`,
            background and ignore label included, whatever the real number of heads.

    References:
        nnU-Net v2 (Isensee et al., Nature Methods 2021), planning of the plain and of the residual-encoder U-Net, as
        published. Ours for other networks.
    """
    counted = (WITH_WEIGHTS | {"shortcut", "measured"}) - {"head"}
    operations = list_operations(network, patch_size)
    features = sum(operation.elements for operation in operations if operation.kind in counted)
    return features + output_channels * max(operation.voxels for operation in operations if operation.kind in LOGITS)


def count_finest_features(network: NetworkSpec, patch_size: Sequence[int]) -> int:
    """Feature maps at full resolution; of a network of another package what its largest tensor amounts to.

    Args:
        network: Any architecture.
        patch_size: (z, y, x) or (y, x), voxels.
    """
    counted = [
        each.elements for each in list_operations(network, patch_size) if each.kind == "measured" and not each.kept
    ]
    return max([network.features[0], *(math.ceil(elements / math.prod(patch_size)) for elements in counted)])


def count_parameters(network: NetworkSpec) -> int:
    """Trainable numbers: weights and biases of convolutions, linear layers and heads, scales and shifts of norms."""
    smallest_patch = [math.prod(steps) for steps in zip(*network.strides, strict=True)]
    return sum(operation.parameters for operation in list_operations(network, smallest_patch))


def count_saved_elements(network: NetworkSpec, patch_size: Sequence[int]) -> int:
    """Elements that the forward pass keeps for the backward pass, batch 1, loss excluded.

    The input; a convolution's output (kept by the norm) and the activation (in place on the norm's output); sums and
    concatenations, which copy. Not counted: whole-number positions kept by max-pooling and sampling, a norm's
    means and variances.
    """
    operations = list_operations(network, patch_size)
    kept = sum(operation.elements for operation in operations if operation.kept)
    return network.input_channels * math.prod(patch_size) + kept


def estimate_training_memory_bytes(
    network: NetworkSpec, patch_size: Sequence[int], batch_size: int, *, mixed_precision: bool, optimizer: str
) -> int:
    """Peak memory of one training step, estimated.

    The larger of two moments. When the backward pass begins: kept activations, the loss, the largest gradients, weights
    and optimiser states; gradients of weights come into being only as activations go. At the update: weights, their
    gradients, states. Not counted: the device's context, the workspace of the convolution library, what an allocator
    loses to holes, an average of the weights, the loader.

    Args:
        network: Any architecture.
        patch_size: (z, y, x) or (y, x), voxels.
        batch_size: Patches per step.
        mixed_precision: Activations in 16 bits, and a 16-bit copy of the weights.
        optimizer: `sgd` or `adamw`.

    Predicted against measured, CPU, float32, sgd, MiB: growth of resident memory up to the peak of the second training
    step, every tensor mapped by itself. The constants were set on plans of this size; larger ones, 16 bits and GPUs
    are not measured. The C library's ordinary heap leaves holes: with it growth was 1.15 to 1.85 times as large.

        architecture   patch, batch         features          classes   predicted   measured   ratio
        unet           192 x 160, 6         32 to 256               3         519        532    0.98
        unet           256 x 256, 8         16 to 256               2         774        781    0.99
        unet           32 x 64 x 56, 2      16 to 128               3         262        273    0.96
        unet           16 x 96 x 80, 2      32 to 256               3         663        674    0.98
        unet           32 x 64 x 56, 2      16 to 128              20         317        322    0.98
        residual_unet  192 x 160, 6         32 to 256               3         781        794    0.98
        residual_unet  32 x 64 x 56, 2      16 to 128               3         342        354    0.96
        residual_unet  16 x 96 x 80, 2      32 to 256               3         992       1004    0.99
        residual_unet  192 x 160, 2         16 to 128             100         290        289    1.00
        residual_unet  64 x 48, 2           32 to 512               3         432        455    0.95
        unext          256 x 256, 8         16 to 256               2         391        396    0.99
        unext          256 x 224, 8         16 to 256, skip         3         390        373    1.05
        unext          256 x 256, 4         16 to 256              30         378        364    1.04
        unext          48 x 96 x 80, 2      16 to 256, skip         3         412        414    1.00
        unext          64 x 64 x 48, 2      16 to 256               3         270        273    0.99
    """
    parameters = count_parameters(network)
    activations = batch_size * _sample_bytes(network, patch_size, mixed_precision=mixed_precision)
    weights_and_states = (1 + OPTIMIZER_STATES[optimizer]) * FLOAT_BYTES * parameters
    copies = HALF_BYTES * parameters if mixed_precision else 0
    return max(activations + weights_and_states + copies, weights_and_states + FLOAT_BYTES * parameters)


def estimate_gpu_bytes(training_memory_bytes: int) -> int:
    """Memory that a training takes of a GPU, as its driver shows it, from the estimate of its step in 16 bits.

    Published by nnU-Net for its presets (documentation of the residual encoder presets, an A100), against a data set of
    200 abdominal CT volumes of 237 x 582 x 582 voxels, 2 x 0.68 x 0.68 mm, 3d_fullres, batch 2, 16 bits, GB. Which
    data set nnU-Net's figures are from is not said.

        planner     patch              estimate   with margin   published   ratio
        unet        64 x 192 x 160          5.6           8.0         7.7    1.04
        resenc-m    64 x 160 x 160          6.7           9.1         9.1    1.00
        resenc-l    96 x 256 x 224         20.1          22.5        22.7    0.99
        resenc-xl   128 x 256 x 256        30.5          32.9        36.6    0.90
    """
    return training_memory_bytes + GPU_MARGIN_BYTES


def _sample_bytes(network: NetworkSpec, patch_size: Sequence[int], *, mixed_precision: bool) -> int:
    """What one sample of the batch occupies when the backward pass begins."""
    operations = list_operations(network, patch_size)
    logits = [operation.elements for operation in operations if operation.kind in LOGITS]
    largest = max(operation.elements for operation in operations if operation.kind not in LOGITS)
    positions = sum(operation.elements for operation in operations if operation.kind in WITH_POSITIONS)
    activation_bytes = HALF_BYTES if mixed_precision else FLOAT_BYTES
    kept = count_saved_elements(network, patch_size) * activation_bytes + positions * POSITION_BYTES
    gradients = max(BACKWARD_TENSORS * largest * activation_bytes, LOSS_GRADIENTS * max(logits) * FLOAT_BYTES)
    return kept + LOSS_BYTES * sum(logits) + gradients
