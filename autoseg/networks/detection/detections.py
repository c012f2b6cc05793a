"""What a network that finds objects one by one gives for a sample.

`MaskRCNN.detect(image)` takes (B, C, *S) and gives a list of `Detections`, one for each sample of the batch.

Tested in tests/records/test_detection.py.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """The objects of one sample, best score first; N of them, in D axes."""

    boxes: Tensor
    """(N, 2 * D), float32, voxels of the patch, within it: the start along each axis, then the stop along each axis.
    Voxel v covers v to v + 1, so a box around the voxels 3 to 5 has the start 3 and the stop 6."""
    scores: Tensor
    """(N,), float32, probability of the label, [0, 1]."""
    labels: Tensor
    """(N,), int64, label indices, 1 or more."""
    masks: Tensor
    """(N, *mask_size), float32: probability that a voxel of the box belongs to the object, [0, 1]; the box is divided
    into equal bins along each axis."""
