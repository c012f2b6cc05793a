"""What a planned network needs: nnU-Net's feature-map proxy, parameters, and bytes of a training step.

Called by the planners (patch and batch follow from the proxy) and shown to the user. Analytic: nothing is built.

Example: a plain U-Net of six levels (32 to 320 feature maps, stride 2, three label entries) on a patch of
128 x 128 x 128 has 452,796,416 feature-map elements, nnU-Net's published reference for 8 GB at batch 2.
"""

from collections.abc import Sequence

from autoseg.records.plan import Estimates, NetworkSpec
from planners.compute import Convolution, forward_macs, list_convolutions

FLOAT_BYTES = 4
HALF_BYTES = 2

OPTIMIZER_STATES = {"sgd": 1, "adamw": 2}
"""Float32 values that the optimiser keeps per parameter: momentum; first and second moment."""

HEAD_COPIES = 4
"""Float32 tensors of the logits' size alive in the loss: logits, log-softmax, probabilities, one-hot target."""

BACKWARD_TENSORS = 3
"""Full-size gradients alive at the peak of the backward pass: of a concatenation (two) and of a convolution (one)."""


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

    Every convolution and transposed convolution counts, and the full-resolution segmentation head; deeper heads,
    normalisation and activations do not.

    Args:
        network: Plain U-Net.
        patch_size: (z, y, x) or (y, x), voxels, divisible by the total stride.
        output_channels: Channels of the head for this count; nnU-Net takes the number of entries in `labels`,
            background and ignore label included, whatever the real number of heads.

    References:
        nnU-Net v2 (Isensee et al., Nature Methods 2021), planning of the default U-Net.
    """
    convolutions = list_convolutions(network, patch_size)
    features = sum(convolution.output_elements for convolution in convolutions if convolution.kind != "head")
    return features + output_channels * convolutions[0].output_voxels


def count_parameters(network: NetworkSpec) -> int:
    """Trainable numbers: weights and biases of all convolutions, heads included, and of the affine instance norms."""
    smallest_patch = [1] * network.dimensions
    for stride in network.strides:
        smallest_patch = [edge * step for edge, step in zip(smallest_patch, stride, strict=True)]
    return sum(_parameters(convolution) for convolution in list_convolutions(network, smallest_patch))


def _parameters(convolution: Convolution) -> int:
    weights = convolution.inputs * convolution.outputs * convolution.kernel_voxels
    norm = 2 * convolution.outputs if convolution.kind == "block" else 0
    return weights + convolution.outputs + norm


def count_saved_elements(network: NetworkSpec, patch_size: Sequence[int]) -> int:
    """Elements that the forward pass keeps for the backward pass, batch 1, loss excluded.

    The input; per convolution block its output (kept by the norm) and the activation (in place on the norm's
    output); per decoder level the concatenation of skip and transposed convolution, which copies both.
    """
    convolutions = list_convolutions(network, patch_size)
    kept = network.input_channels * convolutions[0].output_voxels
    for convolution in convolutions:
        if convolution.kind != "head":  # two tensors of a block; an `up` and its skip, copied into one
            kept += 2 * convolution.output_elements
    return kept


def estimate_training_memory_bytes(
    network: NetworkSpec, patch_size: Sequence[int], batch_size: int, *, mixed_precision: bool, optimizer: str
) -> int:
    """Peak memory of one training step, estimated.

    Kept activations, the largest gradients of the backward pass, the loss, and per parameter weight, gradient and
    optimiser state. Not counted: the device's context, the workspace of the convolution library, the loader.

    Args:
        network: Plain U-Net.
        patch_size: (z, y, x) or (y, x), voxels.
        batch_size: Patches per step.
        mixed_precision: Activations in 16 bits, and a 16-bit copy of the weights.
        optimizer: `sgd` or `adamw`.
    """
    convolutions = list_convolutions(network, patch_size)
    gradients = BACKWARD_TENSORS * max(c.output_elements for c in convolutions if c.kind != "head")
    logits = sum(c.output_elements for c in convolutions if c.kind == "head")
    activation_bytes = HALF_BYTES if mixed_precision else FLOAT_BYTES
    per_sample = (count_saved_elements(network, patch_size) + gradients) * activation_bytes
    per_sample += HEAD_COPIES * logits * FLOAT_BYTES
    per_parameter = (2 + OPTIMIZER_STATES[optimizer]) * FLOAT_BYTES + (HALF_BYTES if mixed_precision else 0)
    return batch_size * per_sample + per_parameter * count_parameters(network)
